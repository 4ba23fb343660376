"""The result of a generation: why a process could not start, and what is not in force."""

from collections.abc import Iterable

import structlog

from proxy.errors import Problem
from proxy.runtime.supervision.announcement import Report
from proxy.runtime.supervision.worker_process import WorkerProcess

# Seconds in which a new process has to become ready before it is killed.
READY_SECONDS = 60.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def report_of(process: WorkerProcess, code: int) -> Report:
    """Return why a process could not start: what it announced, or else how it ended."""
    announced = process.announcement
    if announced is not None and not announced.serves:
        return announced.report
    hint = "See the log of Callgate, or run callgate check."
    if process.overdue:
        message = f"a process was not ready within {READY_SECONDS:g} seconds and was killed"
    elif code < 0:
        message = f"a process was killed by signal {-code} while it started"
    else:
        message = f"a process ended with exit code {code} while it started"
    return Report((Problem(f"slot {process.slot}", message, hint),))


def joined_report(old: Iterable[WorkerProcess], new: Iterable[WorkerProcess]) -> Report:
    """Return what is not in force after a reload, each thing once."""
    had = {each.announcement.metrics for each in old if each.announcement is not None}
    unapplied: dict[Problem, None] = {}
    omitted = 0
    for process in new:
        announced = process.announcement
        if announced is None:
            continue
        unapplied |= dict.fromkeys(announced.report.unapplied)
        omitted = max(omitted, announced.report.omitted)
        # A process that is about to leave has the port of its successor.
        if announced.metrics and not announced.metrics_bound and announced.metrics not in had:
            message = f"{announced.metrics} is in use by another program"
            hint = "Free it; Callgate takes it then by itself. Or choose another port."
            unapplied[Problem("metrics", message, hint)] = None
    return Report((), tuple(unapplied), omitted)


def log_problems(event: str, report: Report) -> None:
    """Log each problem of a report as an event of its own."""
    for problem in report.problems:
        _log.error(event, location=problem.location, message=problem.message, hint=problem.hint)
    if report.omitted:
        _log.error(event, more_problems=report.omitted)
