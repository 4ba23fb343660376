"""Assigns one log to each process, and recovers the logs of processes that were killed.

A log has one writer. Serving processes take the names ``gate``, ``gate-2`` and so on, each the
first that is not locked. A process starts before its predecessor has ended, so the name of a killed
process may stay unused for long, with calls open in its log. Every starting process therefore
recovers such logs: it opens them, which closes their open calls as unknown, and ends them.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import orjson
import structlog

from proxy.audit.format.layout import logs, segments
from proxy.audit.format.segment_file import last_lines
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.opening import LogInUseError
from proxy.audit.writing.refused_calls import NOTHING_UNREPORTED, read_unreported
from proxy.errors import ConfigError

# Names beyond two for each process, for predecessors that are slow to end.
SPARE_INSTANCES: Final = 3

Open: TypeAlias = Callable[[str], Journal]
"""Opens the log of a name. Raises LogInUseError if another process writes it, and ConfigError."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def instance_names(name: str, processes: int) -> list[str]:
    """Return the names that `processes` processes may take, in the order of trying."""
    return [name, *(f"{name}-{number}" for number in range(2, 2 * processes + SPARE_INSTANCES + 1))]


def open_first_unlocked(names: Sequence[str], open_log: Open) -> Journal:
    """Open the first log that no other process writes.

    Raises:
        ConfigError: it cannot be used.
        LogInUseError: all of `names` are in use.

    """
    for name in names[:-1]:
        with contextlib.suppress(LogInUseError):
            return open_log(name)
    return open_log(names[-1])


def recover_abandoned(directory: Path, names: Sequence[str], open_log: Open) -> None:
    """End the logs of `names` that no process writes and that have no clean end.

    A log with a clean end is opened too if its last process refused calls that no record reports.
    Blocks: call it on a thread.
    """
    found = logs(directory)
    for name in names:
        if name not in found:
            continue
        try:
            if _has_clean_end(found[name]) and read_unreported(found[name]) == NOTHING_UNREPORTED:
                continue
            with contextlib.suppress(LogInUseError):
                asyncio.run(_end(name, open_log))
        except ConfigError as error:
            for problem in error.problems:
                _log.error(
                    "abandoned log not ended",
                    location=problem.location,
                    message=problem.message,
                    hint=problem.hint,
                )


def _has_clean_end(log: Path) -> bool:
    """Return whether the last record of a log is ``closed``."""
    for path in reversed(segments(log).values()):
        for _, line in last_lines(path, 1):
            try:
                return bool(orjson.loads(line)["stage"] == "closed")
            except (ValueError, KeyError, TypeError):
                return False
    return False


async def _end(name: str, open_log: Open) -> None:
    await open_log(name).close()
    _log.info("abandoned log ended", log=name)
