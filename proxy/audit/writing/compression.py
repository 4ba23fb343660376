"""Compresses sealed segments: about a tenth of the size, the same records, byte for byte.

The compressed file is complete, read back and compared before it gets its name, and the plain one
goes only after that name is durable; a crash at any point leaves a whole segment. Its mtime in the
gzip header is zero: compressing twice gives the same bytes. ISA-L writes it and zlib reads it back,
so that no mistake of the one passes for a record. Neither holds the interpreter's lock.
"""

import gzip
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from isal import isal_zlib

from proxy.audit.format.layout import SEALED_SUFFIX, SEGMENT_SUFFIX, segments
from proxy.audit.format.segment_file import CORRUPT_GZIP_ERRORS
from proxy.common.durable_files import sync_directory

_LEVEL: Final = 1
"""Of ISA-L: records of calls that resemble each other shrink to 1/15.7, at 0.6 us a call; zlib's
level 3 takes 3.2 for 1/14.8.
"""

_PART: Final = 1 << 20
_GZIP: Final = 31  # as zlib counts: a gzip header and trailer, the largest window


def compress(path: Path) -> Path:
    """Replace a sealed segment by its compressed copy and return that; raise OSError, leaving the
    segment as it was.

    Another process may be at the same segment: the one that had the log before, and ends. Each
    writes a file of its own, and whoever comes later takes the earlier one's away, as it does with
    what a crash has left: of the two at most one is told that it failed.
    """
    target = path.with_name(path.name.removesuffix(SEGMENT_SUFFIX) + SEALED_SUFFIX)
    for left in target.parent.glob(f".{target.name}.*new"):
        left.unlink(missing_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.new")
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        with os.fdopen(fd, "wb") as raw:
            _pack(path, raw)
            raw.flush()
            os.fsync(raw.fileno())
        if not _same(path, temporary):
            raise OSError("the compressed segment does not read back")
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)
    path.unlink()
    sync_directory(target.parent)
    return target


def _pack(path: Path, raw: BinaryIO) -> None:
    """Write a plain file compressed into `raw`. Raises OSError."""
    try:
        packer = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
        with path.open("rb") as plain:
            while part := plain.read(_PART):
                raw.write(packer.compress(part))
        raw.write(packer.flush())
    except (isal_zlib.error, MemoryError) as error:  # type: ignore[misc]  # its stub calls the class an instance
        raise OSError(f"the segment cannot be compressed: {type(error).__name__}") from error


def _same(path: Path, compressed: Path) -> bool:
    """Whether a plain file and a compressed one hold the same, and nothing behind it."""
    with path.open("rb") as plain, gzip.open(compressed, "rb") as packed:
        part = b"-"
        while part:
            part = plain.read(_PART)
            try:
                if packed.read(len(part) or 1) != part:
                    return False
            except CORRUPT_GZIP_ERRORS:
                return False
    return True


class Compressor:
    """Compresses the sealed segments of one log in the background, one thread at a time, at the
    lowest priority.
    """

    def __init__(self, directory: Path) -> None:
        """Do nothing until `start`."""
        self._directory = directory
        self._one = threading.Lock()

    def start(self, before: int) -> None:
        """Compress all plain segments numbered below `before`. A failure leaves a plain segment,
        which is as good.
        """
        threading.Thread(
            target=self.compress_before, args=(before,), name="audit-compress", daemon=True
        ).start()

    def compress_before(self, number: int) -> None:
        """Compress all plain segments numbered below `number`; leave those that fail as they are."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        with self._one, suppress(OSError):
            for found, path in segments(self._directory).items():
                if found < number and path.name.endswith(SEGMENT_SUFFIX):
                    compress(path)
