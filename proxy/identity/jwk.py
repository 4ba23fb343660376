"""The keys that an issuer publishes, vetted before one of them is used.

Implements JWK sets (RFC 7517, RFC 7518 section 6, RFC 8037). Trusts that the set came from the
issuer, and trusts nothing in it. The signature library alone would accept encryption keys, 1024-bit
RSA, two keys under one ``kid``, symmetric keys between public ones, and sloppy base64. The rules:

- A key without use here is skipped with a warning: another type, curve, algorithm, use or
  operation, too weak (`proxy.identity.weak_keys`), or malformed. Issuers publish encryption keys
  and newer curves in the same set.
- The set is refused when it publishes a secret (a symmetric key, or the private part of any key:
  every reader of the set could sign), when two usable keys share a ``kid``, and when it is over the
  limits.
- A set without a usable key is a set all the same: its issuer has withdrawn the keys that it had.
- The algorithms of a key are fixed when it is loaded: the JWK's ``alg``, else the natural one of
  its type. A token can choose among keys, never among algorithms. ``none`` and HS* are in no table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.common.text import is_printable
from proxy.identity.encoding import base64url, json_object
from proxy.identity.weak_keys import is_small_order_ed25519, rsa_weakness

SET_LIMIT_BYTES = 256 * 1024
SET_LIMIT_KEYS = 100
# Bits of an RSA modulus. A shorter one can be factored. With a longer one a verification takes
# milliseconds, which a flood of tokens would exploit.
RSA_BITS = range(2048, 8193)

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

# RFC 7518 section 6.2.2, 6.3.2 and 6.4: every member that is secret.
_SECRETS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))


class KeySetError(ValueError):
    """A refusal of a complete set. The text says why and holds nothing of the set."""


@dataclass(frozen=True, slots=True)
class Key:
    """One vetted public key.

    `algorithms` are the JOSE names of the signatures that it may verify. `spki` is the key as a DER
    SubjectPublicKeyInfo, by which keys are compared.
    """

    kid: str | None
    algorithms: tuple[str, ...]
    public: PublicKey
    spki: bytes


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one issuer; `warnings` has one safe line for each that was skipped."""

    keys: tuple[Key, ...]
    warnings: tuple[str, ...] = ()
    _by_kid: Mapping[str, Key] = field(default_factory=dict)

    def find(self, kid: str | None) -> Key | None:
        """Return the key with this `kid`.

        A token without one (RFC 7515 section 4.1.4) gets the only key, if there is only one.
        """
        if kid is not None:
            return self._by_kid.get(kid)
        return self.keys[0] if len(self.keys) == 1 else None

    def dropped_keys_of(self, other: "KeySet") -> bool:
        """Return whether a key of `other` is not in this set any more.

        The tokens that it signed must not be accepted any longer.
        """
        return not {(key.kid, key.algorithms, key.spki) for key in other.keys} <= {
            (key.kid, key.algorithms, key.spki) for key in self.keys
        }


def load_key_set(data: bytes) -> KeySet:
    """Parse and vet the JWK set in `data`. Raises `KeySetError`."""
    if len(data) > SET_LIMIT_BYTES:
        raise KeySetError(f"the key set is over {SET_LIMIT_BYTES} bytes")
    try:
        entries = json_object(data).get("keys")
    except ValueError as error:
        raise KeySetError(f"the key set is not a JWK set: {error}") from None
    if not isinstance(entries, list):
        raise KeySetError("the key set is not a JWK set: it has no list named keys")
    if len(entries) > SET_LIMIT_KEYS:
        raise KeySetError(f"the key set has more than {SET_LIMIT_KEYS} keys")
    keys: list[Key] = []
    warnings: list[str] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise KeySetError(f"keys[{number}] is not an object")
        if entry.get("kty") == "oct" or not _SECRETS.isdisjoint(entry):
            raise KeySetError(f"keys[{number}] holds a secret, and the document is public")
        try:
            keys.append(_vet(entry))
        except ValueError as error:
            warnings.append(f"keys[{number}] skipped: {error}")
    named = [key.kid for key in keys if key.kid is not None]
    if len(set(named)) != len(named):
        raise KeySetError("two keys of the set share a kid")
    return KeySet(
        tuple(keys), tuple(warnings), {key.kid: key for key in keys if key.kid is not None}
    )


