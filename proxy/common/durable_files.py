"""Small files written so that a crash leaves the old content or the new one, never a part.

Implements write, fsync, rename, fsync of the directory. The first fsync keeps the name from
pointing to bytes that are not on disk yet; the second makes the name itself durable. A file gets
its final mode when it is created, under a random name, so it is never open to more readers than it
should be, and a symbolic link planted under the target's name is not followed.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from proxy.common.file_trust import Trust, is_secret
from proxy.errors import ConfigError, Problem

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
TEMPORARY_GLOB = ".*.partial"
"""Matches what a crash can leave behind in the directory."""


def replace_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file at `path` by one with `data` and the permission bits `mode`, durably.

    As root, give the file to the owner of the directory, so that a service can use what its
    administrator made.

    Raises:
        OSError: the file was not replaced.

    """
    partial = _write_partial(path, data, mode)
    try:
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_directory(path.parent)


def create_once(path: Path, data: bytes, mode: int = 0o600) -> bytes:
    """Create a file with `data` unless it exists, durably; return what the file holds then.

    Of several processes that race, one wins and all return its content.

    Raises:
        OSError: the file neither existed nor was created.

    """
    partial = _write_partial(path, data, mode)
    try:
        # A link fails if the name is taken; a rename would replace the other process's file.
        os.link(partial, path)
    except FileExistsError:
        return path.read_bytes()
    finally:
        partial.unlink()
    sync_directory(path.parent)
    return data


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file (0600) that takes the place of `path` when the block ends without an error.

    A symbolic link at `path` is replaced, not followed. A device or a pipe is written as it is.

    Raises:
        OSError: it cannot be created or replaced.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        with path.open("wb") as device:
            yield device
        return
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    file = os.open(partial, _NEW, 0o600)
    try:
        with open(file, "wb") as stream:  # noqa: PTH123  (a descriptor, which Path cannot open)
            yield stream
            stream.flush()
            os.fsync(file)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_directory(path.parent)


def read_private(path: Path) -> bytes:
    """Return the content of a key file.

    Raises:
        ConfigError: another user could read it.
        OSError: it cannot be read.

    """
    if not is_secret(path, Trust.of_this_process()):
        message = "can be read by other users"
        problem = Problem(str(path), message, f"Run: chmod 600 {path}")
        raise ConfigError([problem])
    return path.read_bytes()


def make_directory(path: Path) -> None:
    """Make a directory (0700) and its missing parents, durably.

    A directory that exists keeps its mode.
    """
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for new in reversed(missing):
        new.mkdir(mode=0o700, exist_ok=True)
        sync_directory(new.parent)


def sync_directory(path: Path) -> None:
    """Make the names in the directory at `path` durable. Raises `OSError`."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def give_to_owner_of(directory: Path, file: int) -> None:
    """As root, give the open `file` to the owner of `directory`."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)


def _write_partial(path: Path, data: bytes, mode: int) -> Path:
    """Write `data` durably to a temporary file in the directory of `path`; return its path."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    file = os.open(partial, _NEW, mode)
    try:
        with open(file, "wb") as stream:  # noqa: PTH123  (a descriptor, which Path cannot open)
            os.fchmod(file, mode)  # the umask may have taken bits away
            give_to_owner_of(path.parent, file)
            stream.write(data)
            stream.flush()
            os.fsync(file)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    return partial
