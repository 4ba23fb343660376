import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from proxy.identity.jwk import SET_LIMIT_KEYS, KeySetError, load_key_set
from tests.support.tokens import (
    all_keys,
    b64,
    close_modulus,
    ec_private,
    ed_private,
    jwk,
    key_set,
    number,
    roca_modulus,
    rsa_private,
)


def swap(found: dict[str, object], **more: object) -> dict[str, object]:
    """Return `found` with `more` over it."""
    return found | more


def test_each_type_is_pinned_to_its_algorithm() -> None:
    """A key verifies its `alg`, or else the one natural algorithm of its type, and no other."""
    pinned = {key.kid: key.algorithms for key in load_key_set(all_keys()).keys}
    assert pinned == {
        "rsa": ("RS256",),
        "pss": ("PS256",),
        "ec": ("ES256",),
        "ec384": ("ES384",),
        "ec521": ("ES512",),
        "ed": ("EdDSA", "Ed25519"),
    }


def test_use_and_operations_that_allow_verifying_are_accepted() -> None:
    """`use` may be sig and `key_ops` may hold verify; both may be absent; unknown members are
    ignored.
    """
    found = load_key_set(
        key_set(
            jwk(ec_private(), "a", use="sig", key_ops=["verify"], x5t="x"),
            jwk(ec_private(which=1), "b"),
        )
    )
    assert [key.kid for key in found.keys] == ["a", "b"]


SKIPPED: dict[str, Callable[[], dict[str, object]]] = {
    "encryption key": lambda: jwk(rsa_private(), "bad", use="enc"),
    "use of another type": lambda: jwk(rsa_private(), "bad", use=["sig"]),
    "use null": lambda: jwk(rsa_private(), "bad", use=None),
    "operations without verify": lambda: jwk(rsa_private(), "bad", key_ops=["wrapKey"]),
    "operations empty": lambda: jwk(rsa_private(), "bad", key_ops=[]),
    "operations not a list": lambda: jwk(rsa_private(), "bad", key_ops="verify"),
    "RSA of 1024 bits": lambda: jwk(rsa.generate_private_key(65537, 1024), "bad"),  # noqa: S505  (what has to be refused)
    "RSA of 2040 bits": lambda: swap(jwk(rsa_private(), "bad"), n=number((1 << 2039) + 1)),
    "RSA of 16384 bits": lambda: swap(jwk(rsa_private(), "bad"), n=number((1 << 16383) + 1)),
    "RSA with an even modulus": lambda: swap(jwk(rsa_private(), "bad"), n=number(1 << 2047)),
    "RSA with exponent 1": lambda: swap(jwk(rsa_private(), "bad"), e=number(1)),
    "RSA with an even exponent": lambda: swap(jwk(rsa_private(), "bad"), e=number(65536)),
    "RSA with a huge exponent": lambda: swap(jwk(rsa_private(), "bad"), e=number((1 << 64) + 1)),
    "RSA modulus padded": lambda: swap(
        jwk(rsa_private(), "bad"), n=str(jwk(rsa_private())["n"]) + "=="
    ),
    "RSA modulus with a line end": lambda: swap(
        jwk(rsa_private(), "bad"), n=str(jwk(rsa_private())["n"]) + "\n"
    ),
    "RSA modulus as a number": lambda: swap(jwk(rsa_private(), "bad"), n=5),
    "RSA without exponent": lambda: {
        name: value for name, value in jwk(rsa_private(), "bad").items() if name != "e"
    },
    "RSA with the ROCA fingerprint": lambda: swap(
        jwk(rsa_private(), "bad"), n=number(roca_modulus())
    ),
    "RSA of close primes": lambda: swap(jwk(rsa_private(), "bad"), n=number(close_modulus())),
    "RSA with a small factor": lambda: swap(
        jwk(rsa_private(), "bad"), n=number(751 * (1 << 2040 | 1))
    ),
    "Ed25519 of small order": lambda: swap(jwk(ed_private(), "bad"), x=b64(b"\x01" + bytes(31))),
    "RSA for HS256": lambda: jwk(rsa_private(), "bad", alg="HS256"),
    "RSA for none": lambda: jwk(rsa_private(), "bad", alg="none"),
    "RSA for encryption": lambda: jwk(rsa_private(), "bad", alg="RSA-OAEP"),
    "RSA for ES256": lambda: jwk(rsa_private(), "bad", alg="ES256"),
    "alg of another type": lambda: jwk(rsa_private(), "bad", alg=["RS256"]),
    "P-256 for ES384": lambda: jwk(ec_private(), "bad", alg="ES384"),
    "EC on secp256k1": lambda: swap(jwk(ec_private(), "bad"), crv="secp256k1"),
    "EC curve swapped": lambda: swap(jwk(ec_private(), "bad"), crv="P-384"),
    "EC point off the curve": lambda: swap(jwk(ec_private(), "bad"), x=b64(b"\x01" * 32)),
    "EC coordinate short": lambda: swap(jwk(ec_private(), "bad"), x=b64(b"\x01" * 31)),
    "EC at infinity": lambda: swap(jwk(ec_private(), "bad"), x=b64(bytes(32)), y=b64(bytes(32))),
    "Ed448": lambda: swap(jwk(ed_private(), "bad"), crv="Ed448"),
    "X25519": lambda: swap(jwk(ed_private(), "bad"), crv="X25519"),
    "Ed25519 short": lambda: swap(jwk(ed_private(), "bad"), x=b64(b"\x01" * 31)),
    "kid a number": lambda: swap(jwk(ec_private(), "bad"), kid=7),
    "kid empty": lambda: swap(jwk(ec_private(), "bad"), kid=""),
    "kid with a line end": lambda: swap(jwk(ec_private(), "bad"), kid="a\nb"),
    "unknown type": lambda: {"kty": "AKP", "kid": "bad"},
    "type of another type": lambda: {"kty": ["RSA"], "kid": "bad"},
    "no type": lambda: {"kid": "bad"},
}


