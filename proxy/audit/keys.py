"""The keys beside the log: each made on first use, readable by its owner only.

``hmac.key`` (32 random bytes, hex) keys the hashes that stand for secrets in records. It is one for all logs of an audit
directory, so that one value has one hash in all of them.
"""

import secrets
from pathlib import Path

from proxy.audit.files import make_directory, make_once, read_private
from proxy.errors import ConfigError, Problem

HMAC_KEY = "hmac.key"


def load_hmac_key(directory: Path, *, make: bool = True) -> bytes:
    """Return the HMAC key of an audit directory; make it if there is none. Raise ConfigError when it cannot be used."""
    path = directory / HMAC_KEY
    if make and not path.exists():
        make_directory(directory)
        make_once(path, secrets.token_hex(32).encode() + b"\n")
    try:
        key = bytes.fromhex(read_private(path).decode("ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError([Problem(str(path), f"not a key: {type(error).__name__}", "restore it from a backup")]) from None
    if len(key) < 16:
        raise ConfigError([Problem(str(path), "the key is shorter than 16 bytes", "restore it from a backup")])
    return key
