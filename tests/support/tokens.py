"""Keys, tokens and key sets for the tests, made without the code under test and without its JWT
library.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from functools import cache
from math import gcd, isqrt
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.identity.verifier import RoleResolver, Verifier
from proxy.model import RoleGrant

NOW = 1_800_000_000.0
ISSUER = "https://idp.example/tenant"
AUDIENCE = "api://luigi"

Json = Mapping[str, object]


def b64(data: bytes) -> str:
    """Encode base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def part(value: object) -> str:
    """Encode one part of a token: JSON in base64url; bytes are encoded as they are."""
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def number(value: int, length: int | None = None) -> str:
    """Encode an integer as a JWK has it."""
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8))


@cache
def rsa_private(bits: int = 2048, which: int = 0) -> rsa.RSAPrivateKey:
    """Return an RSA key, cached since it is slow to make; `which` tells several of one size apart."""
    return rsa.generate_private_key(65537, bits)


@cache
def roca_modulus(bits: int = 2048, primes: int = 126, seed: int = 1) -> int:
    """Return a modulus as the library of CVE-2017-15361 made them.

    Its primes are ``k * M + (65537**a mod M)``, where M is the product of the first `primes`
    primes: 39 for keys up to 960 bits, 71 up to 1952, 126 up to 3936, 225 above.
    """
    random = Random(seed)
    base = primorial(primes)

    def prime() -> int:
        while True:
            k = random.randrange((1 << bits // 2 - 1) // base, (1 << bits // 2) // base)
            found = k * base + pow(65537, random.randrange(1 << 64), base)
            if found.bit_length() == bits // 2 and is_prime(found):
                return found

    while True:
        modulus = prime() * prime()
        if modulus.bit_length() == bits:
            return modulus


@cache
def close_modulus(bits: int = 2048, apart: int = 1 << 500, seed: int = 1) -> int:
    """Return the product of two primes whose difference is about `apart`."""
    first = next_prime(Random(seed).getrandbits(bits // 2) | 3 << bits // 2 - 2)
    return first * next_prime(first + apart)


def primorial(count: int) -> int:
    """Return the product of the first `count` primes."""
    found, number = 1, 2
    while count:
        if gcd(number, found) == 1 and all(number % d for d in range(2, isqrt(number) + 1)):
            found *= number
            count -= 1
        number += 1
    return found


def next_prime(number: int) -> int:
    """Return the first prime from `number` on."""
    number |= 1
    while not is_prime(number):
        number += 2
    return number


def is_prime(number: int) -> bool:
    """Return whether `number` is a strong probable prime to a few bases."""
    if gcd(number, _SMALL) != 1:
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd //= 2
        twos += 1
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


_SMALL = primorial(60)


@cache
def ec_private(curve: str = "P-256", which: int = 0) -> ec.EllipticCurvePrivateKey:
    """Return a key on a NIST curve."""
    return ec.generate_private_key(
        {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[curve]
    )


@cache
def ed_private(which: int = 0) -> ed25519.Ed25519PrivateKey:
    """Return an Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
LENGTHS = {"P-256": 32, "P-384": 48, "P-521": 66}
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}


def jwk(private: Private, kid: str | None = None, **more: object) -> dict[str, object]:
    """Return the public JWK of `private`."""
    found: dict[str, object]
    match private:
        case rsa.RSAPrivateKey():
            rsa_numbers = private.public_key().public_numbers()
            found = {"kty": "RSA", "n": number(rsa_numbers.n), "e": number(rsa_numbers.e)}
        case ec.EllipticCurvePrivateKey():
            numbers, curve = private.public_key().public_numbers(), CURVES[private.curve.name]
            found = {
                "kty": "EC",
                "crv": curve,
                "x": number(numbers.x, LENGTHS[curve]),
                "y": number(numbers.y, LENGTHS[curve]),
            }
        case ed25519.Ed25519PrivateKey():
            found = {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": b64(private.public_key().public_bytes_raw()),
            }
    return found | ({} if kid is None else {"kid": kid}) | more


def signature(private: Private | bytes, algorithm: str, data: bytes) -> bytes:
    """Sign `data` as the JOSE `algorithm` asks."""
    if isinstance(private, bytes):
        return hmac.new(private, data, getattr(hashlib, "sha" + algorithm[-3:])).digest()
    match private:
        case rsa.RSAPrivateKey():
            digest = HASHES[algorithm[-3:]]
            if algorithm.startswith("PS"):
                return private.sign(
                    data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest
                )
            return private.sign(data, padding.PKCS1v15(), digest)
        case ec.EllipticCurvePrivateKey():
            length = LENGTHS[CURVES[private.curve.name]]
            r, s = decode_dss_signature(private.sign(data, ec.ECDSA(HASHES[algorithm[-3:]])))
            return r.to_bytes(length) + s.to_bytes(length)
        case ed25519.Ed25519PrivateKey():
            return private.sign(data)


def token(private: Private | bytes, header: object, claims: object) -> str:
    """Return a compact JWT. `header` and `claims` are objects, or bytes that are encoded as they
    are; `alg` chooses the signature.
    """
    signed = f"{part(header)}.{part(claims)}"
    algorithm = str(header["alg"]) if isinstance(header, Mapping) else "ES256"
    return f"{signed}.{b64(signature(private, algorithm, signed.encode()))}"


def header(**more: object) -> dict[str, object]:
    """Return the header of a good token signed by the P-256 key, with `more` over it."""
    return {"alg": "ES256", "typ": "at+jwt", "kid": "ec"} | more


def claims(**more: object) -> dict[str, object]:
    """Return the claims of a good token, with `more` over them."""
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": NOW - 10,
        "exp": NOW + 3600,
        "groups": ["etl", "dev"],
    } | more


def without(found: Mapping[str, object], *names: str) -> dict[str, object]:
    """Return `found` without `names`."""
    return {name: value for name, value in found.items() if name not in names}


def good(**more: object) -> str:
    """Return a good token, with `more` claims."""
    return token(ec_private(), header(), claims(**more))


def key_set(*jwks: Json) -> bytes:
    """Return a JWK set."""
    return json.dumps({"keys": jwks}).encode()


def all_keys() -> bytes:
    """Return a JWK set with one key of every type, each named by its type."""
    return key_set(
        jwk(rsa_private(), "rsa"),
        jwk(rsa_private(), "pss", alg="PS256"),
        jwk(ec_private(), "ec"),
        jwk(ec_private("P-384"), "ec384"),
        jwk(ec_private("P-521"), "ec521"),
        jwk(ed_private(), "ed"),
    )


def viewer(_issuer: str, _subject: str, _groups: tuple[str, ...], _claims: Json) -> RoleGrant:
    """Make every subject a viewer and none an agent."""
    return RoleGrant(("viewer",))


def verifier(
    path: Path,
    keys: bytes | None = None,
    profile: TokenProfile | None = None,
    resolve_roles: RoleResolver = viewer,
) -> Verifier:
    """Return a verifier with one issuer, whose keys are in the file at `path`."""
    path.write_bytes(all_keys() if keys is None else keys)
    return Verifier(
        [Issuer("idp", profile or TokenProfile(ISSUER, (AUDIENCE,)), JwksFile(path))], resolve_roles
    )


def bearer(text: str) -> bytes:
    """Return an Authorization value."""
    return b"Bearer " + text.encode()


class Clock:
    """A clock that moves only when a test sets `now`."""

    def __init__(self) -> None:
        """Begin at some moment."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now
