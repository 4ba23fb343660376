"""One JSON Web Token against one profile: pure rules, no I/O, the time is given.

Implements signed compact JWTs (RFC 7515, RFC 7519) under the access-token profile of RFC 9068 and
the advice of RFC 8725. Before the signature is checked, `iss` and `kid` choose issuer and key and
nothing else is believed. Refuses: every serialisation but three strict base64url parts, duplicate
names, header parameters that change how a token is read or bring a key along, an algorithm the key
is not pinned to, and claims of the wrong type, even those not needed.

The numbered plan, followed by `proxy.identity.verifier`:
1. `parse`            bytes to header, claims and signature
2. `check_type`       the header's `typ` is an access token's
3. `check_signature`  with the key's algorithm
4. `check_claims`     `iss`, `aud`, times, `sub`, groups

No text of a refusal holds any part of the token.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

from proxy.common.text import is_printable
from proxy.errors import Rejected
from proxy.identity.credentials import TOKEN_LIMIT
from proxy.identity.encoding import base64url, json_object
from proxy.identity.jwk import Key
from proxy.model import Reason

_NAMES = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_ALGORITHMS = {name: get_default_algorithms()[name] for name in _NAMES}
_ALGORITHMS["Ed25519"] = _ALGORITHMS["EdDSA"]  # RFC 9864 gives the same operation a name of its own

# They change what is signed (b64, crit, zip, enc) or bring or fetch a key that the issuer did not
# publish.
_REFUSED_HEADERS = ("crit", "b64", "zip", "enc", "jwk", "jku", "x5c", "x5u")

# Only ID tokens and logout tokens have these: for issuers whose access tokens carry no type of
# their own to go by.
_OTHER_TOKENS = ("at_hash", "c_hash", "s_hash", "events")

_LATEST = 10**12
"""Unix seconds beyond any calendar in use; what is later is not a time."""

NO_TYPE = "absent"
"""Stands among a profile's token types for tokens that have no `typ` at all."""


@dataclass(frozen=True, slots=True)
class TokenProfile:
    """What a token of one issuer has to look like.

    `issuer` and `audiences` are compared character by character; a token names at least one of the
    audiences. `token_types` are the accepted `typ` headers, compared as media types (RFC 7515 section 4.1.9: without case, ``application/``
    implied); ``absent`` accepts tokens without one. `leeway_seconds` (seconds) is granted to `nbf` and
    `iat` alone, for clocks that differ; `exp` gets none: no token is accepted after the time its
    issuer set. `max_lifetime_seconds` (seconds, None for no limit) bounds `exp - iat` and makes `iat`
    required.
    """

    issuer: str
    audiences: tuple[str, ...]
    token_types: tuple[str, ...] = ("at+jwt",)
    groups_claim: str = "groups"
    leeway_seconds: float = 30.0
    max_lifetime_seconds: float | None = None

    def __post_init__(self) -> None:
        """Absence is refusal: an empty issuer, audience or list of types would match what it should
        not.
        """
        if not (self.issuer and self.audiences and all(self.audiences) and self.token_types):
            raise ValueError("a profile needs an issuer, an audience and at least one token type")


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token taken apart, of which nothing is proved yet. `issuer` and `kid` may choose a key and
    serve for nothing else.
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
    """What a token proves: `subject`, `groups` (sorted), whether software acts for it, and until
    when (Unix seconds).
    """

    subject: str
    groups: tuple[str, ...]
    actor: bool
    expires: float
    claims: Mapping[str, object]


