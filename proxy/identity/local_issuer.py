"""The local issuer: tokens without an identity provider, from the keys in one directory.

Implements an issuer of access tokens (RFC 9068) signed with ES256. The directory (0700) holds:

- ``state.json`` (0600): the signing key with its private part, and the public parts of retired
  keys, each with the latest expiry of any token that it signed. All other files follow from it. It
  is durable before a token is returned.
- ``jwks.json`` (0644): the public parts, for the verifier. It is written again from the state
  whenever it differs.
- ``lock``: held (flock) during every change, so any number of processes may issue and rotate.

Rotation makes a new signing key and deletes the old private part. The old public part stays
published until the last token that it signed has expired. The next `issue` or `rotate` after that
drops it.

Trusts every writer of the directory. Refuses a state that other users may read, and a directory
that other users may write. Never replaces a damaged state.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.common.durable_files import TEMPORARY_GLOB, give_to_owner_of, replace_atomically
from proxy.common.file_trust import Trust, is_closed_directory, is_secret
from proxy.common.text import is_printable
from proxy.errors import ConfigError, Problem
from proxy.identity.credentials import TOKEN_LIMIT
from proxy.identity.encoding import base64url_encode, json_object

DEFAULT_ISSUER = "https://callgate.local/issuer"
DEFAULT_AUDIENCE = "callgate"
# Seconds that a token may be valid: a leap year. A token that lives longer is a password.
MAX_LIFETIME_SECONDS = 366 * 86_400

# Seconds that a retired key stays published after the expiry of its last token, for verifiers whose
# clock is behind.
_RETIREMENT_SECONDS = 60

# Keys that are published at most. The verifier accepts a set of 100 (`jwk.SET_LIMIT_KEYS`).
_MAX_KEYS = 50


@dataclass(frozen=True, slots=True)
class _SigningKey:
    """The key that signs now: public JWK, private part as PEM, and the latest expiry signed."""

    jwk: dict[str, str]
    pem: str
    latest_exp: int


@dataclass(frozen=True, slots=True)
class _RetiredKey:
    """The public part of a key that no longer signs, with its tokens' latest expiry."""

    jwk: dict[str, str]
    latest_exp: int


@dataclass(frozen=True, slots=True)
class _State:
    """The content of ``state.json``."""

    signing: _SigningKey
    retired: tuple[_RetiredKey, ...]


