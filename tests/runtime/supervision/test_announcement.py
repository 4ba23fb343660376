import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Problem
from proxy.runtime.supervision.announcement import (
    MAX_BYTES,
    Announcement,
    LogSettings,
    Report,
    failure,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=2000)
PROBLEMS = st.lists(st.builds(Problem, TEXTS, TEXTS, TEXTS), max_size=60)


def test_what_is_announced_is_what_is_read() -> None:
    """Every member, of a process that serves and of one that cannot."""
    report = Report(unapplied=(Problem("listeners", "has another port", "Restart it."),))
    serving = Announcement(
        shutdown_timeout=28.0,
        report=report,
        log=LogSettings("info", "console"),
        metrics="127.0.0.1 port 9464",
        metrics_bound=False,
    )
    assert Announcement.decode(serving.encode()) == serving
    failed = failure([Problem("a.cedar:3", "there is no such action", "Name one.")])
    assert Announcement.decode(failed.encode()) == failed
    assert (serving.serves, failed.serves) == (True, False)
    assert not failure([]).serves


@given(PROBLEMS, PROBLEMS)
def test_every_announcement_and_report_is_bounded(
    problems: list[Problem], unapplied: list[Problem]
) -> None:
    """However many problems there are and however long: one line that a pipe holds, a report that
    the status file holds, and the number of those left out.
    """
    report = Report(tuple(problems), tuple(unapplied), omitted=3)
    line = Announcement(report=report).encode()
    assert len(line) <= MAX_BYTES and line.count(b"\n") == 1
    for found in (Announcement.decode(line).report, Report.decode(report.encode())):
        kept = len(found.problems) + len(found.unapplied)
        assert kept + found.omitted == len(problems) + len(unapplied) + 3
    assert len(report.encode()) <= MAX_BYTES


def test_the_first_problems_are_kept() -> None:
    """Long texts are cut, so that a few long ones do not take the room of all."""
    problems = tuple(Problem(f"file:{n}", "x" * 100_000, "Do it.") for n in range(100))
    found = Report.decode(Report(problems).encode())
    assert [problem.location for problem in found.problems[:3]] == ["file:0", "file:1", "file:2"]
    assert len(found.problems) > 10
    assert all(len(problem.message) == 1000 for problem in found.problems)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"[]", b"{}", b'{"serves":true}', b"28.0", b'{"problems":[{}]}', b"\xff"]
)
def test_what_is_no_announcement_is_refused(data: bytes) -> None:
    """One error, whatever the bytes: a process may die while it writes."""
    with pytest.raises(ValueError):
        Announcement.decode(data)
    with pytest.raises(ValueError):
        Report.decode(data)
