import asyncio
import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.identity.verifier import Verifier
from proxy.model import Credentials, Reason, RoleGrant
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    NOW,
    Clock,
    all_keys,
    bearer,
    claims,
    ec_private,
    good,
    header,
    jwk,
    key_set,
    part,
    token,
    verifier,
    viewer,
)


def replace(path: Path, data: bytes) -> None:
    """Put a new file in the place of the one at `path`."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(path)


async def test_a_verified_credential_is_cached_until_it_expires(tmp_path: Path) -> None:
    """The same header value gives the same principal without another verification, up to the
    token's exp and not after.
    """
    gate = verifier(tmp_path / "keys.json")
    value = bearer(good())
    assert gate.cached(Credentials(value), NOW) is None
    principal = await gate.authenticate(Credentials(value), NOW)
    assert gate.cached(Credentials(value), NOW) is principal
    assert await gate.authenticate(Credentials(value), NOW + 1) is principal
    assert gate.cached(Credentials(value), NOW + 3599.9) is principal
    assert gate.cached(Credentials(value), NOW + 3600) is None
    with pytest.raises(Rejected) as refused:
        await gate.authenticate(Credentials(value), NOW + 3600)
    assert refused.value.reason is Reason.TOKEN_EXPIRED


async def test_the_cache_is_keyed_by_the_complete_header_value(tmp_path: Path) -> None:
    """A value that only begins or ends like a cached one is verified on its own."""
    gate = verifier(tmp_path / "keys.json")
    value = bearer(good())
    await gate.authenticate(Credentials(value), NOW)
    for other in (value[:-1], value + b"A", value.replace(b"Bearer", b"bearer"), value[7:]):
        assert gate.cached(Credentials(other), NOW) is None
    assert (
        await gate.authenticate(
            Credentials(b"Basic " + base64.b64encode(b"anyone:" + value[7:])), NOW
        )
    ).subject == "alice"


async def test_two_credentials_are_refused_though_one_is_cached(tmp_path: Path) -> None:
    """A session cookie with a cached token is a second credential; another cookie is none."""
    gate = verifier(tmp_path / "keys.json")
    value = bearer(good())
    principal = await gate.authenticate(Credentials(value), NOW)
    with pytest.raises(Rejected) as refused:
        await gate.authenticate(Credentials(value, b"__Host-callgate=x"), NOW)
    assert refused.value.reason is Reason.TWO_CREDENTIALS
    assert await gate.authenticate(Credentials(value, b"theme=dark"), NOW) is principal


async def test_a_withdrawn_key_takes_its_tokens_with_it(tmp_path: Path) -> None:
    """A cached token is refused within a second after the issuer dropped its key; other tokens stay
    good.
    """
    path = tmp_path / "keys.json"
    gate = verifier(path, key_set(jwk(ec_private(), "ec"), jwk(ec_private(which=1), "next")))
    old, new = (
        bearer(good()),
        bearer(token(ec_private(which=1), header(kid="next"), claims(sub="bob"))),
    )
    await gate.authenticate(Credentials(old), NOW)
    await gate.authenticate(Credentials(new), NOW)
    replace(path, key_set(jwk(ec_private(which=1), "next")))
    assert gate.cached(Credentials(old), NOW + 1) is None
    with pytest.raises(Rejected) as refused:
        await gate.authenticate(Credentials(old), NOW + 1)
    assert refused.value.reason is Reason.UNKNOWN_KEY
    assert (await gate.authenticate(Credentials(new), NOW + 1)).subject == "bob"


async def test_cached_tokens_end_with_keys_that_are_too_old(tmp_path: Path) -> None:
    """A token that was verified before gets 503 once the keys of its issuer could not be read for
    `max_age_seconds`; without that bound it passed until it expired.
    """
    path, clock = tmp_path / "keys.json", Clock()
    path.write_bytes(all_keys())
    source = JwksFile(path, max_age_seconds=600, clock=clock)
    gate = Verifier([Issuer("idp", TokenProfile(ISSUER, (AUDIENCE,)), source)], viewer)
    value = bearer(good())
    await gate.authenticate(Credentials(value), NOW)
    path.unlink()
    clock.now += 599
    assert gate.cached(Credentials(value), NOW + 599) is not None
    clock.now += 1
    assert gate.cached(Credentials(value), NOW + 600) is None
    with pytest.raises(Rejected) as refused:
        await gate.authenticate(Credentials(value), NOW + 600)
    assert refused.value.reason is Reason.ISSUER_UNAVAILABLE


async def test_without_that_age_a_removed_set_would_revoke_nothing(tmp_path: Path) -> None:
    """What was before: a token of a set that is gone passes as long as it lasts."""
    path, clock = tmp_path / "keys.json", Clock()
    path.write_bytes(all_keys())
    source = JwksFile(path, max_age_seconds=float("inf"), clock=clock)
    gate = Verifier([Issuer("idp", TokenProfile(ISSUER, (AUDIENCE,)), source)], viewer)
    value = bearer(good())
    await gate.authenticate(Credentials(value), NOW)
    path.unlink()
    clock.now += 100_000
    assert gate.cached(Credentials(value), NOW + 3599) is not None


async def test_an_emptied_set_takes_all_tokens_with_it(tmp_path: Path) -> None:
    """Cached ones too, within a second; the reason is the key's, and not an outage."""
    path = tmp_path / "keys.json"
    gate = verifier(path)
    value = bearer(good())
    await gate.authenticate(Credentials(value), NOW)
    replace(path, key_set())
    assert gate.cached(Credentials(value), NOW + 1) is None
    with pytest.raises(Rejected) as refused:
        await gate.authenticate(Credentials(value), NOW + 1)
    assert refused.value.reason is Reason.UNKNOWN_KEY


