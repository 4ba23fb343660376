"""Keys from a JWK set file: for the local issuer, and for issuers that cannot be reached.

Trusts every writer of the file. The file is read again when its identity changes (device, inode,
size, times of change). The identity is looked up about once a second and for every token with an
unknown key. That costs one `open` and one `fstat`, so it needs no bound. A file that is missing,
too large or refused leaves the last good keys in use. Reading blocks the event loop: the file is
small, local and rarely changes.
"""

import os
from pathlib import Path

from proxy.identity.issuer import KeySource
from proxy.identity.jwk import SET_LIMIT_BYTES, KeySetError, load_key_set


class JwksFile(KeySource):
    """The keys in the JWK set file at `path`."""

    def __init__(self, path: Path) -> None:
        """Read nothing before `start`, `poll` or `on_unknown_kid`."""
        super().__init__()
        self._path = path
        self._file_identity: tuple[int, ...] | None = None

    def poll(self) -> None:
        """Read the file if its identity has changed."""
        try:
            with self._path.open("rb") as file:
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
                    return
                data = file.read(SET_LIMIT_BYTES + 1)
        except OSError as error:
            self._file_identity = None
            self.failed(f"{self._path}: {error.strerror or type(error).__name__}")
            return
        self._file_identity = identity
        try:
            self.accept(load_key_set(data))
        except KeySetError as error:
            self.failed(f"{self._path}: {error}")

    async def on_unknown_kid(self) -> None:
        """Check the file now, so that a key that was just made is found at once."""
        self.poll()

    def retry_after(self) -> int:
        """Return one second, after which the file is looked at again."""
        return 1

    def describe(self) -> str:
        """Return the path of the file."""
        return str(self._path)