def _vet(jwk: Mapping[str, object]) -> Key:
    """Return the `Key` of one JWK. Raises `ValueError`, which says why it has no use here."""
    if jwk.get("use", "sig") != "sig":
        raise ValueError("its use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("its key_ops do not include verify")
    kid = jwk.get("kid")
    if kid is not None and not is_printable(kid):
        raise ValueError("its kid is not a printable string")
    kind = jwk.get("kty")
    build = _BUILDERS.get(kind) if isinstance(kind, str) else None
    if build is None:
        raise ValueError("its kty is not RSA, EC or OKP")
    try:
        public, natural, possible = build(jwk)
    except UnsupportedAlgorithm:  # pragma: no cover (an OpenSSL that was built without a curve)
        raise ValueError("its curve is not supported here") from None
    algorithm = jwk.get("alg")
    if algorithm is not None and algorithm not in possible:
        raise ValueError("its alg is not one that its type can verify")
    algorithms = natural if algorithm is None else (str(algorithm),)
    identity = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(kid, algorithms, public, identity)


_Built: TypeAlias = tuple[PublicKey, tuple[str, ...], tuple[str, ...]]
"""A public key, its algorithms when the JWK has no `alg`, and those that an `alg` may name."""


def _rsa(jwk: Mapping[str, object]) -> _Built:
    """Build an RSA key (RFC 7518 section 6.3.1).

    A leading zero byte is accepted: the note there says that libraries write one.
    """
    modulus, exponent = _integer(jwk, "n"), _integer(jwk, "e")
    if modulus.bit_length() not in RSA_BITS:
        raise ValueError(
            f"its RSA modulus does not have {RSA_BITS.start} to {RSA_BITS.stop - 1} bits"
        )
    if modulus % 2 == 0 or exponent % 2 == 0 or not 3 <= exponent < 2**32:
        raise ValueError("its RSA numbers are not a valid key")
    weakness = rsa_weakness(modulus)
    if weakness is not None:
        raise ValueError(weakness)
    try:
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:  # pragma: no cover (the checks above are stricter than today's library)
        raise ValueError("its RSA numbers are not a valid key") from None
    return public, ("RS256",), ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


_CURVES: dict[str, tuple[ec.EllipticCurve, int, str]] = {
    "P-256": (ec.SECP256R1(), 32, "ES256"),
    "P-384": (ec.SECP384R1(), 48, "ES384"),
    "P-521": (ec.SECP521R1(), 66, "ES512"),
}


def _ec(jwk: Mapping[str, object]) -> _Built:
    """Build a key on a NIST curve (RFC 7518 section 6.2.1).

    The coordinates have exactly the curve's length, and the point is on the curve.
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
    """Build an Ed25519 key (RFC 8037 section 2).

    Its algorithm has two names for the same operation: EdDSA, and Ed25519 since RFC 9864.
    """
    if jwk.get("crv") != "Ed25519":
        raise ValueError("its curve is not Ed25519")
    x = _octets(jwk, "x")
    if len(x) != 32:
        raise ValueError("its public key is not 32 bytes long")
    if is_small_order_ed25519(x):
        raise ValueError("its public key is a point of small order")
    names = ("EdDSA", "Ed25519")
    return ed25519.Ed25519PublicKey.from_public_bytes(x), names, names


_BUILDERS: dict[str, Callable[[Mapping[str, object]], _Built]] = {
    "RSA": _rsa,
    "EC": _ec,
    "OKP": _okp,
}


def _octets(jwk: Mapping[str, object], name: str) -> bytes:
    """Return the bytes of the member `name`, which must be strict base64url."""
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError(f"it has no {name}")
    try:
        return base64url(value)
    except ValueError as error:
        raise ValueError(f"its {name} is {error}") from None


def _integer(jwk: Mapping[str, object], name: str) -> int:
    """Return the unsigned big-endian number in the member `name`."""
    return int.from_bytes(_octets(jwk, name))