@pytest.mark.parametrize("make", SKIPPED.values(), ids=SKIPPED)
def test_keys_without_use_are_skipped_with_a_warning(make: Callable[[], dict[str, object]]) -> None:
    """A good key in the same set still serves; without one the set has no key, and says why."""
    found = load_key_set(key_set(make(), jwk(ec_private(which=5), "good")))
    assert [key.kid for key in found.keys] == ["good"]
    assert len(found.warnings) == 1 and found.warnings[0].startswith("keys[0] skipped: ")
    alone = load_key_set(key_set(make()))
    assert (alone.keys, alone.warnings) == ((), found.warnings)


REFUSED: dict[str, Callable[[], bytes]] = {
    "symmetric key alone": lambda: key_set({"kty": "oct", "k": b64(b"s" * 32), "kid": "s"}),
    "symmetric key among others": lambda: key_set(
        {"kty": "oct", "k": b64(b"s" * 32), "kid": "s"}, jwk(ec_private(), "a")
    ),
    "symmetric key without value": lambda: key_set({"kty": "oct"}, jwk(ec_private(), "a")),
    "RSA private part": lambda: key_set(jwk(rsa_private(), "a", d="AQ")),
    "RSA prime": lambda: key_set(jwk(rsa_private(), "a", p="AQ"), jwk(ec_private(), "b")),
    "EC private part, encryption": lambda: key_set(
        jwk(ec_private(), "a", d="AQ", use="enc"), jwk(ec_private(which=1), "b")
    ),
    "two keys under one kid": lambda: key_set(jwk(ec_private(), "a"), jwk(rsa_private(), "a")),
    "the same key twice": lambda: key_set(jwk(ec_private(), "a"), jwk(ec_private(), "a")),
    "too many keys": lambda: key_set(
        *[jwk(ec_private(), str(n)) for n in range(SET_LIMIT_KEYS + 1)]
    ),
    "too large": lambda: key_set(jwk(ec_private(), "a", x5c="x" * 300_000)),
    "not JSON": lambda: b"<html>",
    "not an object": lambda: b"[]",
    "no keys member": lambda: b'{"key":[]}',
    "keys not a list": lambda: b'{"keys":{}}',
    "a key that is no object": lambda: b'{"keys":["a"]}',
    "keys twice": lambda: (
        b'{"keys":[],"keys":' + json.dumps([jwk(ec_private(), "a")]).encode() + b"}"
    ),
    "a member twice in a key": lambda: key_set(jwk(ec_private(), "a")).replace(
        b'"kty"', b'"kid": "b", "kty"'
    ),
    "not UTF-8": lambda: b'{"keys":[],"x":"\xff"}',
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_sets_that_are_refused(make: Callable[[], bytes]) -> None:
    """A published secret, two keys under one kid, and data that is no bounded JWK set refuse the
    complete set.
    """
    with pytest.raises(KeySetError) as refused:
        load_key_set(make())
    assert str(refused.value).isascii() and "\n" not in str(refused.value)


def test_a_set_may_be_empty() -> None:
    """An issuer withdraws all of its keys with an empty set: a set like any other."""
    assert load_key_set(key_set()).keys == ()


def test_a_kid_shared_with_an_encryption_key_is_not_ambiguous() -> None:
    """Two keys share a kid only if both could verify."""
    assert (
        len(load_key_set(key_set(jwk(ec_private(), "a"), jwk(rsa_private(), "a", use="enc"))).keys)
        == 1
    )


def test_the_key_that_a_token_finds() -> None:
    """A kid finds its own key. A token without a kid finds the only key there is, and none among
    several.
    """
    one = load_key_set(key_set(jwk(ec_private(), "a")))
    two = load_key_set(key_set(jwk(ec_private(), "a"), jwk(rsa_private())))
    assert one.find("a") is one.find(None) is one.keys[0]
    assert one.find("b") is None
    assert two.find(None) is None
    assert two.find("a") is two.keys[0]


def test_a_set_has_dropped_keys_that_are_gone_or_changed() -> None:
    """An added key drops nothing. A removed key does, and so does another key or algorithm under
    the same kid.
    """
    a, b = jwk(ec_private(), "a"), jwk(rsa_private(), "b")
    both, only_a = load_key_set(key_set(a, b)), load_key_set(key_set(a))
    assert not both.dropped_keys_of(only_a) and not both.dropped_keys_of(both)
    assert only_a.dropped_keys_of(both)
    assert load_key_set(key_set(jwk(ec_private(which=1), "a"))).dropped_keys_of(only_a)
    assert load_key_set(key_set(a, jwk(rsa_private(), "b", alg="PS256"))).dropped_keys_of(both)


MEMBERS = st.sampled_from(["keys", "kty", "crv", "n", "e", "x", "y", "kid", "alg", "use"])
LEAVES = (
    st.none()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["RSA", "EC", "OKP", "sig", "P-256", "Ed25519"])
)


@given(
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=6),
        max_leaves=12,
    )
)
def test_any_json_gives_a_set_or_one_error(value: object) -> None:
    """All JSON gives a set or a `KeySetError`."""
    try:
        found = load_key_set(json.dumps({"keys": [value]}).encode())
    except KeySetError:
        return
    assert found.keys or found.warnings


def test_a_leading_zero_of_a_modulus_is_accepted() -> None:
    """Libraries write one (RFC 7518 section 6.3.1.1); the number is the same."""
    private = rsa_private()
    modulus = private.public_key().public_numbers().n
    padded = jwk(private, "a") | {"n": b64(b"\0" + modulus.to_bytes(256))}
    assert (
        load_key_set(key_set(padded)).keys[0].spki
        == load_key_set(key_set(jwk(private, "a"))).keys[0].spki
    )


def test_the_public_key_is_the_one_published() -> None:
    """The published key verifies."""
    key = load_key_set(key_set(jwk(ec_private(), "a"))).keys[0].public
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.public_numbers() == ec_private().public_key().public_numbers()
