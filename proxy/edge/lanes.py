"""Which log each serving process writes, and who ends the logs of those that were killed.

A log has one writer. The processes of one gate take the names ``gate``, ``gate-2`` and so on, each the first that is free: a
process that takes another's place starts before that one has ended. So a name that was in use when its process was
killed may not be taken again for long, and the calls that were open in it would stay open. Whoever starts therefore ends
such logs: opening one recovers it and closes its open calls as unknown.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import structlog

from proxy.audit.files import logs
from proxy.audit.journal import Journal, LogInUse
from proxy.audit.reader import last_items
from proxy.config import Settings
from proxy.errors import ConfigError

_LANES = 4  # logs beyond two for each process, for old processes that are slow to end

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def open_journal(settings: Settings) -> Journal:
    """The log of this process alone. Raises `ConfigError`, `LogInUse` when there are more processes than can be."""
    taken: LogInUse | None = None
    for name in _names(settings):
        try:
            return _open(settings, name)
        except LogInUse as error:
            taken = error
    assert taken is not None
    raise taken


def close_abandoned(settings: Settings) -> None:
    """End every log of this gate that nobody writes and that was not ended in order. Blocks; for a thread of its own."""
    directory = settings.audit.directory
    found = logs(directory)
    for name in _names(settings):
        if name not in found:
            continue
        try:
            last = last_items(found[name], 1)
            if last and last[0].record.get("stage") == "closed":
                continue
            with contextlib.suppress(LogInUse):
                asyncio.run(_end(settings, name))
        except ConfigError as error:
            for problem in error.problems:
                _log.error("abandoned log not ended", place=problem.place, what=problem.what, remedy=problem.remedy)


async def _end(settings: Settings, name: str) -> None:
    await _open(settings, name).close()
    _log.info("abandoned log ended", log=name)


def _names(settings: Settings) -> Iterator[str]:
    for number in range(1, 2 * settings.listen.processes + _LANES):
        yield settings.audit.name if number == 1 else f"{settings.audit.name}-{number}"


def _open(settings: Settings, name: str) -> Journal:
    audit = settings.audit
    return Journal.open(
        audit.directory,
        name=name,
        site=audit.site,
        signing_key=None if audit.signing_key is None else audit.signing_key.reveal().encode(),
        secret_names=audit.secret_names,
        text_limit=audit.text_bytes,
        segment_bytes=audit.segment_bytes,
    )
