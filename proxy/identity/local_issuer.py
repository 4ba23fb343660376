"""The local issuer: tokens for those who have no identity provider, made from a directory of two
files.

Implements an issuer of access tokens (RFC 9068) signed with ES256. The directory (0700) holds:

- ``state.json`` (0600): the signing key with its private part, and the public parts of retired
keys, each with the latest
  expiry of any token it signed. It is the truth, and it is durable before a token leaves.
- ``jwks.json`` (0644): the public parts, for the gate; made from the state, and mended from it
whenever it differs.
- ``lock``: taken (flock) for every change, so that any number of processes may issue and rotate at
once.

Rotation makes a new signing key and forgets the old private part. The old public part stays
published until the last token it signed has expired, and is dropped by the next `issue` or `rotate`
after that. Trusts whoever may write the directory. Refuses a state that others may read or a
directory that others may write, and never replaces a damaged one.
"""

import fcntl
import hashlib
import json
import os
import secrets
import stat
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
from proxy.common.text import is_printable
from proxy.errors import ConfigError, Problem
from proxy.identity.credentials import TOKEN_LIMIT
from proxy.identity.encoding import base64url_encode, json_object

DEFAULT_ISSUER = "https://callgate.local/issuer"
DEFAULT_AUDIENCE = "callgate"
MAX_LIFETIME_SECONDS = 366 * 86_400
"""A leap year: a token that is meant to live longer is a password."""

_RETIREMENT_SECONDS = 60
"""A retired key stays published this long after its last token's expiry, for verifiers whose clock
is behind.
"""

_KEYS_LIMIT = 50
"""Published keys; the verifier takes a set of at most 100."""


@dataclass(frozen=True, slots=True)
class _SigningKey:
    """The key that signs now: its public JWK, its private part as PEM, and the latest expiry of
    what it signed.
    """

    jwk: dict[str, str]
    pem: str
    latest_exp: int


@dataclass(frozen=True, slots=True)
class _RetiredKey:
    """A key that signs no more."""

    jwk: dict[str, str]
    latest_exp: int


@dataclass(frozen=True, slots=True)
class _State:
    """What ``state.json`` says."""

    signing: _SigningKey
    retired: tuple[_RetiredKey, ...]


