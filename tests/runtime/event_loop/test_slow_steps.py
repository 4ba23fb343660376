"""Steps of the event loop that take long: counted, and named in the log."""

import asyncio
import signal
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from proxy.gate.reporting import current_request
from proxy.runtime.event_loop import slow_steps
from proxy.runtime.event_loop.slow_steps import LIMIT_SECONDS, LOG_SECONDS, SlowSteps
from tests.support.loops import both_loops
from tests.support.wait import until


class Clock:
    """A clock that the test sets."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watched(clock: Clock) -> Iterator["Watched"]:
    """Make a watch on the running loop."""
    made = Watched(clock)
    yield made
    made.watch.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Put the watch under a clock of the test's, and keep the kernel's timer out."""
    clock = Clock()
    monkeypatch.setattr(slow_steps, "monotonic", clock)
    monkeypatch.setattr(signal, "setitimer", lambda *args: None)
    before = signal.getsignal(signal.SIGALRM)
    yield clock
    signal.signal(signal.SIGALRM, before)


class Watched:
    """A watch whose loop callback and timer the test drives."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.watch: SlowSteps

    def start(self) -> None:
        """Begin, on the running loop."""
        self.watch = SlowSteps(asyncio.get_running_loop())
        self.watch.start()

    def tick(self, after: float = 0.0) -> None:
        """Let the loop's callback run, so much later."""
        self.clock.now += after
        self.watch._tick()

    def sample(self, after: float) -> None:
        """Let the timer fire, so much later."""
        self.clock.now += after
        self.watch._sample(signal.SIGALRM, sys._getframe())


async def test_steps_of_usual_length_are_not_counted(watched: "Watched") -> None:
    """The timer is set again before it fires, or the step ends soon after it did."""
    watched.start()
    with capture_logs() as logs:
        for _ in range(100):
            watched.tick(0.005)
        watched.sample(0.006)
        watched.tick(0.01)
    assert watched.watch.count == 0
    assert not logs


async def test_a_slow_step_is_counted_and_named(watched: "Watched") -> None:
    """With the request that it belongs to, the task and the function, and no argument."""
    watched.start()
    current_request.set(("R1", "/api/add_task"))
    with capture_logs() as logs:
        watched.sample(0.006)
        for _ in range(12):
            watched.sample(0.002)
        watched.tick(0.001)
    assert watched.watch.count == 1
    [line] = logs
    assert line["event"] == "slow step"
    assert (line["ref"], line["path"]) == ("R1", "/api/add_task")
    assert line["milliseconds"] == 25
    assert line["at"].startswith("tests/runtime/event_loop/test_slow_steps.py:")


async def test_a_step_in_c_is_seen_when_it_is_done(watched: "Watched") -> None:
    """The signal waits for the next instruction of Python: all that time was the step's own."""
    watched.start()
    with capture_logs() as logs:
        watched.sample(0.3)
        watched.tick()
    assert watched.watch.count == 1
    assert logs[0]["milliseconds"] == 294


async def test_many_short_steps_are_not_a_slow_one(watched: "Watched") -> None:
    """A busy loop runs the steps of many tasks between two callbacks."""
    watched.start()

    async def short() -> None:
        watched.sample(0.004)

    with capture_logs() as logs:
        for _ in range(50):
            await asyncio.create_task(short())
        watched.tick()
    assert watched.watch.count == 0
    assert not logs


async def test_lines_of_the_log_are_rate_limited_and_the_count_is_not(watched: "Watched") -> None:
    """One line in a while says how many had none."""
    watched.start()
    with capture_logs() as logs:
        for _ in range(30):
            watched.sample(2 * LIMIT_SECONDS)
            watched.tick()
        assert len(logs) == 1
        watched.sample(LOG_SECONDS)
        watched.tick()
    assert watched.watch.count == 31
    assert [line["others"] for line in logs] == [0, 29]


@both_loops
async def test_the_timer_fires_in_the_middle_of_a_step() -> None:
    """On the real clock, whatever its speed: a step that runs until it was sampled as slow."""
    watch = SlowSteps(asyncio.get_running_loop())
    watch.start()
    await asyncio.sleep(0)
    with capture_logs() as logs:
        while watch._step is None or watch._due - watch._begun < 2 * LIMIT_SECONDS:
            pass
        await until(lambda: bool(logs))
    assert watch.count >= 1
    assert "test_the_timer_fires" in logs[0]["at"]
    watch.stop()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
