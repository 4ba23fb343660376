"""The keys an issuer publishes, vetted before one of them is ever used.

Implements JWK sets (RFC 7517, RFC 7518 section 6, RFC 8037). Trusts that the set came from the
issuer; trusts nothing in it. The signature library alone would accept encryption keys, 1024-bit
RSA, two keys under one ``kid``, symmetric keys between public ones and sloppy base64. What holds
here:

- A key we have no use for (another type, curve, algorithm, use or operation; too weak; malformed)
is skipped with a note:
  issuers publish encryption keys and curves of the future beside what we need.
- The whole set is refused when it publishes a secret (a symmetric key, or the private part of any
key: whoever can read it
  can sign), when two usable keys share a ``kid``, when no usable key is left, and when it is over
  the limits.
- The algorithms of a key are settled when it is loaded: the JWK's ``alg``, else the natural one of
its type. A token can
  choose among keys, never among algorithms; ``none`` and HS* are in no table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.common.text import is_printable
from proxy.identity.encoding import base64url, json_object

SET_LIMIT_BYTES = 256 * 1024
SET_LIMIT_KEYS = 100
RSA_BITS = range(2048, 8193)
"""Below, a key can be factored; above, one verification takes milliseconds, which floods would use.
"""

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

# RFC 7518 section 6.2.2, 6.3.2 and 6.4: every member that is secret.
_SECRETS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))


class KeySetError(ValueError):
    """The set as a whole is refused; the text says why and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One vetted public key. `algorithms` are the JOSE names it may verify; `identity` its public
    bytes, to compare by.
    """

    kid: str | None
    algorithms: tuple[str, ...]
    public: PublicKey
    spki: bytes


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one issuer, and `notes` on those that were skipped (one safe line each)."""

    keys: tuple[Key, ...]
    warnings: tuple[str, ...] = ()
    _by_kid: Mapping[str, Key] = field(default_factory=dict)

    def find(self, kid: str | None) -> Key | None:
        """The key a token names; the only one there is for a token that names none (RFC 7515
        section 4.1.4).
        """
        if kid is not None:
            return self._by_kid.get(kid)
        return self.keys[0] if len(self.keys) == 1 else None

    def dropped_keys_of(self, other: "KeySet") -> bool:
        """True when a key of `other` is not in this set any more: what it signed must not be
        believed on.
        """
        return not {(key.kid, key.algorithms, key.spki) for key in other.keys} <= {
            (key.kid, key.algorithms, key.spki) for key in self.keys
        }


def load_key_set(data: bytes) -> KeySet:
    """Read and vet the JWK set in `data`. Raises `KeySetError`."""
    if len(data) > SET_LIMIT_BYTES:
        raise KeySetError(f"the key set is over {SET_LIMIT_BYTES} bytes")
    try:
        entries = json_object(data).get("keys")
    except ValueError as error:
        raise KeySetError(f"the key set is no JWK set: {error}") from None
    if not isinstance(entries, list):
        raise KeySetError("the key set is no JWK set: it has no list named keys")
    if len(entries) > SET_LIMIT_KEYS:
        raise KeySetError(f"the key set has more than {SET_LIMIT_KEYS} keys")
    keys: list[Key] = []
    notes: list[str] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise KeySetError(f"keys[{number}] is not an object")
        if entry.get("kty") == "oct" or not _SECRETS.isdisjoint(entry):
            raise KeySetError(f"keys[{number}] is or holds a secret, in a document that is public")
        try:
            keys.append(_vet(entry))
        except ValueError as error:
            notes.append(f"keys[{number}] skipped: {error}")
    named = [key.kid for key in keys if key.kid is not None]
    if len(set(named)) != len(named):
        raise KeySetError("two keys of the set share a kid")
    if not keys:
        raise KeySetError("; ".join(["the key set has no usable key", *notes[:3]]))
    return KeySet(tuple(keys), tuple(notes), {key.kid: key for key in keys if key.kid is not None})


