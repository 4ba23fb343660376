"""Keys from a key-set file: for the local issuer, and for issuers the gate cannot reach.

Implements a `KeySource` over one file holding a JWK set. Trusts whoever may write the file. The
file is read again when its identity changes (device, inode, size, times of change), which is looked
up about once a second and whenever a token names an unknown key: one `open` and `fstat`, so nothing
needs bounding. A file that is missing, too large or refused leaves the last good keys in use.
Reading is done inline: the file is small, local and rarely changes.
"""

import os
from pathlib import Path

from proxy.identity.issuer import KeySource
from proxy.identity.jwk import SET_LIMIT_BYTES, KeySetError, load_key_set


class JwksFile(KeySource):
    """The keys in the JWK set file at `path`."""

    def __init__(self, path: Path) -> None:
        """Remember the path; nothing is read before `start`, `poll` or `on_unknown_kid`."""
        super().__init__()
        self._path = path
        self._seen: tuple[int, ...] | None = None

    def poll(self) -> None:
        """Read the file if it is another one than last time."""
        try:
            with self._path.open("rb") as file:
                # of the file that is read, whatever takes its place meanwhile
                found = os.fstat(file.fileno())
                seen = (
                    found.st_dev,
                    found.st_ino,
                    found.st_size,
                    found.st_mtime_ns,
                    found.st_ctime_ns,
                )
                if seen == self._seen:
                    return
                data = file.read(SET_LIMIT_BYTES + 1)
        except OSError as error:
            self._seen = None
            self.failed(f"{self._path}: {error.strerror or type(error).__name__}")
            return
        self._seen = seen
        try:
            self.accept(load_key_set(data))
        except KeySetError as error:
            self.failed(f"{self._path}: {error}")

    async def on_unknown_kid(self) -> None:
        """Look at the file now: a key just made is found without waiting for the next second."""
        self.poll()

    def retry_after(self) -> int:
        """The file is looked at again in a second."""
        return 1

    def describe(self) -> str:
        """The file's path."""
        return str(self._path)
