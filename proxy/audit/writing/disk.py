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
from typing import Final, Protocol

SEGMENT_SUFFIX: Final = ".jsonl"
SEALED_SUFFIX: Final = ".jsonl.gz"
CHECKPOINT_SUFFIX: Final = ".checkpoints"

OPERATOR: Final = "operator"
"""The log in which acts on the other logs are recorded, such as archiving: those have a writer
already.
"""


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


def segment_name(number: int) -> str:
    """Return the name without suffix of segment `number` (from 1)."""
    return f"{number:08d}"


def segments(directory: Path) -> dict[int, Path]:
    """Return the segments of one log by number, in order. A plain file counts before its compressed
    copy.
    """
    found: dict[int, Path] = {}
    for path in sorted(directory.iterdir()):
        stem, _, suffix = path.name.partition(".")
        if len(stem) >= 8 and stem.isascii() and stem.isdigit() and suffix in ("jsonl", "jsonl.gz"):
            found.setdefault(int(stem), path)  # "….jsonl" sorts before "….jsonl.gz"
    return dict(sorted(found.items()))


def logs(directory: Path) -> dict[str, Path]:
    """Return the logs of an audit directory by instance name; a directory that is a log itself is
    its only one.
    """
    if segments(directory):
        return {directory.name: directory}
    return {
        path.name: path
        for path in sorted(directory.iterdir())
        if path.is_dir() and not path.is_symlink() and segments(path)
    }


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


def write_whole(disk: Disk, fd: int, data: bytes) -> None:
    """Write all of `data` and make it durable."""
    write_all(disk, fd, data)
    disk.fdatasync(fd)
