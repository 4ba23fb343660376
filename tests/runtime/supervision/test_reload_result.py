import os

import pytest
from structlog.testing import capture_logs

from proxy.errors import Problem
from proxy.runtime.supervision.announcement import Announcement, Report, failure
from proxy.runtime.supervision.reload_result import joined_report, log_problems, report_of
from proxy.runtime.supervision.worker_process import WorkerProcess

WRONG = Problem("a.cedar:3", "there is no such action", "Name one.")
PORT = "127.0.0.1 port 9464"


def process(announcement: Announcement | None = None, *, overdue: bool = False) -> WorkerProcess:
    """Return a process that has announced this."""
    return WorkerProcess(os.getpid(), -1, 2, 0.0, -1, 1.0, announcement, overdue)


def test_a_process_that_says_why_is_believed() -> None:
    """The reasons are its own problems."""
    assert report_of(process(failure([WRONG])), 2) == Report((WRONG,))


@pytest.mark.parametrize(
    ("code", "overdue", "said"),
    [
        (7, False, "exit code 7"),
        (-9, False, "killed by signal 9"),
        (-9, True, "not ready within 60 seconds"),
        (-35, False, "killed by signal 35"),
    ],
)
def test_of_a_process_that_says_nothing_its_end_is_told(
    code: int, overdue: bool, said: str
) -> None:
    """There is always one reason at least, with a hint."""
    [problem] = report_of(process(overdue=overdue), code).problems
    assert said in problem.message and problem.location == "slot 2" and problem.hint


def test_what_is_not_in_force_is_told_once() -> None:
    """All processes of a generation have the same settings."""
    unapplied = Announcement(report=Report(unapplied=(WRONG,)))
    assert joined_report([], [process(unapplied), process(unapplied), process()]) == Report(
        (), (WRONG,)
    )


def test_metrics_without_a_port_are_told_unless_the_predecessor_has_it() -> None:
    """A process that is about to leave frees it; another program does not."""
    waiting = process(Announcement(metrics=PORT, metrics_bound=False))
    assert joined_report([process(Announcement(metrics=PORT))], [waiting]).unapplied == ()
    [problem] = joined_report([process(Announcement(metrics="x port 1"))], [waiting]).unapplied
    assert problem.location == "metrics" and PORT in problem.message
    assert joined_report([], [process(Announcement(metrics=PORT))]) == Report()


def test_every_problem_is_an_event_with_its_members() -> None:
    """Location, message and hint, and the number of those for which there was no room."""
    with capture_logs() as logs:
        log_problems("reload refused", Report((WRONG,), omitted=4))
    assert logs == [
        {
            "event": "reload refused",
            "log_level": "error",
            "location": "a.cedar:3",
            "message": "there is no such action",
            "hint": "Name one.",
        },
        {"event": "reload refused", "log_level": "error", "more_problems": 4},
    ]