def _vet(jwk: Mapping[str, object]) -> Key:
    """Make a `Key` of one JWK, or raise `ValueError` saying why it is of no use."""
    if jwk.get("use", "sig") != "sig":
        raise ValueError("its use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("its key_ops do not hold verify")
    kid = jwk.get("kid")
    if kid is not None and not is_printable(kid):
        raise ValueError("its kid is not a printable string")
    kind = jwk.get("kty")
    build = _BUILDERS.get(kind) if isinstance(kind, str) else None
    if build is None:
        raise ValueError("its kty is not RSA, EC or OKP")
    try:
        public, natural, possible = build(jwk)
    except UnsupportedAlgorithm:
        raise ValueError("its curve is not supported here") from None
    algorithm = jwk.get("alg")
    if algorithm is not None and algorithm not in possible:
        raise ValueError("its alg is not one that its type can verify")
    algorithms = natural if algorithm is None else (str(algorithm),)
    identity = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(kid, algorithms, public, identity)


_Built: TypeAlias = tuple[PublicKey, tuple[str, ...], tuple[str, ...]]
"""A public key, the algorithms it is pinned to when the JWK has no `alg`, and those an `alg` may
name.
"""


def _rsa(jwk: Mapping[str, object]) -> _Built:
    """RFC 7518 section 6.3.1. A leading zero byte is let pass, as its note says that libraries
    write one.
    """
    modulus, exponent = _integer(jwk, "n"), _integer(jwk, "e")
    if modulus.bit_length() not in RSA_BITS:
        raise ValueError(f"its RSA modulus has not {RSA_BITS.start} to {RSA_BITS.stop - 1} bits")
    if modulus % 2 == 0 or exponent % 2 == 0 or not 3 <= exponent < 2**32:
        raise ValueError("its RSA numbers are not those of a key")
    try:
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise ValueError("its RSA numbers are not those of a key") from None
    return public, ("RS256",), ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


_CURVES: dict[str, tuple[ec.EllipticCurve, int, str]] = {
    "P-256": (ec.SECP256R1(), 32, "ES256"),
    "P-384": (ec.SECP384R1(), 48, "ES384"),
    "P-521": (ec.SECP521R1(), 66, "ES512"),
}


def _ec(jwk: Mapping[str, object]) -> _Built:
    """RFC 7518 section 6.2.1: coordinates of exactly the curve's length, and a point that is on the
    curve.
    """
    curve = jwk.get("crv")
    if not isinstance(curve, str) or curve not in _CURVES:
        raise ValueError("its curve is not P-256, P-384 or P-521")
    shape, length, algorithm = _CURVES[curve]
    x, y = _octets(jwk, "x"), _octets(jwk, "y")
    if len(x) != length or len(y) != length:
        raise ValueError("its coordinates are not as long as the curve's")
    try:
        public = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x), int.from_bytes(y), shape
        ).public_key()
    except ValueError:
        raise ValueError("its point is not on the curve") from None
    return public, (algorithm,), (algorithm,)


def _okp(jwk: Mapping[str, object]) -> _Built:
    """RFC 8037 section 2. Ed25519 has two names: EdDSA, and Ed25519 since RFC 9864; both are the
    same operation.
    """
    if jwk.get("crv") != "Ed25519":
        raise ValueError("its curve is not Ed25519")
    x = _octets(jwk, "x")
    if len(x) != 32:
        raise ValueError("its public key is not 32 bytes long")
    names = ("EdDSA", "Ed25519")
    return ed25519.Ed25519PublicKey.from_public_bytes(x), names, names


_BUILDERS: dict[str, Callable[[Mapping[str, object]], _Built]] = {
    "RSA": _rsa,
    "EC": _ec,
    "OKP": _okp,
}


def _octets(jwk: Mapping[str, object], name: str) -> bytes:
    """The bytes of the member `name`, which has to be strict base64url."""
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError(f"it has no {name}")
    try:
        return base64url(value)
    except ValueError as error:
        raise ValueError(f"its {name} is {error}") from None


def _integer(jwk: Mapping[str, object], name: str) -> int:
    """The unsigned big-endian number in the member `name`."""
    return int.from_bytes(_octets(jwk, name))
