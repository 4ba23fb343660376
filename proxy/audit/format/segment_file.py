"""Access to the lines of a segment file, plain or compressed.

A compressed segment has the same lines, and offsets count uncompressed bytes. A last line without
LF is still being written and is not returned.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from proxy.audit.format.layout import SEALED_SUFFIX, SEGMENT_SUFFIX
from proxy.errors import ConfigError, Problem

CORRUPT_GZIP_ERRORS: Final = (gzip.BadGzipFile, EOFError, zlib.error)
"""What reading a damaged compressed segment raises; a file that cannot be read raises OSError."""

# Bytes read at a time from the end of a segment. A record has at most about 70 KiB, so one step
# holds several.
_TAIL_STEP: Final = 256 * 1024


def open_segment(path: Path) -> BinaryIO:
    """Open a segment for reading, compressed or not, also if it was compressed a moment ago."""
    if not path.name.endswith(SEALED_SUFFIX):
        try:
            return path.open("rb")
        except FileNotFoundError:
            path = path.with_name(path.name.removesuffix(SEGMENT_SUFFIX) + SEALED_SUFFIX)
    return cast(BinaryIO, gzip.open(path, "rb"))


@contextmanager
def open_readable(path: Path) -> Iterator[BinaryIO]:
    """Open a segment for reading; raise ConfigError if decompression fails while it is read."""
    with open_segment(path) as lines:
        try:
            yield lines
        except CORRUPT_GZIP_ERRORS as error:
            what = f"the compressed segment does not decompress: {type(error).__name__}"
            hint = "Run callgate audit verify to locate the damage; restore the file from a backup."
            raise ConfigError([Problem(str(path), what, hint)]) from None


def last_lines(path: Path, count: int) -> list[tuple[int, bytes]]:
    """Return up to `count` complete lines from the end, without LF, each with the offset after it.

    Raises:
        ConfigError: the segment does not decompress.

    """
    with open_readable(path) as file:
        size = (
            file.seek(0, 2)
            if not path.name.endswith(SEALED_SUFFIX)
            else sum(len(part) for part in iter(lambda: file.read(1 << 20), b""))
        )
        begin = size
        data = b""
        while begin > 0 and data.count(b"\n") <= count:
            begin = max(0, begin - _TAIL_STEP)
            file.seek(begin)
            data = file.read(size - begin)
    offset = begin
    found = []
    for index, text in enumerate(data.split(b"\n")[:-1]):  # the last part has no LF yet
        offset += len(text) + 1
        if index or begin == 0:  # the first line may lack its beginning
            found.append((offset, text))
    return found[-count:] if count > 0 else []
