"""The keys of an audit directory: created on first use, readable by their owner only.

``hmac.key`` (32 random bytes in hex) keys the hashes that replace secrets in records. All logs of a
directory share it, so that one value has one hash. ``signing.key`` (Ed25519, PKCS #8 in PEM) signs
checkpoints unless the settings name another. ``signing.pub`` lists the public keys that ever signed
here, one a line, newest last. It is a convenience and proves nothing: an attacker who can alter the
log can replace it too.
"""

import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.audit.format.checkpoint import BadCheckpointError, format_key, parse_keys
from proxy.common.durable_files import create_once, make_directory, read_private, replace_atomically
from proxy.errors import ConfigError, Problem

HMAC_KEY = "hmac.key"
SIGNING_KEY = "signing.key"
PUBLIC_KEYS = "signing.pub"


def load_hmac_key(directory: Path, *, make: bool = True) -> bytes:
    """Return the HMAC key of an audit directory; create it if there is none and `make` is true.

    Raises:
        ConfigError: it cannot be used.

    """
    path = directory / HMAC_KEY
    if make and not path.exists():
        make_directory(directory)
        create_once(path, secrets.token_hex(32).encode() + b"\n")
    try:
        key = bytes.fromhex(read_private(path).decode("ascii"))
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None
    if len(key) < 16:
        raise ConfigError(
            [Problem(str(path), "the key is shorter than 16 bytes", "Restore it from a backup.")]
        )
    return key


def new_signing_key() -> bytes:
    """Return a new private key in PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def load_signing_key(
    directory: Path, origin_prefix: str, pem: bytes | None = None
) -> Ed25519PrivateKey:
    """Return the signing key, `pem` or the one in the directory, and list its public key.

    Creates the key in the directory if there is neither.

    Raises:
        ConfigError: it cannot be used.

    """
    path = directory / SIGNING_KEY
    try:
        if pem is None:
            make_directory(directory)
            pem = read_private(path) if path.exists() else create_once(path, new_signing_key())
        key = load_pem_private_key(pem, password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(path, error) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            [
                Problem(
                    str(path),
                    "the signing key is not an Ed25519 key",
                    "Create one with callgate audit key generate.",
                )
            ]
        )
    _publish(directory, origin_prefix, key.public_key().public_bytes_raw())
    return key


def public_keys(path: Path) -> list[tuple[str, bytes]]:
    """Return the public keys of a file as (name, key).

    Raises:
        ConfigError: it has none, or cannot be read.

    """
    try:
        return parse_keys(path.read_text(encoding="ascii"))
    except (OSError, ValueError, BadCheckpointError) as error:
        raise _unusable(path, error) from None


def _publish(directory: Path, origin_prefix: str, public: bytes) -> None:
    path = directory / PUBLIC_KEYS
    line = format_key(origin_prefix, public)
    known = path.read_text(encoding="ascii").split() if path.exists() else []
    if line not in known:
        replace_atomically(path, "".join(f"{key}\n" for key in [*known, line]).encode())


def _unusable(path: Path, error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return error
    return ConfigError(
        [
            Problem(
                str(path),
                f"no usable key: {type(error).__name__}",
                "Restore it from a backup, or name another file.",
            )
        ]
    )
