"""One JSON Web Token against one profile: pure rules, no I/O, with the time as an argument.

Implements signed compact JWTs (RFC 7515, RFC 7519) under the access-token profile of RFC 9068 and
the advice of RFC 8725. Before the signature is checked, `iss` and `kid` choose issuer and key, and
nothing else is believed. Refuses every serialisation but three strict base64url parts, duplicate
names, header parameters that change how a token is read or that bring a key, an algorithm that the
key is not pinned to, and claims of the wrong type, even those that are not needed.

The numbered plan, followed by `proxy.identity.verifier`:
1. `parse`            bytes to header, claims and signature
2. `check_type`       the header's `typ` is an access token's
3. `check_signature`  with the key's algorithm
4. `check_claims`     `iss`, `aud`, times, `sub`, groups

The text of a refusal holds no part of a token but its `typ` and `aud`, cut and in plain ASCII.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

from proxy.common.text import is_printable, to_plain_ascii
from proxy.errors import Rejected
from proxy.identity.credentials import TOKEN_LIMIT
from proxy.identity.encoding import base64url, json_object
from proxy.identity.jwk import Key
from proxy.model import Reason

_NAMES = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_ALGORITHMS = {name: get_default_algorithms()[name] for name in _NAMES}
_ALGORITHMS["Ed25519"] = _ALGORITHMS["EdDSA"]  # its name since RFC 9864

# Parameters that change what is signed (b64, crit, zip, enc), or that bring or name a key which the
# issuer did not publish.
_REFUSED_HEADERS = ("crit", "b64", "zip", "enc", "jwk", "jku", "x5c", "x5u")

# Claims that only ID tokens and logout tokens have. They tell the types apart where an issuer's
# access tokens have no `typ` of their own.
_OTHER_TOKENS = ("at_hash", "c_hash", "s_hash", "events")

# Unix seconds. A later NumericDate is refused: it lies beyond any calendar in use.
_MAX_TIME = 10**12

# The entry of `TokenProfile.token_types` that accepts tokens without a `typ`.
NO_TYPE = "absent"

# Characters of a `typ` or `aud` in the text of a refusal, and how many of them it names.
_SHOWN_CHARACTERS = 40
_SHOWN_VALUES = 2


@dataclass(frozen=True, slots=True)
class TokenProfile:
    """The rules for the tokens of one issuer.

    `issuer` and `audiences` are compared character by character. A token names at least one of the
    audiences. `token_types` are the accepted `typ` headers, compared as media types (RFC 7515
    section 4.1.9: without case, ``application/`` implied); ``absent`` accepts tokens without one.

    `leeway_seconds` is granted to `nbf` and `iat` alone, for clocks that differ. `exp` gets none:
    no token is accepted after the time that its issuer set. `max_lifetime_seconds` bounds
    `exp - iat` and makes `iat` required; None sets no limit.
    """

    issuer: str
    audiences: tuple[str, ...]
    token_types: tuple[str, ...] = ("at+jwt",)
    groups_claim: str = "groups"
    leeway_seconds: float = 30.0
    max_lifetime_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse empty rules, which would match tokens that they should not."""
        if not (self.issuer and self.audiences and all(self.audiences) and self.token_types):
            raise ValueError("a profile needs an issuer, an audience and at least one token type")


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token taken apart, of which nothing is proved yet.

    `issuer` and `kid` may choose a key and serve for nothing else.
    """

    algorithm: str
    kid: str | None
    type: str | None
    issuer: str
    claims: Mapping[str, object]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """The facts that a token proves.

    `groups` are sorted. `actor` says that software acts for the subject (RFC 8693 section 4.1).
    `expires` is in Unix seconds.
    """

    subject: str
    groups: tuple[str, ...]
    actor: bool
    expires: float
    claims: Mapping[str, object]


def parse(token: str) -> Unverified:
    """Take `token` apart.

    Raises:
        Rejected: BAD_CREDENTIAL, if it is not one strict compact JWT.

    """
    if len(token) > TOKEN_LIMIT:
        raise _bad(f"the token is over {TOKEN_LIMIT} bytes")
    parts = token.split(".")
    if len(parts) != 3:
        raise _bad("the token does not have three parts")
    try:
        header = json_object(base64url(parts[0]))
        claims = json_object(base64url(parts[1]))
        signature = base64url(parts[2])
    except ValueError as error:
        raise _bad(f"a part of the token is not strict: {error}") from None
    for name in _REFUSED_HEADERS:
        if name in header:
            raise _bad(f"the token's header has the parameter {name}, which is not accepted")
    algorithm, kid, kind, issuer = (
        header.get("alg"),
        header.get("kid"),
        header.get("typ"),
        claims.get("iss"),
    )
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise _bad(f"the token's alg is not one of {', '.join(_NAMES)}")
    if kid is not None and not is_printable(kid):
        raise _bad("the token's kid is not a printable string")
    if not isinstance(kind, str | None) or (kind is None and "typ" in header):
        raise _bad("the token's typ is not a string")
    if not isinstance(issuer, str) or not issuer:
        raise _bad("the token has no iss")
    signed = token[: len(parts[0]) + 1 + len(parts[1])].encode("ascii")  # all base64url
    return Unverified(algorithm, kid, kind, issuer, claims, signed, signature)


def check_type(token: Unverified, profile: TokenProfile) -> None:
    """Check that `token` declares to be an access token (RFC 9068 section 2.1).

    Raises:
        Rejected: WRONG_TOKEN_TYPE.

    """
    if token.type is None:
        accepted = NO_TYPE in profile.token_types
    else:
        accepted = _media_type(token.type) in {
            _media_type(one) for one in profile.token_types if one != NO_TYPE
        }
    if not accepted:
        came = "it has no typ" if token.type is None else f"its typ is {_shown([token.type])}"
        expected = _shown(profile.token_types)
        raise Rejected(Reason.WRONG_TOKEN_TYPE, f"{came}; its issuer's token_types are {expected}")
    if other := [name for name in _OTHER_TOKENS if name in token.claims]:
        detail = f"it has the claim {other[0]}, which only ID tokens and logout tokens have"
        raise Rejected(Reason.WRONG_TOKEN_TYPE, detail)


def check_signature(token: Unverified, key: Key) -> None:
    """Check that `key` signed the token, with an algorithm that the key is pinned to.

    Raises:
        Rejected: BAD_SIGNATURE.

    """
    if token.algorithm not in key.algorithms:
        raise Rejected(Reason.BAD_SIGNATURE, "its alg is not that of the key it names")
    try:
        good = _ALGORITHMS[token.algorithm].verify(token.signed, key.public, token.signature)
    except (ValueError, PyJWTError):  # pragma: no cover (today's library returns False instead)
        good = False
    if not good:
        raise Rejected(Reason.BAD_SIGNATURE)


def check_claims(token: Unverified, profile: TokenProfile, now: float) -> Verified:
    """Check the claims of a token whose signature holds, at `now` (Unix seconds).

    Raises:
        Rejected: with the reason of the first claim that fails.

    """
    claims = token.claims
    if token.issuer != profile.issuer:
        raise Rejected(Reason.UNKNOWN_ISSUER)
    if not _names_one_of(claims.get("aud"), profile.audiences):
        raise Rejected(Reason.WRONG_AUDIENCE, _audiences(claims.get("aud"), profile.audiences))
    expires, starts, issued = _time(claims, "exp"), _time(claims, "nbf"), _time(claims, "iat")
    if expires is None:
        raise _bad("the token has no exp")
    if now >= expires:
        raise Rejected(Reason.TOKEN_EXPIRED)
    if any(
        moment is not None and moment > now + profile.leeway_seconds for moment in (starts, issued)
    ):
        raise Rejected(Reason.TOKEN_NOT_YET_VALID)
    if profile.max_lifetime_seconds is not None:
        limit = f"the limit is {profile.max_lifetime_seconds:.0f} seconds"
        if issued is None:
            raise Rejected(
                Reason.TOKEN_LIFETIME_TOO_LONG, f"it has no iat to count from, and {limit}"
            )
        if expires - issued > profile.max_lifetime_seconds:
            lifetime = f"it is valid for {expires - issued:.0f} seconds, and {limit}"
            raise Rejected(Reason.TOKEN_LIFETIME_TOO_LONG, lifetime)
    subject = claims.get("sub")
    if not is_printable(subject):
        raise _bad("the token's sub is not a printable string of 1 to 255 characters")
    return Verified(
        subject, _groups(claims.get(profile.groups_claim, [])), "act" in claims, expires, claims
    )


def _media_type(name: str) -> str:
    """Return `name` as it is compared."""
    return name.lower().removeprefix("application/")


def _names_one_of(claim: object, audiences: tuple[str, ...]) -> bool:
    """Return whether `aud` (RFC 7519 section 4.1.3: a string, or a list) has one of `audiences`."""
    if isinstance(claim, list):
        return all(isinstance(one, str) for one in claim) and any(one in claim for one in audiences)
    return isinstance(claim, str) and claim in audiences


def _audiences(claim: object, expected: tuple[str, ...]) -> str:
    """Return what a refusal says of `aud`: the audiences that are expected, and those that came."""
    listed = claim if isinstance(claim, list) else [claim]
    found = [one for one in listed if isinstance(one, str)]
    came = f"its aud is {_shown(found)}" if found else "it names none"
    return f"expected is {_shown(expected, 'or')}; {came}"


def _shown(values: Sequence[str], conjunction: str = "and") -> str:
    """Return the first of `values` in plain ASCII, and how many more there are."""
    shown = [to_plain_ascii(one, _SHOWN_CHARACTERS) for one in values[:_SHOWN_VALUES]]
    if len(values) > _SHOWN_VALUES:
        shown.append(f"{len(values) - _SHOWN_VALUES} more")
    *first, last = shown
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def _time(claims: Mapping[str, object], name: str) -> float | None:
    """Return a NumericDate in Unix seconds (RFC 7519 section 2), None when the claim is absent."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # In Python bool is an int, and a float can be infinite by its exponent alone (1e999).
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_TIME:
        raise _bad(f"the token's {name} is not a time in Unix seconds")
    return float(value)


def _groups(claim: object) -> tuple[str, ...]:
    """Return the groups, sorted and each once. The claim is a list of strings, or one string."""
    groups = [claim] if isinstance(claim, str) else claim
    if not isinstance(groups, list) or not all(is_printable(group) for group in groups):
        raise _bad("the token's groups are not a list of printable strings")
    return tuple(sorted(set(groups)))


def _bad(detail: str) -> Rejected:
    """Return the refusal of a token that cannot be read."""
    return Rejected(Reason.BAD_CREDENTIAL, detail)
