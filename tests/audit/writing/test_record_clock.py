from proxy.audit.writing.record_clock import RecordClock

SECOND = 1_000_000


def test_times_never_decrease_and_a_step_back_is_reported_once() -> None:
    """The clock repeats its last time until the wall clock is ahead of it again."""
    wall = iter([10, 12, 7, 8, 13, 12.5, 5])
    steps: list[tuple[int, int]] = []
    clock = RecordClock(
        lambda: int(next(wall) * SECOND) * 1000,
        11 * SECOND,
        lambda at, behind: steps.append((at, behind)),
    )
    assert [clock.now() / SECOND for _ in range(7)] == [11, 12, 12, 12, 13, 13, 13]
    assert steps == [(12 * SECOND, 5 * SECOND), (13 * SECOND, 8 * SECOND)]