class LocalIssuer:
    """An issuer of tokens for `audience`, with keys in `directory` that are made on first use.

    Its methods raise `ConfigError` when the directory cannot be used, and `ValueError` for
    arguments that make no token.
    """

    def __init__(
        self,
        directory: Path,
        *,
        issuer: str = DEFAULT_ISSUER,
        audience: str = DEFAULT_AUDIENCE,
        max_lifetime_seconds: float = MAX_LIFETIME_SECONDS,
    ) -> None:
        """Touch nothing yet.

        A token is valid for at most `max_lifetime_seconds`, and for at most 366 days.
        """
        self.directory = directory
        self.issuer = issuer
        self.audience = audience
        self.max_lifetime_seconds = min(max_lifetime_seconds, MAX_LIFETIME_SECONDS)
        self.key_set = directory / "jwks.json"
        self._state = directory / "state.json"

    def prepare(self, now: float) -> None:
        """Make the keys if there are none, drop retired ones that are not needed, and publish.

        `now` is in Unix seconds.
        """
        with self._locked():
            self._save(self._load_or_create(now))

    def issue(
        self,
        subject: str,
        groups: Sequence[str],
        lifetime_seconds: int,
        now: float,
        *,
        audience: str | None = None,
    ) -> str:
        """Return a token for `subject` in `groups`, valid from `now` (Unix seconds)."""
        if not is_printable(subject):
            raise ValueError("the subject must be 1 to 255 printable characters")
        if isinstance(groups, str) or not all(is_printable(group) for group in groups):
            raise ValueError("a group must be 1 to 255 printable characters")
        if not 1 <= lifetime_seconds <= self.max_lifetime_seconds:
            raise ValueError(
                f"the lifetime must be 1 to {self.max_lifetime_seconds:.0f} seconds"
                " (local_issuer.max_lifetime_seconds)"
            )
        issued = int(now)
        expires = issued + int(lifetime_seconds)
        claims: dict[str, object] = {
            "iss": self.issuer,
            "aud": audience or self.audience,
            "sub": subject,
            "groups": sorted(set(groups)),
            "iat": issued,
            "nbf": issued,
            "exp": expires,
            "jti": secrets.token_urlsafe(16),
        }
        with self._locked():
            state = self._load_or_create(now)
            key = state.signing
            # Durable first: a crash must not lose how long the token's key has to stay published.
            self._save(
                _State(_SigningKey(key.jwk, key.pem, max(key.latest_exp, expires)), state.retired)
            )
        headers = {"typ": "at+jwt", "kid": key.jwk["kid"]}
        token = jwt.encode(claims, _private(key.pem), algorithm="ES256", headers=headers)
        if len(token) > TOKEN_LIMIT:
            raise ValueError(
                f"with these groups the token is over the {TOKEN_LIMIT} bytes that Callgate accepts"
            )
        return token

    def rotate(self, now: float) -> str:
        """Sign with a new key from now on; return its ``kid``.

        Tokens signed before stay valid until they expire.
        """
        with self._locked():
            if not self._state.exists():
                state = self._load_or_create(now)
            else:
                old = self._load_or_create(now)
                retired = (*old.retired, _RetiredKey(old.signing.jwk, old.signing.latest_exp))
                state = _State(_new_key(), _still_needed(retired, now))
                if len(state.retired) >= _MAX_KEYS:
                    raise _unusable(
                        self.directory,
                        f"{len(state.retired)} retired keys still have valid tokens",
                        "Rotate again when some have expired, and issue shorter-lived tokens.",
                    )
            self._save(state)
        return state.signing.jwk["kid"]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the directory for one change. An `OSError` inside becomes a `ConfigError`."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_closed_directory(self.directory, Trust.of_this_process()):
                raise _unusable(
                    self.directory,
                    "can be written by other users",
                    f"Run: chmod 700 {self.directory}",
                )
            lock = os.open(
                self.directory / "lock",
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            try:
                give_to_owner_of(self.directory, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
                for partial in self.directory.glob(TEMPORARY_GLOB):  # left by a killed process
                    partial.unlink()
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise _unusable(
                error.filename or self.directory,
                error.strerror or type(error).__name__,
                "Name a directory that this user may write, on a disk with free space.",
            ) from None

    def _load_or_create(self, now: float) -> _State:
        """Return the state on disk without the retired keys that are not needed, or a first one."""
        try:
            with self._state.open("rb") as file:
                if not is_secret(file.fileno(), Trust.of_this_process()):
                    raise _unusable(
                        self._state,
                        "can be read by other users",
                        f"Run: chmod 600 {self._state}",
                    )
                data = file.read()
        except FileNotFoundError:
            return _State(_new_key(), ())
        try:
            state = _parse(data)
        except (ValueError, KeyError, TypeError):
            raise _unusable(
                self._state,
                "is not the state of a local issuer",
                "Restore it from a backup, or move the directory away; its tokens are void then.",
            ) from None
        return _State(state.signing, _still_needed(state.retired, now))

    def _save(self, state: _State) -> None:
        """Write `state` durably, then the published key set, each only if it differs."""
        document = {
            "version": 1,
            "signing": {
                "jwk": state.signing.jwk,
                "pem": state.signing.pem,
                "latest_exp": state.signing.latest_exp,
            },
            "retired": [{"jwk": key.jwk, "latest_exp": key.latest_exp} for key in state.retired],
        }
        _write_if_changed(self._state, document, 0o600)
        _write_if_changed(
            self.key_set, {"keys": [state.signing.jwk, *(key.jwk for key in state.retired)]}, 0o644
        )


def _unusable(path: object, message: str, hint: str) -> ConfigError:
    """Return the error for a directory that cannot be used."""
    return ConfigError([Problem(str(path), message, hint)])


def _new_key() -> _SigningKey:
    """Make a P-256 key, named by its RFC 7638 thumbprint."""
    private = ec.generate_private_key(ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    required = {
        "crv": "P-256",
        "kty": "EC",
        "x": base64url_encode(numbers.x.to_bytes(32)),
        "y": base64url_encode(numbers.y.to_bytes(32)),
    }
    thumbprint = hashlib.sha256(
        json.dumps(required, separators=(",", ":"), sort_keys=True).encode()
    ).digest()
    jwk = {**required, "kid": base64url_encode(thumbprint), "alg": "ES256", "use": "sig"}
    return _SigningKey(
        jwk,
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii"),
        0,
    )


def _still_needed(retired: Sequence[_RetiredKey], now: float) -> tuple[_RetiredKey, ...]:
    """Return the retired keys whose tokens have not all expired."""
    return tuple(key for key in retired if key.latest_exp + _RETIREMENT_SECONDS > now)


def _parse(data: bytes) -> _State:
    """Parse ``state.json``. Raises `ValueError`, `KeyError` or `TypeError` for other content."""
    document = json_object(data)
    if document["version"] != 1:
        raise ValueError
    signing, retired = document["signing"], document["retired"]
    if not isinstance(signing, dict) or not isinstance(retired, list):
        raise TypeError
    _private(signing["pem"])
    return _State(
        _SigningKey(_public(signing["jwk"]), signing["pem"], int(signing["latest_exp"])),
        tuple(_RetiredKey(_public(key["jwk"]), int(key["latest_exp"])) for key in retired),
    )


def _private(pem: str) -> ec.EllipticCurvePrivateKey:
    """Return the signing key in `pem`."""
    key = load_pem_private_key(pem.encode("ascii"), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError
    return key


def _public(jwk: object) -> dict[str, str]:
    """Return a public JWK of this issuer.

    It has exactly the members that `_new_key` writes, so that no secret can be published.
    """
    if not isinstance(jwk, dict) or set(jwk) != {"crv", "kty", "x", "y", "kid", "alg", "use"}:
        raise TypeError
    return {str(name): str(value) for name, value in jwk.items()}


def _write_if_changed(path: Path, document: object, mode: int) -> None:
    """Write `document` as JSON unless the file has that content."""
    data = (json.dumps(document, indent=2) + "\n").encode()
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    replace_atomically(path, data, mode)
