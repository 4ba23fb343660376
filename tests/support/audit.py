"""Parts of audit tests: principals, a peer, calls, decisions, a clock, a disk that fails."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from proxy.audit.format.layout import segments
from proxy.audit.format.segment_file import open_segment
from proxy.audit.writing.disk import Disk
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.writer import Timing
from proxy.model import Call, Decision, Peer, Permission, Principal, Reason, Value

ALICE = Principal("https://idp.example/", "okta", "alice", ("viewer",), ("staff",))
WORKER = Principal("https://idp.example/", "okta", "etl-07", ("etl-worker",), ("etl",))
HERE = Peer("10.0.0.7", 51234, "TLSv1.3", "python-requests/2.31")
HASH = "sha256:" + "ab" * 32
ALLOW = Decision("allow", Reason.ALLOWED, ("etl-workers-work",), HASH)
DENY = Decision("deny", Reason.NO_POLICY_ALLOWS, (), HASH)


def call(
    method: str = "add_task",
    permission: Permission = "work",
    task: str | None = None,
    **args: Value,
) -> Call:
    """Return a luigi call."""
    return Call("luigi", "luigi", method, permission, args, task=task)


class Clock:
    """A wall clock in nanoseconds that advances a millisecond at each reading."""

    def __init__(self, start: int = 1_767_225_600_000_000_000) -> None:
        self.now = start

    def __call__(self) -> int:
        """Return the time."""
        self.now += 1_000_000
        return self.now


PATHS = {"loop": True}
"""Whether a `FailingDisk` has a flusher for the event loop; a fixture sets it, so that tests of
faults run on both paths.
"""


class FailingFlusher:
    """A flusher whose flushes end, or fail, at once."""

    def __init__(self, fdatasync: Callable[[int], None]) -> None:
        self._fdatasync = fdatasync
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._error: OSError | None = None

    def fileno(self) -> int:
        """Return the descriptor that signals the end of a flush."""
        return self._event_fd

    def start(self, fd: int) -> None:
        """Flush now, and remember the error."""
        try:
            self._fdatasync(fd)
        except OSError as error:
            self._error = error
        os.eventfd_write(self._event_fd, 1)

    def finish(self) -> None:
        """Raise the error of the flush."""
        os.eventfd_read(self._event_fd)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._event_fd)


class FailingDisk:
    """A disk that fails on demand.

    `fail_write` and `fail_sync` are the errno to raise, `short` the bytes that a write takes.
    """

    def __init__(self) -> None:
        self.fail_write = 0
        self.fail_sync = 0
        self.short = 0
        self.syncs = 0
        self.disk = Disk(
            self._write,
            self._fdatasync,
            lambda _fd: FailingFlusher(self._fdatasync) if PATHS["loop"] else None,
        )

    def _write(self, fd: int, data: bytes | memoryview) -> int:
        if self.fail_write:
            if self.short:
                os.write(fd, data[: self.short])
            raise OSError(self.fail_write, "made to fail")
        return os.write(fd, data[: self.short] if self.short else data)

    def _fdatasync(self, fd: int) -> None:
        if self.fail_sync:
            raise OSError(self.fail_sync, "made to fail")
        self.syncs += 1
        os.fdatasync(fd)


EIO, ENOSPC, EROFS = errno.EIO, errno.ENOSPC, errno.EROFS


def open_journal(directory: Path, name: str = "gate", **settings: Any) -> Journal:
    """Open a journal with a short probe interval, so that it resumes at once."""
    return Journal.open(
        directory, name=name, **{"timing": Timing(probe=0.01), "compress": False, **settings}
    )


async def one(journal: Journal, number: int, made: Callable[[], Call] = call) -> None:
    """Decide and complete one allowed call."""
    [receipt] = await journal.decide(f"call-{number}", WORKER, HERE, [(made(), ALLOW)], number)
    assert receipt is not None
    journal.completed(receipt, outcome="ok", status=200, sent=10, duration_us=5)


def raw_lines(directory: Path) -> list[bytes]:
    """Return every line of one log's segments."""
    return b"".join(open_segment(path).read() for path in segments(directory).values()).splitlines()


def records(directory: Path) -> list[dict[str, Any]]:
    """Return every record of one log."""
    return [orjson.loads(line) for line in raw_lines(directory)]


def stages(directory: Path) -> list[str]:
    """Return the stages of one log's records, in order."""
    return [record["stage"] for record in records(directory)]


V1 = Path(__file__).parents[1] / "audit" / "data" / "v1"
"""An audit directory of format version 1 (see the README next to it)."""


def copy_of_v1(target: Path) -> Path:
    """Copy the audit directory of format version 1 to `target`, with private files."""
    shutil.copytree(V1, target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return target
