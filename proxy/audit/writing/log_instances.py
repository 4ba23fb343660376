"""Which log each serving process writes, and who ends the logs of those that were killed.

A log has one writer. The processes of one gate take the names ``gate``, ``gate-2`` and so on, each
the first that is free: a process that takes another's place starts before that one has ended. So a
name that was in use when its process was killed may not be taken again for long, and the calls that
were open in it would stay open. Whoever starts therefore ends such logs: opening one recovers it
and closes its open calls as unknown.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import orjson
import structlog

from proxy.audit.format.layout import logs, segments
from proxy.audit.format.segment_file import last_lines
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.opening import LogInUseError
from proxy.errors import ConfigError

SPARE_INSTANCES = 3  # names beyond two for each process, for old processes that are slow to end

Open: TypeAlias = Callable[[str], Journal]
"""Opens the log of a name. Raises `LogInUseError` when another process writes it, and `ConfigError`."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def instance_names(name: str, processes: int) -> list[str]:
    """The names that the processes of the gate `name` may take, in the order in which they are
    tried.
    """
    return [name, *(f"{name}-{number}" for number in range(2, 2 * processes + SPARE_INSTANCES + 1))]


def open_first_unlocked(names: Sequence[str], opened: Open) -> Journal:
    """The log of this process alone. Raises `ConfigError`; `LogInUseError` when all of `names` are
    taken.
    """
    for name in names[:-1]:
        with contextlib.suppress(LogInUseError):
            return opened(name)
    return opened(names[-1])


def recover_abandoned(directory: Path, names: Sequence[str], opened: Open) -> None:
    """End every log in `directory` of those names that nobody writes and that was not ended in
    order. Blocks; for a thread of its own.
    """
    found = logs(directory)
    for name in names:
        if name not in found:
            continue
        try:
            if _ended_in_order(found[name]):
                continue
            with contextlib.suppress(LogInUseError):
                asyncio.run(_end(name, opened))
        except ConfigError as error:
            for problem in error.problems:
                _log.error(
                    "abandoned log not ended",
                    place=problem.location,
                    what=problem.message,
                    remedy=problem.hint,
                )


def _ended_in_order(log: Path) -> bool:
    """Return whether the last record of a log is ``closed``."""
    for path in reversed(segments(log).values()):
        for _, line in last_lines(path, 1):
            try:
                return bool(orjson.loads(line)["stage"] == "closed")
            except (ValueError, KeyError, TypeError):
                return False
    return False


async def _end(name: str, opened: Open) -> None:
    await opened(name).close()
    _log.info("abandoned log ended", log=name)
