import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.errors import Rejected
from proxy.identity.access_token import TokenProfile, check_claims, parse
from proxy.identity.credentials import TOKEN_LIMIT
from proxy.model import Credentials, Principal, Reason
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    NOW,
    all_keys,
    b64,
    bearer,
    claims,
    ec_private,
    ed_private,
    good,
    header,
    jwk,
    key_set,
    part,
    rsa_private,
    signature,
    token,
    verifier,
    without,
)

BAD = Reason.BAD_CREDENTIAL
PROFILE = TokenProfile(ISSUER, (AUDIENCE,))


async def judge(
    path: Path,
    text: str,
    *,
    profile: TokenProfile | None = None,
    keys: bytes | None = None,
    now: float = NOW,
) -> Principal:
    """Verify `text` on the default settings, unless others are given."""
    return await verifier(path / "keys.json", keys, profile).authenticate(
        Credentials(bearer(text)), now
    )


async def refusal(
    path: Path,
    text: str,
    *,
    profile: TokenProfile | None = None,
    keys: bytes | None = None,
    now: float = NOW,
) -> Reason:
    """Return why `text` is refused; no text of the refusal holds a part of the token."""
    with pytest.raises(Rejected) as refused:
        await judge(path, text, profile=profile, keys=keys, now=now)
    said = f"{refused.value} {refused.value.detail} {refused.value!r}"
    assert refused.value.detail.isascii() and "\n" not in refused.value.detail
    for piece in text.split("."):
        assert len(piece) < 8 or piece not in said
    assert "alice" not in said and "mallory" not in said
    return refused.value.reason


def ec(claims_: object, **head: object) -> str:
    """Sign `claims_` with the issuer's P-256 key."""
    return token(ec_private(), header(**head), claims_)


def public_pem() -> bytes:
    """Return the issuer's RSA public key as PEM."""
    return rsa_private().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def unsigned(algorithm: str) -> str:
    """Return a token with an empty signature."""
    return f"{part(header(alg=algorithm))}.{part(claims())}."


def resigned(head: str, body: str) -> str:
    """Return exactly these two encoded parts with the issuer's good signature."""
    return f"{head}.{body}.{b64(signature(ec_private(), 'ES256', f'{head}.{body}'.encode()))}"


def in_der() -> str:
    """Return a good token whose signature has the format of X.509 instead of that of JOSE."""
    signed = f"{part(header())}.{part(claims())}"
    return f"{signed}.{b64(ec_private().sign(signed.encode(), ECDSA(SHA256())))}"


