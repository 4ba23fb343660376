"""The number of calls that were refused because the log could not be written.

A ``gap`` record reports it when the log can be written again. The process may end before that: it
is replaced, stopped or killed while the disk is full. So the number stands in a file of the log as
well, and the next process that opens the log reports what it finds there.

The file ``.refused`` has one block, which is allocated and made durable when the log is opened.
Later it is written in place, which needs no room on a full disk (but for file systems that copy on
write, which keep a reserve). It is written once a second while the log has failed, and when the
process ends: kill -9 loses the refusals of a second at most, a power failure those since the last
write-back. A process that is killed between a ``gap`` record and the next writing of the file has
its refusals reported twice.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.audit.format.record import TimestampEncoder, encode_event
from proxy.audit.redaction.redactor import Json
from proxy.audit.writing.entry import Entry

FILE: Final = ".refused"
# Bytes of the file: less than a block, so that it is written in one piece.
_SIZE: Final = 512
_ERROR_LENGTH: Final = 200
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Unreported:
    """What an earlier process of the log refused and could not report.

    `since` is in microseconds since 1970 (0: not known). `rejected` counts the requests that became
    no call and have no record.
    """

    refused: int = 0
    rejected: int = 0
    since: int = 0
    error: str = ""

    def entries(self, micros: int) -> list[Entry]:
        """Return the ``gap`` record that reports it, or nothing."""
        if not self.refused and not self.rejected:
            return []
        since = TimestampEncoder()(self.since).decode() if self.since else ""
        return [Entry(micros, encode_gap(since, self.error, self.refused, self.rejected))]


NOTHING_UNREPORTED: Final = Unreported()


class RefusedCalls:
    """The counters of one log.

    Only the event loop adds to `refused`. Only the writer's thread adds to `reported`, or the loop
    while the thread is at rest. `rejected` counts requests that will have no record.
    """

    def __init__(self, log: Path) -> None:
        """Count from 0; `open` reads what an earlier process left."""
        self.refused = 0
        self.reported = 0
        self.rejected = 0
        self._path = log / FILE
        self._saved = Unreported()

    def open(self) -> Unreported:
        """Allocate the file, and return what an earlier process could not report.

        Raises:
            OSError: there is no room for it.

        """
        found = read_unreported(self._path.parent)
        fd = os.open(self._path, _FLAGS | os.O_CREAT, 0o600)
        try:
            if os.fstat(fd).st_size != _SIZE:
                _write(fd, found)
                os.fsync(fd)
        finally:
            os.close(fd)
        self._saved = found
        return found

    @property
    def pending(self) -> int:
        """The number of refused calls that no record reports."""
        return self.refused - self.reported

    def take_back(self, unwritten: Iterable[Entry]) -> None:
        """Count what entries that were never written were to report as not reported."""
        for entry in unwritten:
            refused, rejected = _counts_in(entry)
            self.reported -= refused
            self.rejected += rejected

    def save(self, since: int, error: str) -> None:
        """Write the counters to the file, if they have changed.

        A disk that does not even take that leaves them in memory.
        """
        now = Unreported()
        if self.pending or self.rejected:
            now = Unreported(self.pending, self.rejected, since, error[:_ERROR_LENGTH])
        if now == self._saved:
            return
        with suppress(OSError):
            fd = os.open(self._path, _FLAGS)
            try:
                _write(fd, now)
            finally:
                os.close(fd)
            self._saved = now


def read_unreported(log: Path) -> Unreported:
    """Return what the processes of a log could not report; nothing if there is no such file."""
    try:
        fd = os.open(log / FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return Unreported()
    try:
        found: Any = orjson.loads(os.pread(fd, _SIZE, 0).rstrip())
        return Unreported(
            max(0, int(found["refused"])),
            max(0, int(found["rejected"])),
            max(0, int(found["since"])),
            str(found["error"])[:_ERROR_LENGTH],
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return Unreported()
    finally:
        os.close(fd)


def encode_gap(since: str, error: str, refused: int, rejected: int = 0) -> bytes:
    """Return the body of a ``gap`` record."""
    members: dict[str, Json] = {"since": since, "error": error, "refused": refused}
    if rejected:
        members["rejected"] = rejected
    return encode_event("gap", members)


def _counts_in(entry: Entry) -> tuple[int, int]:
    """Return how many refused calls and how many rejected requests an entry reports."""
    if not entry.body.startswith((b'"stage":"gap"', b'"stage":"rejected"', b'"stage":"decided"')):
        return 0, 0
    members = orjson.loads(b"{" + entry.body)
    if members["stage"] == "gap":
        return int(members["refused"]), 0
    summary = members.get("summary")
    if summary is not None:
        return 0, int(summary["count"])
    return 0, int(members["stage"] == "rejected")


def _write(fd: int, state: Unreported) -> None:
    data = orjson.dumps(
        {
            "refused": state.refused,
            "rejected": state.rejected,
            "since": state.since,
            "error": state.error.encode("ascii", "replace").decode(),
        }
    )
    os.pwrite(fd, data.ljust(_SIZE - 1) + b"\n", 0)