class LocalIssuer:
    """Issues tokens of `issuer` for `audience` from the keys in `directory`, which are made on
    first use.

    Its methods raise `ConfigError` when the directory cannot be used and `ValueError` for arguments
    that make no token.
    """

    def __init__(
        self,
        directory: Path,
        *,
        issuer: str = DEFAULT_ISSUER,
        audience: str = DEFAULT_AUDIENCE,
        max_lifetime_seconds: float = MAX_LIFETIME_SECONDS,
    ) -> None:
        """Touch nothing yet. No token is issued for more than `max_lifetime_seconds` seconds, nor for more
        than 366 days.
        """
        self.directory = directory
        self.issuer = issuer
        self.audience = audience
        self.max_lifetime_seconds = min(max_lifetime_seconds, MAX_LIFETIME_SECONDS)
        self.key_set = directory / "jwks.json"
        self._state = directory / "state.json"

    def prepare(self, now: float) -> None:
        """Make the keys if there are none, drop retired ones that are done, and publish. `now` is
        in Unix seconds.
        """
        with self._locked():
            self._save(self._load_or_begin(now))

    def issue(
        self,
        subject: str,
        groups: Sequence[str],
        lifetime_seconds: int,
        now: float,
        *,
        audience: str | None = None,
    ) -> str:
        """A token for `subject` in `groups`, valid for `lifetime_seconds` seconds from `now` (Unix seconds)."""
        if not is_printable(subject):
            raise ValueError("the subject has to be 1 to 255 printable characters")
        if isinstance(groups, str) or not all(is_printable(group) for group in groups):
            raise ValueError("a group has to be 1 to 255 printable characters")
        if not 1 <= lifetime_seconds <= self.max_lifetime_seconds:
            raise ValueError(
                f"the lifetime has to be 1 to {self.max_lifetime_seconds:.0f} seconds here (local_issuer.max_lifetime_seconds)"
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
            state = self._load_or_begin(now)
            key = state.signing
            # Durable first: a token must not outlive the memory of how long its key has to stay
            # published.
            self._save(
                _State(_SigningKey(key.jwk, key.pem, max(key.latest_exp, expires)), state.retired)
            )
        headers = {"typ": "at+jwt", "kid": key.jwk["kid"]}
        token = jwt.encode(claims, _private(key.pem), algorithm="ES256", headers=headers)
        if len(token) > TOKEN_LIMIT:
            raise ValueError(
                f"with these groups the token is over the {TOKEN_LIMIT} bytes that the gate reads"
            )
        return token

    def rotate(self, now: float) -> str:
        """Sign with a new key from now on; its ``kid``. Tokens signed before stay valid until they
        expire.
        """
        with self._locked():
            if not self._state.exists():
                state = self._load_or_begin(now)
            else:
                old = self._load_or_begin(now)
                retired = (*old.retired, _RetiredKey(old.signing.jwk, old.signing.latest_exp))
                state = _State(_new_key(), _still_needed(retired, now))
                if len(state.retired) >= _KEYS_LIMIT:
                    what = f"{len(state.retired)} retired keys still have valid tokens"
                    raise ConfigError(
                        [
                            Problem(
                                str(self.directory),
                                what,
                                "Rotate again when some have expired; issue shorter-lived tokens.",
                            )
                        ]
                    )
            self._save(state)
        return state.signing.jwk["kid"]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory for one change; what the operating system refuses becomes a
        `ConfigError`.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if stat.S_IMODE(self.directory.stat().st_mode) & 0o022:
                raise ConfigError(
                    [
                        Problem(
                            str(self.directory),
                            "others may write here",
                            f"Run: chmod 700 {self.directory}",
                        )
                    ]
                )
            lock = os.open(
                self.directory / "lock",
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            try:
                give_to_owner_of(self.directory, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
                # of a process that was killed while it wrote
                for left in self.directory.glob(TEMPORARY_GLOB):
                    left.unlink()
                yield
            finally:
                os.close(lock)
        except OSError as error:
            place, what = (
                str(error.filename or self.directory),
                error.strerror or type(error).__name__,
            )
            raise ConfigError(
                [
                    Problem(
                        place,
                        what,
                        "Give a directory that this user may write, on a disk with room.",
                    )
                ]
            ) from None

    def _load_or_begin(self, now: float) -> _State:
        """The state on disk without retired keys that are done, or a first one."""
        try:
            with self._state.open("rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise ConfigError(
                        [
                            Problem(
                                str(self._state),
                                "others may read the signing key",
                                f"Run: chmod 600 {self._state}",
                            )
                        ]
                    )
                data = file.read()
        except FileNotFoundError:
            return _State(_new_key(), ())
        try:
            state = _parse(data)
        except (ValueError, KeyError, TypeError):
            what = "this is not the state of a local issuer"
            remedy = "Restore it from a backup, or move the directory away to begin anew (all its tokens become invalid)."
            raise ConfigError([Problem(str(self._state), what, remedy)]) from None
        return _State(state.signing, _still_needed(state.retired, now))

    def _save(self, state: _State) -> None:
        """Make `state` durable, then the published key set, each only if it differs."""
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


def _new_key() -> _SigningKey:
    """A fresh P-256 key, named by its RFC 7638 thumbprint."""
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
    """The retired keys whose tokens have not all expired."""
    return tuple(key for key in retired if key.latest_exp + _RETIREMENT_SECONDS > now)


def _parse(data: bytes) -> _State:
    """Read ``state.json``. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
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
    """The signing key in `pem`."""
    key = load_pem_private_key(pem.encode("ascii"), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError
    return key


def _public(jwk: object) -> dict[str, str]:
    """A public JWK of this issuer: exactly the members `_new_key` writes, so that no secret can be
    published.
    """
    if not isinstance(jwk, dict) or set(jwk) != {"crv", "kty", "x", "y", "kid", "alg", "use"}:
        raise TypeError
    return {str(name): str(value) for name, value in jwk.items()}


def _write_if_changed(path: Path, document: object, mode: int) -> None:
    """Write `document` as JSON unless it stands there already."""
    data = (json.dumps(document, indent=2) + "\n").encode()
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    replace_atomically(path, data, mode)
