"""The file operations of the log, and the failure that each guards against.

A file's bytes survive power loss after its own fdatasync; its *name* survives only after an fsync
of its directory. A new file is therefore synced before its directory, and both before a record in
it is acknowledged. Files are created 0600 and directories 0700, because records name people and
their acts.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Flusher(Protocol):
    """A way to make one file at a time durable without waiting for it."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the flush has ended."""

    def start(self, fd: int) -> None:
        """Begin to make `fd` durable and return at once. Raises OSError."""

    def finish(self) -> None:
        """Take the result, once `fileno` is readable. Raises the OSError of the flush."""

    def close(self) -> None:
        """Close the descriptors. Waits for a flush that is under way."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The system calls that can fail under a journal; tests pass failing ones.

    `flusher` returns a `Flusher` that it has tried on the given descriptor
    (`proxy.audit.writing.kernel_fdatasync`), or None if there is none.
    """

    write: Callable[[int, bytes | memoryview], int] = os.write
    fdatasync: Callable[[int], None] = os.fdatasync
    flusher: Callable[[int], Flusher | None] = lambda _fd: None


def open_append(path: Path) -> int:
    """Open a file for appending, created 0600 if it is new. Refuses a symbolic link."""
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )


def write_all(disk: Disk, fd: int, data: bytes) -> None:
    """Write all of `data`, not yet durably; continue after a short write."""
    written = disk.write(fd, data)
    while written < len(data):
        written += disk.write(fd, memoryview(data)[written:])


def write_durably(disk: Disk, fd: int, data: bytes) -> None:
    """Write all of `data` and make it durable."""
    write_all(disk, fd, data)
    disk.fdatasync(fd)
