"""Keys from a JWK set file: for the local issuer, and for issuers that cannot be reached.

Trusts every writer of the file. The file is read again when its identity changes (device, inode,
size, times of change), and while it is young: two changes within one tick of the file system's
clock have the same times. The identity is looked up about once a second and for every token with
an unknown key. That costs one `open` and one `fstat`, so it needs no bound. A file that is missing,
too large or refused leaves the last good keys in use, for a time (`proxy.identity.issuer`). Reading
blocks the event loop: the file is small, local and rarely changes.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from proxy.identity.issuer import DEFAULT_MAX_AGE_SECONDS, KeySource
from proxy.identity.jwk import SET_LIMIT_BYTES, KeySetError, load_key_set

# Nanoseconds since its last change in which a file is read at every poll. More than the tick of any
# file system's clock.
_YOUNG_NS = 2_000_000_000


class JwksFile(KeySource):
    """The keys in the JWK set file at `path`.

    `made_later` is for a file that need not exist at first: that it is missing is no alarm then.
    """

    def __init__(
        self,
        path: Path,
        *,
        made_later: bool = False,
        max_age_seconds: float = DEFAULT_MAX_AGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing before `start`, `poll` or `on_unknown_kid`."""
        super().__init__(max_age_seconds=max_age_seconds, clock=clock)
        self._path = path
        self._made_later = made_later
        self._file_identity: tuple[int, ...] | None = None
        self._data = b""  # of the last good set

    def poll(self) -> None:
        """Read the file if its identity has changed or it is young."""
        self._read_if_changed()
        super().poll()

    def _read_if_changed(self) -> None:
        try:
            with open(self._path, "rb", opener=_open_without_waiting) as file:
                # The identity of the file that is read, even if the path names another by now.
                found = os.fstat(file.fileno())
                identity = (
                    found.st_dev,
                    found.st_ino,
                    found.st_size,
                    found.st_mtime_ns,
                    found.st_ctime_ns,
                )
                if identity == self._file_identity:
                    if self.readable:
                        self.confirm()
                    return
                data = file.read(SET_LIMIT_BYTES + 1)
        except OSError as error:
            self._file_identity = None
            alarm = not (
                self._made_later and self.keys is None and isinstance(error, FileNotFoundError)
            )
            self.failed(f"{self._path}: {error.strerror or type(error).__name__}", alarm=alarm)
            return
        young = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _YOUNG_NS
        self._file_identity = None if young else identity
        if self.readable and data == self._data:
            self.confirm()
            return
        try:
            self.accept(load_key_set(data))
        except KeySetError as error:
            self.failed(f"{self._path}: {error}")
        else:
            self._data = data

    async def on_unknown_kid(self) -> None:
        """Check the file now, so that a key that was just made is found at once."""
        self.poll()

    def retry_after(self) -> int:
        """Return one second, after which the file is looked at again."""
        return 1

    def describe(self) -> str:
        """Return the path of the file."""
        return str(self._path)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe in its place, which may never have a writer, is empty at once."""
    return os.open(path, flags | os.O_NONBLOCK)