def left_over_bits(text: str) -> str:
    """Return the token with a signature that decodes to the same bytes in a sloppy decoder."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


def with_bare(name: str, bare: str) -> bytes:
    """Return the good claims as JSON, with `name` spelled as `bare`, which JSON libraries may not
    write.
    """
    return (json.dumps(without(claims(), name))[:-1] + f', "{name}": {bare}}}').encode()


def wrong_byte(text: str, index: int) -> str:
    """Return `text` with the first character of one part changed."""
    parts = text.split(".")
    parts[index] = ("A" if parts[index][0] != "A" else "B") + parts[index][1:]
    return ".".join(parts)


HOSTILE: list[tuple[str, Callable[[], str], Reason]] = [
    # The signature, and games with its algorithm.
    ("alg none", lambda: unsigned("none"), BAD),
    ("alg None", lambda: unsigned("None"), BAD),
    (
        "alg none with a good signature",
        lambda: resigned(part(header(alg="none")), part(claims())),
        BAD,
    ),
    ("signature stripped", lambda: unsigned("ES256"), Reason.BAD_SIGNATURE),
    (
        "HS256 with the RSA public key as secret",
        lambda: token(public_pem(), header(alg="HS256", kid="rsa"), claims()),
        BAD,
    ),
    ("HS256 with an empty secret", lambda: token(b"", header(alg="HS256"), claims()), BAD),
    (
        "PS256 by a key pinned to RS256",
        lambda: token(rsa_private(), header(alg="PS256", kid="rsa"), claims()),
        Reason.BAD_SIGNATURE,
    ),
    (
        "RS256 by a key pinned to PS256",
        lambda: token(rsa_private(), header(alg="RS256", kid="pss"), claims()),
        Reason.BAD_SIGNATURE,
    ),
    (
        "RS512 by a key pinned to RS256",
        lambda: token(rsa_private(), header(alg="RS512", kid="rsa"), claims()),
        Reason.BAD_SIGNATURE,
    ),
    ("ES384 on the P-256 key", lambda: ec(claims(), alg="ES384"), Reason.BAD_SIGNATURE),
    (
        "another key of the issuer",
        lambda: token(ec_private(), header(kid="ec384"), claims()),
        Reason.BAD_SIGNATURE,
    ),
    (
        "alg of the signer, kid of another key",
        lambda: token(rsa_private(), header(alg="RS256"), claims()),
        Reason.BAD_SIGNATURE,
    ),
    (
        "a stranger's key",
        lambda: token(ec_private(which=9), header(), claims()),
        Reason.BAD_SIGNATURE,
    ),
    (
        "claims changed",
        lambda: good().replace(good().split(".")[1], part(claims(sub="mallory"))),
        Reason.BAD_SIGNATURE,
    ),
    ("signature cut", lambda: good()[:-2], Reason.BAD_SIGNATURE),
    (
        "signature longer",
        lambda: resigned(part(header()), part(claims()))[:-2] + "AAAAAA",
        Reason.BAD_SIGNATURE,
    ),
    ("signature in DER", in_der, Reason.BAD_SIGNATURE),
    ("ES256K", lambda: resigned(part(header(alg="ES256K")), part(claims())), BAD),
    ("alg missing", lambda: resigned(part(without(header(), "alg")), part(claims())), BAD),
    ("alg a list", lambda: resigned(part(header(alg=["ES256"])), part(claims())), BAD),
    ("alg in lower case", lambda: resigned(part(header(alg="es256")), part(claims())), BAD),
    # The key.
    ("unknown kid", lambda: ec(claims(), kid="nobody"), Reason.UNKNOWN_KEY),
    (
        "kid missing among several keys",
        lambda: token(ec_private(), without(header(), "kid"), claims()),
        Reason.UNKNOWN_KEY,
    ),
    ("kid a path", lambda: ec(claims(), kid="../../dev/null"), Reason.UNKNOWN_KEY),
    ("kid SQL", lambda: ec(claims(), kid="x' UNION SELECT 'key"), Reason.UNKNOWN_KEY),
    ("kid a number", lambda: ec(claims(), kid=1), BAD),
    ("kid empty", lambda: ec(claims(), kid=""), BAD),
    ("kid with a line end", lambda: ec(claims(), kid="ec\n"), BAD),
    ("kid very long", lambda: ec(claims(), kid="e" * 1000), BAD),
    (
        "key embedded",
        lambda: token(ec_private(which=9), header(jwk=jwk(ec_private(which=9))), claims()),
        BAD,
    ),
    ("key embedded, good signature", lambda: ec(claims(), jwk=jwk(ec_private())), BAD),
    ("jku", lambda: ec(claims(), jku="https://evil.example/keys"), BAD),
    ("x5u", lambda: ec(claims(), x5u="https://evil.example/cert"), BAD),
    ("x5c", lambda: ec(claims(), x5c=["AAAA"]), BAD),
    # How a token is to be read.
    ("crit", lambda: ec(claims(), crit=["exp"], exp=NOW + 5), BAD),
    ("crit empty", lambda: ec(claims(), crit=[]), BAD),
    ("b64 false", lambda: ec(claims(), b64=False), BAD),
    ("zip", lambda: ec(claims(), zip="DEF"), BAD),
    ("enc", lambda: ec(claims(), enc="A256GCM"), BAD),
    # The type.
    (
        "typ missing",
        lambda: token(ec_private(), without(header(), "typ"), claims()),
        Reason.WRONG_TOKEN_TYPE,
    ),
    ("typ JWT", lambda: ec(claims(), typ="JWT"), Reason.WRONG_TOKEN_TYPE),
    ("typ of a logout token", lambda: ec(claims(), typ="logout+jwt"), Reason.WRONG_TOKEN_TYPE),
    ("typ of a DPoP proof", lambda: ec(claims(), typ="dpop+jwt"), Reason.WRONG_TOKEN_TYPE),
    ("typ empty", lambda: ec(claims(), typ=""), Reason.WRONG_TOKEN_TYPE),
    ("typ with a space", lambda: ec(claims(), typ="at+jwt "), Reason.WRONG_TOKEN_TYPE),
    ("typ the word for none", lambda: ec(claims(), typ="absent"), Reason.WRONG_TOKEN_TYPE),
    ("typ null", lambda: ec(claims(), typ=None), BAD),
    ("typ a list", lambda: ec(claims(), typ=["at+jwt"]), BAD),
    ("ID token", lambda: ec(claims(nonce="n", at_hash="h"), typ="JWT"), Reason.WRONG_TOKEN_TYPE),
    (
        "ID token that says it is an access token",
        lambda: ec(claims(at_hash="h")),
        Reason.WRONG_TOKEN_TYPE,
    ),
    # The issuer.
    ("iss missing", lambda: ec(without(claims(), "iss")), BAD),
    ("iss a list", lambda: ec(claims(iss=[ISSUER])), BAD),
    ("iss empty", lambda: ec(claims(iss="")), BAD),
    ("iss with a slash more", lambda: ec(claims(iss=ISSUER + "/")), Reason.UNKNOWN_ISSUER),
    ("iss in another case", lambda: ec(claims(iss=ISSUER.upper())), Reason.UNKNOWN_ISSUER),
    (
        "iss of another issuer",
        lambda: ec(claims(iss="https://evil.example")),
        Reason.UNKNOWN_ISSUER,
    ),
    # The audience.
    ("aud missing", lambda: ec(without(claims(), "aud")), Reason.WRONG_AUDIENCE),
    ("aud null", lambda: ec(claims(aud=None)), Reason.WRONG_AUDIENCE),
    ("aud empty", lambda: ec(claims(aud=[])), Reason.WRONG_AUDIENCE),
    ("aud another", lambda: ec(claims(aud="api://other")), Reason.WRONG_AUDIENCE),
    ("aud a prefix", lambda: ec(claims(aud=AUDIENCE[:-1])), Reason.WRONG_AUDIENCE),
    ("aud longer", lambda: ec(claims(aud=AUDIENCE + "/x")), Reason.WRONG_AUDIENCE),
    ("aud list of others", lambda: ec(claims(aud=["a", "b"])), Reason.WRONG_AUDIENCE),
    ("aud list with no string", lambda: ec(claims(aud=[AUDIENCE, 7])), Reason.WRONG_AUDIENCE),
    ("aud nested", lambda: ec(claims(aud=[[AUDIENCE]])), Reason.WRONG_AUDIENCE),
    ("aud an object", lambda: ec(claims(aud={AUDIENCE: 1})), Reason.WRONG_AUDIENCE),
    # The times.
    ("exp missing", lambda: ec(without(claims(), "exp")), BAD),
    ("exp null", lambda: ec(claims(exp=None)), BAD),
    ("exp a string", lambda: ec(claims(exp=str(NOW + 60))), BAD),
    ("exp true", lambda: ec(claims(exp=True)), BAD),
    ("exp a list", lambda: ec(claims(exp=[NOW + 60])), BAD),
    ("exp NaN", lambda: ec(with_bare("exp", "NaN")), BAD),
    ("exp Infinity", lambda: ec(with_bare("exp", "Infinity")), BAD),
    ("exp infinite by its exponent", lambda: ec(with_bare("exp", "1e999")), BAD),
    ("exp of a thousand digits", lambda: ec(with_bare("exp", "9" * 1000)), BAD),
    ("exp of five thousand digits", lambda: ec(with_bare("exp", "9" * 5000)), BAD),
    ("exp negative", lambda: ec(claims(exp=-1)), BAD),
    ("exp in milliseconds", lambda: ec(claims(exp=(NOW + 60) * 1000)), BAD),
    ("exp now", lambda: ec(claims(exp=NOW)), Reason.TOKEN_EXPIRED),
    ("exp past", lambda: ec(claims(exp=NOW - 1)), Reason.TOKEN_EXPIRED),
    ("exp zero", lambda: ec(claims(exp=0)), Reason.TOKEN_EXPIRED),
    ("nbf ahead", lambda: ec(claims(nbf=NOW + 31)), Reason.TOKEN_NOT_YET_VALID),
    ("nbf a string", lambda: ec(claims(nbf="0")), BAD),
    ("nbf null", lambda: ec(claims(nbf=None)), BAD),
    ("iat ahead", lambda: ec(claims(iat=NOW + 31)), Reason.TOKEN_NOT_YET_VALID),
    ("iat true", lambda: ec(claims(iat=True)), BAD),
    # The subject and the groups.
    ("sub missing", lambda: ec(without(claims(), "sub") | {"email": "alice@example.org"}), BAD),
    ("sub empty", lambda: ec(claims(sub="")), BAD),
    ("sub a number", lambda: ec(claims(sub=7)), BAD),
    ("sub a list", lambda: ec(claims(sub=["alice"])), BAD),
    ("sub too long", lambda: ec(claims(sub="a" * 256)), BAD),
    ("sub with a line end", lambda: ec(claims(sub="alice\nadmin")), BAD),
    ("sub with a null byte", lambda: ec(claims(sub="alice\0")), BAD),
    ("sub with a lone surrogate", lambda: ec(with_bare("sub", r'"\ud800"')), BAD),
    ("sub written backwards", lambda: ec(claims(sub="alice\u202e")), BAD),
    ("groups an object", lambda: ec(claims(groups={"etl": True})), BAD),
    ("groups null", lambda: ec(claims(groups=None)), BAD),
    ("groups of numbers", lambda: ec(claims(groups=[1])), BAD),
    ("groups nested", lambda: ec(claims(groups=[["etl"]])), BAD),
    ("groups with a line end", lambda: ec(claims(groups=["etl\n"])), BAD),
    # The encoding.
    ("two parts", lambda: good().rsplit(".", 1)[0], BAD),
    ("four parts", lambda: good() + ".AAAA", BAD),
    ("five parts, as an encrypted token", lambda: "a.b.c.d.e", BAD),
    ("no dots", lambda: "opaque-token", BAD),
    ("only dots", lambda: "a..", BAD),
    (
        "claims name twice",
        lambda: ec(json.dumps(claims())[:-1].encode() + b',"sub":"mallory"}'),
        BAD,
    ),
    (
        "claims name twice, escaped",
        lambda: ec(json.dumps(claims())[:-1].encode() + rb',"su\u0062":"mallory"}'),
        BAD,
    ),
    (
        "header name twice",
        lambda: resigned(
            part(b'{"alg":"none",' + json.dumps(header())[1:].encode()), part(claims())
        ),
        BAD,
    ),
    (
        "header padded",
        lambda: resigned(
            part(b'{"alg":"ES256","typ":"at+jwt","kid":"ec"}  ') + "=", part(claims())
        ),
        BAD,
    ),
    ("signature padded", lambda: good() + "==", BAD),
    ("signature with left-over bits", lambda: left_over_bits(good()), BAD),
    (
        "signature in the other alphabet",
        lambda: good().replace("-", "+").replace("_", "/")[:-1] + "+",
        BAD,
    ),
    ("header of a length no bytes have", lambda: "A" + good(), BAD),
    ("header no object", lambda: resigned(part([header()]), part(claims())), BAD),
    ("claims no object", lambda: ec([claims()]), BAD),
    ("claims a string", lambda: ec("x"), BAD),
    ("claims not UTF-8", lambda: ec(json.dumps(claims())[:-1].encode() + b',"x":"\xff"}'), BAD),
    ("claims in UTF-16", lambda: ec(json.dumps(claims()).encode("utf-16")), BAD),
    (
        "claims after a byte order mark",
        lambda: ec(b"\xef\xbb\xbf" + json.dumps(claims()).encode()),
        BAD,
    ),
    ("claims nested deeply", lambda: ec(with_bare("x", "[" * 4000 + "]" * 4000)), BAD),
    (
        "claims nested in objects",
        lambda: ec(with_bare("x", '{"a":' * 1500 + "1" + "}" * 1500)),
        BAD,
    ),
    ("claims another token", lambda: ec(good().encode(), cty="JWT"), BAD),
    ("huge", lambda: ec(claims(padding="x" * 20_000)), BAD),
    ("garbage header", lambda: wrong_byte(good(), 0), BAD),
    ("garbage claims", lambda: wrong_byte(good(), 1), BAD),
    ("garbage signature", lambda: wrong_byte(good(), 2), Reason.BAD_SIGNATURE),
]


@pytest.mark.parametrize(
    ("make", "reason"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
async def test_hostile_tokens_are_refused(
    tmp_path: Path, make: Callable[[], str], reason: Reason
) -> None:
    """On the default settings every such token is refused, for the reason that fits, in words that
    hold no part of it.
    """
    assert await refusal(tmp_path, make()) is reason


GOOD: list[tuple[str, Callable[[], str]]] = [
    ("ES256", good),
    ("RS256", lambda: token(rsa_private(), header(alg="RS256", kid="rsa"), claims())),
    (
        "PS256 by a key that says so",
        lambda: token(rsa_private(), header(alg="PS256", kid="pss"), claims()),
    ),
    ("ES384", lambda: token(ec_private("P-384"), header(alg="ES384", kid="ec384"), claims())),
    ("ES512", lambda: token(ec_private("P-521"), header(alg="ES512", kid="ec521"), claims())),
    ("EdDSA", lambda: token(ed_private(), header(alg="EdDSA", kid="ed"), claims())),
    ("Ed25519", lambda: token(ed_private(), header(alg="Ed25519", kid="ed"), claims())),
    ("typ in capitals", lambda: ec(claims(), typ="AT+JWT")),
    ("typ in full", lambda: ec(claims(), typ="application/at+jwt")),
    ("header with more", lambda: ec(claims(), x5t="AAAA", cty="x")),
    ("aud in a list", lambda: ec(claims(aud=["other", AUDIENCE]))),
    ("no iat", lambda: ec(without(claims(), "iat"))),
    ("nbf now", lambda: ec(claims(nbf=NOW))),
    ("nbf and iat within the leeway", lambda: ec(claims(nbf=NOW + 30, iat=NOW + 30))),
    ("times as fractions", lambda: ec(claims(exp=NOW + 3600.0, iat=NOW - 0.5))),
    ("groups twice and unsorted", lambda: ec(claims(groups=["etl", "dev", "etl"]))),
    (
        "claims of another issuer in the same token",
        lambda: ec(claims(email="root@example.org", preferred_username="root", name="Root")),
    ),
]


@pytest.mark.parametrize("make", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
async def test_good_tokens_give_the_principal(tmp_path: Path, make: Callable[[], str]) -> None:
    """Each algorithm and each permitted variation gives issuer and subject, and nothing that a
    caller can choose.
    """
    assert await judge(tmp_path, make()) == Principal(
        ISSUER, "idp", "alice", ("viewer",), ("dev", "etl"), False, NOW + 3600
    )


async def test_groups_come_from_the_configured_claim(tmp_path: Path) -> None:
    """One string is one group, an absent claim is no group, and the profile names the claim."""
    assert (await judge(tmp_path, ec(claims(groups="etl")))).groups == ("etl",)
    assert (await judge(tmp_path, ec(without(claims(), "groups")))).groups == ()
    profile = TokenProfile(ISSUER, (AUDIENCE,), groups_claim="https://acme.example/roles")
    assert (
        await judge(tmp_path, ec(claims(**{"https://acme.example/roles": ["x"]})), profile=profile)
    ).groups == ("x",)


async def test_configured_token_types(tmp_path: Path) -> None:
    """Only the configured types pass. `absent` accepts a token without a type, which no written
    type can claim to be.
    """
    jwt_type = TokenProfile(ISSUER, (AUDIENCE,), token_types=("JWT",))
    no_type = TokenProfile(ISSUER, (AUDIENCE,), token_types=("absent",))
    bare = token(ec_private(), without(header(), "typ"), claims())
    assert (await judge(tmp_path, ec(claims(), typ="jwt"), profile=jwt_type)).subject == "alice"
    assert (await judge(tmp_path, bare, profile=no_type)).subject == "alice"
    assert await refusal(tmp_path, good(), profile=jwt_type) is Reason.WRONG_TOKEN_TYPE
    assert await refusal(tmp_path, bare, profile=jwt_type) is Reason.WRONG_TOKEN_TYPE
    assert (
        await refusal(tmp_path, ec(claims(), typ="absent"), profile=no_type)
        is Reason.WRONG_TOKEN_TYPE
    )
    id_token = ec(claims(at_hash="h"), typ="JWT")
    assert await refusal(tmp_path, id_token, profile=jwt_type) is Reason.WRONG_TOKEN_TYPE


async def test_lifetime_limit(tmp_path: Path) -> None:
    """With a limit a token needs iat, and is not valid for longer than the limit."""
    profile = TokenProfile(ISSUER, (AUDIENCE,), max_lifetime_seconds=3600)
    assert (await judge(tmp_path, ec(claims(iat=NOW)), profile=profile)).expires == NOW + 3600
    too_long = Reason.TOKEN_LIFETIME_TOO_LONG
    assert await refusal(tmp_path, ec(claims(iat=NOW - 1)), profile=profile) is too_long
    assert await refusal(tmp_path, ec(without(claims(), "iat")), profile=profile) is too_long


@pytest.mark.parametrize(
    ("make", "profile", "detail"),
    [
        (
            lambda: ec(claims(), typ="JWT"),
            PROFILE,
            "its typ is JWT; its issuer's token_types are at+jwt",
        ),
        (
            lambda: token(ec_private(), without(header(), "typ"), claims()),
            TokenProfile(ISSUER, (AUDIENCE,), token_types=("JWT", "at+jwt")),
            "it has no typ; its issuer's token_types are JWT and at+jwt",
        ),
        (
            lambda: ec(claims(), typ="x\u00e9[" + "y" * 100),
            TokenProfile(ISSUER, (AUDIENCE,), token_types=("a", "b", "c", "d")),
            f"its typ is x?({'y' * 37}; its issuer's token_types are a, b and 2 more",
        ),
        (
            lambda: ec(claims(events={})),
            PROFILE,
            "it has the claim events, which only ID tokens and logout tokens have",
        ),
        (
            lambda: ec(claims(aud="api://other")),
            PROFILE,
            "expected is api://luigi; its aud is api://other",
        ),
        (
            lambda: ec(claims(aud=["a", 7, "b", "c"])),
            TokenProfile(ISSUER, (AUDIENCE, "guid")),
            "expected is api://luigi or guid; its aud is a, b and 1 more",
        ),
        (lambda: ec(without(claims(), "aud")), PROFILE, "expected is api://luigi; it names none"),
        (
            lambda: ec(claims(iat=NOW)),
            TokenProfile(ISSUER, (AUDIENCE,), max_lifetime_seconds=60),
            "it is valid for 3600 seconds, and the limit is 60 seconds",
        ),
        (
            lambda: ec(without(claims(), "iat")),
            TokenProfile(ISSUER, (AUDIENCE,), max_lifetime_seconds=60),
            "it has no iat to count from, and the limit is 60 seconds",
        ),
    ],
)
async def test_a_refusal_says_what_came_and_what_is_expected(
    tmp_path: Path, make: Callable[[], str], profile: TokenProfile, detail: str
) -> None:
    """Types and audiences are named, cut and in plain ASCII; a lifetime is given with its limit."""
    with pytest.raises(Rejected) as refused:
        await judge(tmp_path, make(), profile=profile)
    assert refused.value.detail == detail


async def test_kid_may_be_absent_with_one_key(tmp_path: Path) -> None:
    """A single usable key needs no kid; a kid that is not its own is still refused."""
    keys = key_set(jwk(ec_private(), "ec"))
    assert (
        await judge(tmp_path, token(ec_private(), without(header(), "kid"), claims()), keys=keys)
    ).subject == "alice"
    assert await refusal(tmp_path, ec(claims(), kid="other"), keys=keys) is Reason.UNKNOWN_KEY
    nameless = key_set(jwk(ec_private()))
    assert await refusal(tmp_path, good(), keys=nameless) is Reason.UNKNOWN_KEY


@pytest.mark.parametrize(
    ("claim", "accepted"),
    [
        (AUDIENCE, True),
        ("guid", True),
        (["other", "guid"], True),
        ([AUDIENCE, "guid"], True),
        ("other", False),
        (["other"], False),
        ([], False),
        (f"{AUDIENCE},guid", False),
    ],
)
async def test_one_of_several_audiences_suffices(
    tmp_path: Path, claim: object, accepted: bool
) -> None:
    """An identity provider may name the same application by a URI and by a GUID."""
    profile = TokenProfile(ISSUER, (AUDIENCE, "guid"))
    text = ec(claims(aud=claim))
    if accepted:
        await judge(tmp_path, text, profile=profile)
    else:
        assert await refusal(tmp_path, text, profile=profile) is Reason.WRONG_AUDIENCE


@pytest.mark.parametrize("missing", ["issuer", "audiences", "an audience", "token_types"])
def test_an_empty_profile_is_refused(missing: str) -> None:
    """An empty rule is no rule that accepts everything (RFC 8725 section 3.9)."""
    empty: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
        "issuer": ("", (AUDIENCE,), ("at+jwt",)),
        "audiences": (ISSUER, (), ("at+jwt",)),
        "an audience": (ISSUER, (AUDIENCE, ""), ("at+jwt",)),
        "token_types": (ISSUER, (AUDIENCE,), ()),
    }
    with pytest.raises(ValueError, match="needs an issuer"):
        TokenProfile(*empty[missing])


def test_a_token_over_the_limit_is_not_parsed() -> None:
    """The verifier's headers are bounded before; every other caller is bounded here."""
    with pytest.raises(Rejected) as refused:
        parse("a" * (TOKEN_LIMIT + 1))
    assert refused.value.detail == "the token is over 16384 bytes"


def test_claims_are_checked_against_their_own_issuer() -> None:
    """Claims are refused under the profile of another issuer."""
    with pytest.raises(Rejected) as refused:
        check_claims(parse(good()), TokenProfile("https://other.example", (AUDIENCE,)), NOW)
    assert refused.value.reason is Reason.UNKNOWN_ISSUER


async def test_every_changed_character_is_refused(tmp_path: Path) -> None:
    """A token with any one character changed is refused."""
    text = good()
    judged = verifier(tmp_path / "keys.json", all_keys())
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(Rejected):
            await judged.authenticate(Credentials(bearer(changed)), NOW)
