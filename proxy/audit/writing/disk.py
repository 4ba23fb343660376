"""The few file operations the log is made of, each with the failure it guards against.

A file's bytes survive power loss after its own fdatasync; its *name* survives only after an fsync
of its directory. A new file is therefore synced before its directory, and both before anything is
acknowledged that rests on it. Everything is made 0600 (directories 0700): records name people and
what they did. Nothing is ever executable.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Flusher(Protocol):
    """Makes one file at a time durable."""

    def fileno(self) -> int:
        """The descriptor that becomes readable when the flush is over."""

    def start(self, fd: int) -> None:
        """Begin to make `fd` durable; returns at once. Raises OSError."""

    def finish(self) -> None:
        """Take the result, once `fileno` is readable. Raises the OSError that fdatasync would have."""

    def close(self) -> None:
        """Give the descriptors back. Waits for a flush that is under way."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The calls that can fail under a journal; tests pass failing ones in.

    `flusher` gives what makes a file durable without a thread that waits
    (`proxy.audit.writing.kernel_fdatasync`), or None; it is tried on the descriptor that it is
    given.
    """

    write: Callable[[int, bytes | memoryview], int] = os.write
    fdatasync: Callable[[int], None] = os.fdatasync
    flusher: Callable[[int], Flusher | None] = lambda _fd: None


def open_append(path: Path) -> int:
    """Open a segment for appending, made 0600 if it is new; a symbolic link in its place is
    refused.
    """
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )


def write_all(disk: Disk, fd: int, data: bytes) -> None:
    """Write all of `data`, not yet durable. A short write (a signal, the last free block) is
    continued.
    """
    written = disk.write(fd, data)
    while written < len(data):
        written += disk.write(fd, memoryview(data)[written:])


def write_durably(disk: Disk, fd: int, data: bytes) -> None:
    """Write all of `data` and make it durable."""
    write_all(disk, fd, data)
    disk.fdatasync(fd)