async def test_an_added_key_evicts_nothing(tmp_path: Path) -> None:
    """A rotation that adds a key leaves the cache alone, and the new key works at once."""
    path = tmp_path / "keys.json"
    gate = verifier(path, key_set(jwk(ec_private(), "ec")))
    old, new = (
        bearer(good()),
        bearer(token(ec_private(which=1), header(kid="next"), claims(sub="bob"))),
    )
    principal = await gate.authenticate(Credentials(old), NOW)
    replace(path, key_set(jwk(ec_private(), "ec"), jwk(ec_private(which=1), "next")))
    assert (await gate.authenticate(Credentials(new), NOW)).subject == "bob"
    assert gate.cached(Credentials(old), NOW + 2) is principal


async def test_the_cache_is_bounded_in_entries_and_bytes(tmp_path: Path) -> None:
    """Beyond either bound the oldest credentials are evicted, and only those."""
    path = tmp_path / "keys.json"
    path.write_bytes(all_keys())
    issuers = [Issuer("idp", TokenProfile(ISSUER, (AUDIENCE,)), JwksFile(path))]
    values = [bearer(good(sub=f"user-{number}")) for number in range(5)]
    few = Verifier(issuers, viewer, max_entries=3)
    small = Verifier(issuers, viewer, max_header_bytes=len(values[0]) * 2)
    for value in values:
        await few.authenticate(Credentials(value), NOW)
        await small.authenticate(Credentials(value), NOW)
    assert [few.cached(Credentials(value), NOW) is not None for value in values] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert [small.cached(Credentials(value), NOW) is not None for value in values] == [
        False,
        False,
        False,
        True,
        True,
    ]


async def test_refusals_are_not_cached(tmp_path: Path) -> None:
    """A flood of bad tokens adds no entry, and a token that was too early is accepted later."""
    gate = verifier(tmp_path / "keys.json")
    early = bearer(good(nbf=NOW + 100))
    for value in [
        early,
        *[bearer(f"{part(header())}.{part(claims(sub=str(n)))}.AAAA") for n in range(50)],
    ]:
        with pytest.raises(Rejected):
            await gate.authenticate(Credentials(value), NOW)
    assert len(gate._cache) == 0
    assert (await gate.authenticate(Credentials(early), NOW + 100)).subject == "alice"