def parse(token: str) -> Unverified:
    """Take `token` apart. Raises `Rejected` (BAD_CREDENTIAL) for anything that is not one strict
    compact JWT.
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
        raise _bad(f"a part of the token is refused: {error}") from None
    for name in _REFUSED_HEADERS:
        if name in header:
            raise _bad(f"the token's header has a {name}, which is not accepted")
    algorithm, kid, kind, issuer = (
        header.get("alg"),
        header.get("kid"),
        header.get("typ"),
        claims.get("iss"),
    )
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise _bad("the token's alg is not a signature algorithm that is accepted")
    if kid is not None and not is_printable(kid):
        raise _bad("the token's kid is not a printable string")
    if not isinstance(kind, str | None) or (kind is None and "typ" in header):
        raise _bad("the token's typ is not a string")
    if not isinstance(issuer, str) or not issuer:
        raise _bad("the token has no iss")
    signed = token[: len(parts[0]) + 1 + len(parts[1])].encode("ascii")  # all base64url by now
    return Unverified(algorithm, kid, kind, issuer, claims, signed, signature)


def check_type(token: Unverified, profile: TokenProfile) -> None:
    """The token says it is an access token (RFC 9068 section 2.1). Raises `Rejected`
    (WRONG_TOKEN_TYPE).
    """
    if token.type is None:
        accepted = NO_TYPE in profile.token_types
    else:
        accepted = _media_type(token.type) in {
            _media_type(one) for one in profile.token_types if one != NO_TYPE
        }
    if not accepted:
        raise Rejected(Reason.WRONG_TOKEN_TYPE, "its typ is not one of the issuer's token_types")
    if any(name in token.claims for name in _OTHER_TOKENS):
        raise Rejected(Reason.WRONG_TOKEN_TYPE, "it has claims that only ID and logout tokens have")


def check_signature(token: Unverified, key: Key) -> None:
    """`key` signed the token, with an algorithm it is pinned to. Raises `Rejected` (BAD_SIGNATURE)."""
    if token.algorithm not in key.algorithms:
        raise Rejected(Reason.BAD_SIGNATURE, "its alg is not the one of the key it names")
    try:
        good = _ALGORITHMS[token.algorithm].verify(token.signed, key.public, token.signature)
    except (ValueError, PyJWTError):  # a signature of a shape the library does not take
        good = False
    if not good:
        raise Rejected(Reason.BAD_SIGNATURE)


def check_claims(token: Unverified, profile: TokenProfile, now: float) -> Verified:
    """The claims of a token whose signature holds, at `now` (Unix seconds). Raises `Rejected` with
    the claim's reason.
    """
    claims = token.claims
    if token.issuer != profile.issuer:
        raise Rejected(Reason.UNKNOWN_ISSUER)
    if not _names_one_of(claims.get("aud"), profile.audiences):
        raise Rejected(Reason.WRONG_AUDIENCE)
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
        if issued is None:
            raise _bad("the token has no iat, and its issuer has a max_lifetime")
        if expires - issued > profile.max_lifetime_seconds:
            raise _bad("the token is valid for longer than its issuer's max_lifetime")
    subject = claims.get("sub")
    if not is_printable(subject):
        raise _bad("the token's sub is not a printable string of 1 to 255 characters")
    return Verified(
        subject, _groups(claims.get(profile.groups_claim, [])), "act" in claims, expires, claims
    )


def _media_type(name: str) -> str:
    """`name` as it is compared."""
    return name.lower().removeprefix("application/")


def _names_one_of(claim: object, audiences: tuple[str, ...]) -> bool:
    """Return whether `aud`, a string or a list of strings (RFC 7519 4.1.3), has one of `audiences`."""
    if isinstance(claim, list):
        return all(isinstance(one, str) for one in claim) and any(one in claim for one in audiences)
    return isinstance(claim, str) and claim in audiences


def _time(claims: Mapping[str, object], name: str) -> float | None:
    """A NumericDate in Unix seconds (RFC 7519 section 2), None when the claim is absent."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # bool is an int in Python; a float can be infinite by its exponent alone (1e999).
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise _bad(f"the token's {name} is not a time in seconds")
    return float(value)


def _groups(claim: object) -> tuple[str, ...]:
    """The groups: a list of strings, or one string that is a group. Sorted, each once."""
    groups = [claim] if isinstance(claim, str) else claim
    if not isinstance(groups, list) or not all(is_printable(group) for group in groups):
        raise _bad("the token's groups are not a list of printable strings")
    return tuple(sorted(set(groups)))


def _bad(detail: str) -> Rejected:
    """A token that cannot be read."""
    return Rejected(Reason.BAD_CREDENTIAL, detail)
