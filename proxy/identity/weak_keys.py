"""Public keys whose private part anyone can compute, recognised by the public part alone.

Four kinds, each from a published fault of a generator or of a format:

- ROCA (CVE-2017-15361): a smart-card library made the primes of RSA keys as ``k * M + (65537**a mod
  M)``, where M is the product of the first primes. So the modulus is a power of 65537 modulo M
  also. A modulus that is not of that library passes with a probability below 2**-150.
- Close primes (CVE-2022-26320): Fermat's method finds them in a few steps.
- A small factor: the modulus is damaged, or was made by hand.
- Ed25519 points of small order (RFC 8032 section 8.9, RFC 7748 section 7): one signature fits many
  messages.

Pure, and bounded: at most a millisecond for the longest modulus that `proxy.identity.jwk` takes.
"""

from itertools import combinations
from math import gcd, isqrt, prod
from typing import Final

_GENERATOR: Final = 65537


def _primes(limit: int) -> list[int]:
    return [n for n in range(2, limit) if all(n % d for d in range(2, isqrt(n) + 1))]


# The odd primes of M for the shortest keys. M of longer keys has all of them, and more.
_ROCA_PRIMES: Final = tuple(_primes(168)[1:])
_ROCA_PRODUCT: Final = prod(_ROCA_PRIMES)


def _logarithms(prime: int) -> dict[int, int]:
    """Return the exponent of each power of 65537 modulo `prime`."""
    found: dict[int, int] = {}
    power = 1
    while power not in found:
        found[power] = len(found)
        power = power * _GENERATOR % prime
    return found


_LOGARITHMS: Final = tuple((prime, _logarithms(prime)) for prime in _ROCA_PRIMES)
# Trial division up to here.
_SMALL_PRODUCT: Final = prod(_primes(752))
# Steps of Fermat's method: published weak keys take one.
_FERMAT_STEPS: Final = 100
# Most numbers that are no square are none modulo one of these.
_SQUARES: Final = tuple((m, frozenset(n * n % m for n in range(m))) for m in (64, 63, 65, 11))

# The y coordinates of the points of small order on edwards25519, modulo the field's prime. Those of
# order 8 solve d*y**4 + 2*y**2 = 1.
_FIELD: Final = 2**255 - 19
_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER: Final = frozenset((0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8))


def rsa_weakness(modulus: int) -> str | None:
    """Return what is wrong with an odd RSA modulus, or None."""
    if has_roca_fingerprint(modulus):
        return "its RSA modulus has the ROCA fingerprint (CVE-2017-15361), so it can be factored"
    if gcd(modulus % _SMALL_PRODUCT, _SMALL_PRODUCT) != 1:
        return "its RSA modulus has a small factor"
    if _has_close_primes(modulus):
        return "its RSA modulus is a product of close primes (CVE-2022-26320)"
    return None


def has_roca_fingerprint(modulus: int) -> bool:
    """Return whether `modulus` is a power of 65537 modulo the product of small primes.

    It is one if it is one modulo each prime, and one exponent fits all primes (the Chinese
    remainder theorem: any two of the exponents agree modulo the divisor that their orders share).
    """
    rest = modulus % _ROCA_PRODUCT
    exponents: list[tuple[int, int]] = []
    for prime, logarithms in _LOGARITHMS:
        exponent = logarithms.get(rest % prime)
        if exponent is None:
            return False
        exponents.append((exponent, len(logarithms)))
    return all((a - b) % gcd(m, n) == 0 for (a, m), (b, n) in combinations(exponents, 2))


def is_small_order_ed25519(public: bytes) -> bool:
    """Return whether the 32 bytes of an Ed25519 key encode a point of order 1, 2, 4 or 8.

    Encodings that are not reduced modulo the field's prime count too.
    """
    return (int.from_bytes(public, "little") & (1 << 255) - 1) % _FIELD in _SMALL_ORDER


def _has_close_primes(modulus: int) -> bool:
    middle = isqrt(modulus - 1) + 1
    difference = middle * middle - modulus
    for _ in range(_FERMAT_STEPS):
        if (
            all(difference % m in squares for m, squares in _SQUARES)
            and isqrt(difference) ** 2 == difference
        ):
            return True
        difference += 2 * middle + 1
        middle += 1
    return False
