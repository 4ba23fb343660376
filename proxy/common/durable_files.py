"""Writing small files that hold keys and tokens, so that a crash leaves the old content or the new,
never a part.

Implements write, fsync, rename, fsync of the directory: the first fsync keeps the name from
pointing to bytes that are not there yet, the second makes the name itself durable. A file is
created with its final mode under a name of its own, so nobody can open it while it is wider, and no
symbolic link planted under the target's name is followed.
"""

import contextlib
import os
import secrets
from pathlib import Path

TEMPORARY_GLOB = ".*.partial"
"""What a crash can leave behind in the directory."""


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Replace the file at `path` by one with `data` and the permission bits `mode`, durably. Raises
    `OSError`.

    Root gives the file to the owner of the directory, so that a service can go on where its
    administrator began.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    file = os.open(
        partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode
    )
    try:
        with open(file, "wb") as stream:  # noqa: PTH123  (a descriptor, which Path cannot open)
            os.fchmod(file, mode)  # the umask may have taken bits away
            give_to_owner_of(path.parent, file)
            stream.write(data)
            stream.flush()
            os.fsync(file)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in the directory at `path` durable. Raises `OSError`."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def give_to_owner_of(directory: Path, file: int) -> None:
    """As root, give the open `file` to whom `directory` belongs to."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
