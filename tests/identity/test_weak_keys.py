"""Keys that anyone can sign with: found by their public part, and no good key is among them."""

from math import isqrt
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from proxy.identity import weak_keys
from proxy.identity.weak_keys import (
    has_roca_fingerprint,
    is_small_order_ed25519,
    rsa_weakness,
)
from tests.support.amount import examples
from tests.support.tokens import close_modulus, ed_private, next_prime, roca_modulus, rsa_private

FIELD = 2**255 - 19
D = -121665 * pow(121666, -1, FIELD) % FIELD


@pytest.mark.parametrize(
    ("bits", "primes"),
    [
        (512, 39),
        (1024, 71),
        (2048, 126),
        pytest.param(3072, 126, marks=pytest.mark.exhaustive),
        pytest.param(4096, 225, marks=pytest.mark.exhaustive),
    ],
)
def test_a_modulus_of_the_faulty_library_has_the_fingerprint(bits: int, primes: int) -> None:
    """Whatever the size of the key and the number of primes that belongs to it."""
    assert has_roca_fingerprint(roca_modulus(bits, primes))
    assert "ROCA" in str(rsa_weakness(roca_modulus(bits, primes)))


def test_the_library_alone_takes_such_a_key() -> None:
    """What was accepted before: the signature library has no objection to the modulus."""
    assert rsa.RSAPublicNumbers(65537, roca_modulus()).public_key().key_size == 2048


def test_one_faulty_prime_is_no_fingerprint_but_powers_are() -> None:
    """The fingerprint is that of the whole modulus: a power of 65537 modulo every small prime, with
    one exponent for all.
    """
    random = Random(7)
    for _ in range(200):
        assert not has_roca_fingerprint(random.getrandbits(2048) | 1 << 2047 | 1)
    assert has_roca_fingerprint(65537**128)
    # A power modulo each prime alone: what the first published test took for a fingerprint.
    assert not has_roca_fingerprint(_powers_with_other_exponents())


def _powers_with_other_exponents() -> int:
    """Return a number that is a power of 65537 modulo 11, and another one modulo 31."""
    primes = [n for n in range(3, 168, 2) if all(n % d for d in range(3, n, 2))]
    exponents = dict.fromkeys(primes, 0) | {11: 1}
    found, product = 0, 1
    for prime in primes:
        want = pow(65537, exponents[prime], prime)
        found += (want - found) * pow(product, -1, prime) % prime * product
        product *= prime
    return found


def test_good_keys_are_not_weak() -> None:
    """Keys of a sound generator pass, of every size that is accepted."""
    for bits in (2048, 3072, 4096):
        assert rsa_weakness(rsa_private(bits).public_key().public_numbers().n) is None
    for _ in range(examples(20)):
        key = rsa.generate_private_key(65537, 1024)  # noqa: S505  (many, and fast)
        assert rsa_weakness(key.public_key().public_numbers().n) is None


@pytest.mark.parametrize("apart", [2, 1 << 100, 1 << 500])
def test_close_primes_are_found(apart: int) -> None:
    """Primes that differ in their lower half only, and a square."""
    assert "close primes" in str(rsa_weakness(close_modulus(apart=apart)))


def test_a_square_is_found() -> None:
    """One prime twice is the closest pair."""
    prime = next_prime(1 << 1023 | 12345)
    assert "close primes" in str(rsa_weakness(prime * prime))


def test_a_small_factor_is_found() -> None:
    """A modulus with a factor that trial division finds is no key."""
    assert "small factor" in str(rsa_weakness(751 * next_prime(1 << 2040)))


def test_the_longest_modulus_takes_few_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set may have a hundred keys, and all of them are looked at on the event loop. A square root
    is what costs most; most steps of Fermat's method need none.
    """
    roots = 0

    def counted(number: int) -> int:
        nonlocal roots
        roots += 1
        return isqrt(number)

    monkeypatch.setattr(weak_keys, "isqrt", counted)
    moduli = [Random(n).getrandbits(8192) | 1 << 8191 | 1 for n in range(20)]
    for modulus in moduli:
        rsa_weakness(modulus)
    assert roots / len(moduli) < 1 + weak_keys._FERMAT_STEPS / 10


def test_points_of_small_order_are_found() -> None:
    """All encodings of the eight points, also those that are not reduced and those with the other
    sign; a signature under one of them fits many messages.
    """
    order_8 = next(
        y for y in _roots_of_order_8() if (D * pow(y, 4, FIELD) + 2 * y * y) % FIELD == 1
    )
    for y in (0, 1, FIELD - 1, order_8, FIELD - order_8, FIELD, FIELD + 1):
        for sign in (0, 1):
            assert is_small_order_ed25519((y | sign << 255).to_bytes(32, "little"))
    # Why it matters: any message has this signature, one time in the order of the point.
    key = ed25519.Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
    key.verify(b"\x01" + bytes(31) + bytes(32), b"any message")


def _roots_of_order_8() -> list[int]:
    """Return the y coordinates that the module names."""
    from proxy.identity.weak_keys import _SMALL_ORDER

    return sorted(_SMALL_ORDER)


def test_good_ed25519_keys_are_not_weak() -> None:
    """A generated key has none of these points."""
    assert not is_small_order_ed25519(ed_private().public_key().public_bytes_raw())