async def test_issuers_are_kept_apart(tmp_path: Path) -> None:
    """A key of one issuer proves nothing for another, even under the same kid; nor does an
    audience.
    """
    (tmp_path / "a.json").write_bytes(key_set(jwk(ec_private(), "ec")))
    (tmp_path / "b.json").write_bytes(key_set(jwk(ec_private(which=1), "ec")))
    other = "https://other.example"
    gate = Verifier(
        [
            Issuer("a", TokenProfile(ISSUER, (AUDIENCE,)), JwksFile(tmp_path / "a.json")),
            Issuer("b", TokenProfile(other, ("api://b",)), JwksFile(tmp_path / "b.json")),
        ],
        viewer,
    )
    mine = await gate.authenticate(Credentials(bearer(good())), NOW)
    theirs = await gate.authenticate(
        Credentials(bearer(token(ec_private(which=1), header(), claims(iss=other, aud="api://b")))),
        NOW,
    )
    assert (mine.name, theirs.name) == ("a|alice", "b|alice")
    crossed = {
        Reason.BAD_SIGNATURE: token(ec_private(), header(), claims(iss=other, aud="api://b")),
        Reason.WRONG_AUDIENCE: token(ec_private(which=1), header(), claims(iss=other)),
    }
    for reason, text in crossed.items():
        with pytest.raises(Rejected) as refused:
            await gate.authenticate(Credentials(bearer(text)), NOW)
        assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("actor", "by_role", "agent"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
async def test_agents_are_marked_by_the_token_or_by_a_role(
    tmp_path: Path, actor: bool, by_role: bool, agent: bool
) -> None:
    """An `act` claim makes an agent with any roles, and the roles make one without it."""
    gate = verifier(
        tmp_path / "keys.json", resolve_roles=lambda *_: RoleGrant(("viewer",), by_role)
    )
    text = good(act={"sub": "assistant"}) if actor else good()
    assert (await gate.authenticate(Credentials(bearer(text)), NOW)).agent is agent


async def test_roles_are_resolved_by_issuer_subject_groups_and_claims(tmp_path: Path) -> None:
    """The resolver gets the verified groups, so that no second reading of the claim exists."""
    asked: list[tuple[str, str, tuple[str, ...], object]] = []

    def resolve_roles(
        issuer: str, subject: str, groups: tuple[str, ...], found: Mapping[str, object]
    ) -> RoleGrant:
        asked.append((issuer, subject, groups, found["department"]))
        return RoleGrant(())

    await verifier(tmp_path / "keys.json", resolve_roles=resolve_roles).authenticate(
        Credentials(bearer(good(department="ops"))), NOW
    )
    assert asked == [("idp", "alice", ("dev", "etl"), "ops")]


async def test_a_clock_that_was_set_back_still_polls_the_sources(tmp_path: Path) -> None:
    """A withdrawn key is noticed after the system's clock jumped back."""
    path = tmp_path / "keys.json"
    gate = verifier(path, key_set(jwk(ec_private(), "ec")))
    value = bearer(good())
    await gate.authenticate(Credentials(value), NOW)
    replace(path, key_set(jwk(ec_private(which=1), "ec")))
    assert gate.cached(Credentials(value), NOW - 1000) is None


def test_no_issuers_or_equal_ones_are_refused(tmp_path: Path) -> None:
    """A verifier without issuers, or with two of one name or URL, is not made."""
    source = JwksFile(tmp_path / "keys.json")
    one = Issuer("a", TokenProfile(ISSUER, (AUDIENCE,)), source)
    for issuers in (
        [],
        [one, one],
        [one, Issuer("b", one.profile, source)],
        [one, Issuer("a", TokenProfile("https://b", ("b",)), source)],
    ):
        with pytest.raises(ValueError, match="issuer"):
            Verifier(issuers, viewer)


@pytest.mark.parametrize("name", ["", "A", "a|b", "-a", "a b", "a" * 33, "a\n"])
def test_issuer_names(name: str, tmp_path: Path) -> None:
    """A name is refused if it could blur the border between issuer and subject."""
    with pytest.raises(ValueError, match="name"):
        Issuer(name, TokenProfile(ISSUER, (AUDIENCE,)), JwksFile(tmp_path / "keys.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["ES256", "RS256", "none"]) | JSON},
    optional={"kid": JSON, "typ": JSON, "crit": JSON},
)
CLAIMS = st.fixed_dictionaries(
    {
        "iss": st.just(ISSUER) | JSON,
        "aud": st.just(AUDIENCE) | JSON,
        "exp": st.just(NOW + 60) | JSON,
    },
    optional={"sub": JSON, "nbf": JSON, "iat": JSON, "groups": JSON, "act": JSON},
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    value=st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: b"Bearer " + data),
    cookie=st.none() | st.binary(max_size=20),
)
def test_any_bytes_give_a_principal_or_rejected(
    tmp_path: Path, value: bytes, cookie: bytes | None
) -> None:
    """All header bytes give a principal or one `Rejected` with a safe text."""
    gate = verifier(tmp_path / "keys.json")
    with pytest.raises(Rejected) as refused:
        asyncio.run(gate.authenticate(Credentials(value, cookie), NOW))
    assert refused.value.detail.isascii() and refused.value.detail.isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(head=HEADERS, body=CLAIMS)
def test_any_signed_json_gives_a_principal_or_rejected(
    tmp_path: Path, head: dict[str, object], body: dict[str, object]
) -> None:
    """All signed JSON gives a principal or one `Rejected`, whose text holds no part of the token."""
    gate = verifier(tmp_path / "keys.json", key_set(jwk(ec_private())))
    signed = {"typ": "at+jwt"} | head
    text = token(ec_private(), json.dumps(signed).encode(), body)
    try:
        found = asyncio.run(gate.authenticate(Credentials(bearer(text)), NOW))
    except Rejected as refused:
        said = str(refused)
        assert not any(piece in said for piece in text.split(".") if len(piece) >= 8)
        values = [
            value
            for value in [*signed.values(), *body.values()]
            if isinstance(value, str) and len(value) >= 8
        ]
        assert not any(value in said for value in values if value not in ("absent", "at+jwt"))
    else:
        assert found.subject.isprintable()


async def test_expiry_of_one_entry_frees_its_bytes(tmp_path: Path) -> None:
    """An expired entry is evicted when it is found, so that the sum of bytes stays true."""
    gate = verifier(tmp_path / "keys.json")
    value = bearer(good(sub=os.urandom(4).hex()))
    await gate.authenticate(Credentials(value), NOW)
    assert gate._cached_bytes == len(value)
    assert gate.cached(Credentials(value), NOW + 4000) is None
    assert gate._cached_bytes == 0


class Fetched(JwksFile):
    """A source whose keys come over a network: all callers wait for the same answer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked = 0
        self.all_there = asyncio.Event()
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def on_unknown_kid(self) -> None:
        """Wait until the answer is there."""
        self.asked += 1
        if self.asked == 3:
            self.all_there.set()
        await asyncio.shield(self.answered)


async def test_requests_that_wait_for_keys_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Bad signatures without a kid wait for fresh keys together; each is refused for its own
    reason, and so is one that comes meanwhile.
    """
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(ec_private())))
    source = Fetched(path)
    gate = Verifier([Issuer("idp", TokenProfile(ISSUER, (AUDIENCE,)), source)], viewer)
    head = {"alg": "ES256", "typ": "at+jwt"}
    forged = [
        bearer(token(ec_private(which=1), head, claims(sub=f"u{number}"))) for number in range(3)
    ]
    waiting = [asyncio.create_task(gate.authenticate(Credentials(value), NOW)) for value in forged]
    await asyncio.wait_for(source.all_there.wait(), 60)
    assert sys.exc_info() == (None, None, None)
    with pytest.raises(Rejected) as refused:
        await gate.authenticate(
            Credentials(bearer(token(ec_private(), head, claims(exp=NOW - 3600)))), NOW
        )
    assert refused.value.reason is Reason.TOKEN_EXPIRED
    source.answered.set_result(None)
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [error.reason for error in found if isinstance(error, Rejected)] == [
        Reason.BAD_SIGNATURE
    ] * 3


async def test_credentials_that_may_be_two_are_never_cached(tmp_path: Path) -> None:
    """A header that was verified before is verified again when a cookie comes with it."""
    gate = verifier(tmp_path / "keys.json")
    value = bearer(good())
    principal = await gate.authenticate(Credentials(value), NOW)
    assert gate.cached(Credentials(value), NOW) is principal
    assert gate.cached(Credentials(value, b"a=b"), NOW) is None
    assert gate.cached(Credentials(None), NOW) is None
