import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from proxy.errors import Rejected, Unavailable
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.oidc_discovery import OidcKeys
from proxy.identity.verifier import Verifier
from proxy.model import Credentials, Reason
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    NOW,
    Clock,
    bearer,
    claims,
    ec_private,
    good,
    header,
    jwk,
    key_set,
    token,
    viewer,
    without,
)

CONFIGURATION_URL = ISSUER + "/.well-known/openid-configuration"
KEYS_URL = "https://keys.example/set"


class Provider:
    """An issuer's web server as the fetch sees it. Its faults can be chosen: `down`, or answers
    that wait for `hold`.
    """

    def __init__(self) -> None:
        self.configuration: bytes = json.dumps({"issuer": ISSUER, "jwks_uri": KEYS_URL}).encode()
        self.keys = key_set(jwk(ec_private(), "ec"))
        self.down: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.asked: list[str] = []

    async def fetch(self, url: str) -> bytes:
        """Answer as a web server does."""
        self.asked.append(url)
        if self.hold is not None:
            await self.hold.wait()
        if self.down is not None:
            raise self.down
        return {CONFIGURATION_URL: self.configuration, KEYS_URL: self.keys}[url]

    @property
    def refreshes(self) -> int:
        """The number of refreshes that started."""
        return self.asked.count(CONFIGURATION_URL)


def gate(provider: Provider, clock: Clock) -> tuple[OidcKeys, Verifier]:
    """Return a verifier of tokens whose keys come from `provider`, on the default settings but for
    the clock.
    """
    source = OidcKeys(ISSUER, provider.fetch, clock=clock)
    return source, Verifier([Issuer("idp", TokenProfile(ISSUER, (AUDIENCE,)), source)], viewer)


async def refusal(call: Awaitable[object]) -> Rejected:
    """Return the refusal of `call`."""
    with pytest.raises(Rejected) as refused:
        await call
    return refused.value


def signed_by(which: int, kid: str, **more: object) -> bytes:
    """Return a good credential signed by the `which`th P-256 key."""
    return bearer(token(ec_private(which=which), header(kid=kid), claims(**more)))


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks run until `condition` holds. All of them are ready, so a bounded number
    of turns is enough.
    """
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came about")


async def test_the_first_token_finds_the_keys() -> None:
    """Configuration and keys are fetched once, when they are first needed."""
    provider = Provider()
    _, verifier = gate(provider, Clock())
    assert (await verifier.authenticate(Credentials(bearer(good())), NOW)).subject == "alice"
    assert (await verifier.authenticate(Credentials(bearer(good(sub="bob"))), NOW)).subject == "bob"
    assert provider.asked == [CONFIGURATION_URL, KEYS_URL]


async def test_a_rotation_is_found_by_its_unknown_kid() -> None:
    """A token with a new kid makes the source read the keys again, and is accepted; cached tokens
    of the withdrawn key are not.
    """
    provider, clock = Provider(), Clock()
    _, verifier = gate(provider, clock)
    old = bearer(good())
    await verifier.authenticate(Credentials(old), NOW)
    provider.keys = key_set(jwk(ec_private(which=1), "next"))
    clock.now += 30
    assert (await verifier.authenticate(Credentials(signed_by(1, "next")), NOW)).subject == "alice"
    assert verifier.cached(Credentials(old), NOW) is None
    assert (
        await refusal(verifier.authenticate(Credentials(old), NOW))
    ).reason is Reason.UNKNOWN_KEY


async def test_a_rotation_without_kid_is_found_by_the_bad_signature() -> None:
    """An issuer whose only key has no kid can rotate it."""
    provider, clock = Provider(), Clock()
    provider.keys = key_set(jwk(ec_private()))
    _, verifier = gate(provider, clock)
    bare = without(header(), "kid")
    await verifier.authenticate(Credentials(bearer(token(ec_private(), bare, claims()))), NOW)
    provider.keys = key_set(jwk(ec_private(which=1)))
    clock.now += 30
    assert (
        await verifier.authenticate(
            Credentials(bearer(token(ec_private(which=1), bare, claims()))), NOW
        )
    ).subject == "alice"
    assert (
        await refusal(
            verifier.authenticate(
                Credentials(bearer(token(ec_private(which=2), bare, claims()))), NOW
            )
        )
    ).reason is Reason.BAD_SIGNATURE


async def test_forged_kids_cannot_flood_the_issuer() -> None:
    """A thousand unknown kids cause one refresh in 30 seconds, and the next one only then."""
    provider, clock = Provider(), Clock()
    source, verifier = gate(provider, clock)
    await source.refresh()
    clock.now += 30
    for number in range(1000):
        assert (
            await refusal(
                verifier.authenticate(Credentials(signed_by(0, f"made-up-{number}")), NOW)
            )
        ).reason is Reason.UNKNOWN_KEY
    assert provider.refreshes == 2
    clock.now += 29.9
    await refusal(verifier.authenticate(Credentials(signed_by(0, "made-up")), NOW))
    assert provider.refreshes == 2
    clock.now += 0.1
    await refusal(verifier.authenticate(Credentials(signed_by(0, "made-up")), NOW))
    assert provider.refreshes == 3


async def test_all_requests_that_wait_share_one_refresh() -> None:
    """Fifty callers at the same time cause one refresh, and all of them are served by it."""
    provider = Provider()
    provider.hold = asyncio.Event()
    _, verifier = gate(provider, Clock())
    waiting = [
        asyncio.create_task(verifier.authenticate(Credentials(bearer(good(sub=f"user-{n}"))), NOW))
        for n in range(50)
    ]
    await until(lambda: provider.refreshes == 1)
    provider.hold.set()
    assert [found.subject for found in await asyncio.gather(*waiting)] == [
        f"user-{n}" for n in range(50)
    ]
    assert provider.refreshes == 1


async def test_a_caller_that_leaves_does_not_stop_the_refresh() -> None:
    """When the request that started a refresh is cancelled, the others still get their keys from
    it.
    """
    provider = Provider()
    provider.hold = asyncio.Event()
    _, verifier = gate(provider, Clock())
    first = asyncio.create_task(verifier.authenticate(Credentials(bearer(good(sub="first"))), NOW))
    await until(lambda: provider.refreshes == 1)
    second = asyncio.create_task(
        verifier.authenticate(Credentials(bearer(good(sub="second"))), NOW)
    )
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    provider.hold.set()
    assert (await second).subject == "second"
    assert provider.refreshes == 1


async def test_an_issuer_never_reached_is_unavailable_not_unknown() -> None:
    """Before the first keys a token is neither good nor bad: 503 with a Retry-After, and bounded
    attempts.
    """
    provider, clock = Provider(), Clock()
    provider.down = OSError("connection refused")
    source, verifier = gate(provider, clock)
    for _ in range(100):
        refused = await refusal(verifier.authenticate(Credentials(bearer(good())), NOW))
        assert isinstance(refused, Unavailable)
        assert (refused.reason, refused.status) == (Reason.ISSUER_UNAVAILABLE, 503)
        assert refused.retry_after is not None and 1 <= refused.retry_after <= 31
    assert provider.refreshes == 1
    assert source.problem == "connection refused"
    provider.down = None
    clock.now += 30
    assert (await verifier.authenticate(Credentials(bearer(good())), NOW)).subject == "alice"
    assert source.problem is None


DOWN: dict[str, Callable[[Provider], None]] = {
    "refuses connections": lambda provider: setattr(provider, "down", OSError("refused")),
    "times out": lambda provider: setattr(provider, "down", TimeoutError()),
    "breaks in another way": lambda provider: setattr(
        provider, "down", RuntimeError("line\nbreak \x1b[31m é")
    ),
    "shows a web page": lambda provider: setattr(provider, "configuration", b"<html>"),
    "shows no list of keys": lambda provider: setattr(provider, "keys", b'{"keys":null}'),
    "shows a web page for keys": lambda provider: setattr(provider, "keys", b"<html>"),
    "publishes a secret": lambda provider: setattr(
        provider, "keys", key_set({"kty": "oct", "k": "AAAA"}, jwk(ec_private(), "ec"))
    ),
    "is ambiguous": lambda provider: setattr(
        provider, "keys", key_set(jwk(ec_private(), "ec"), jwk(ec_private(which=1), "ec"))
    ),
}


@pytest.mark.parametrize("fail", DOWN.values(), ids=DOWN)
async def test_last_good_keys_stay_in_use(fail: Callable[[Provider], None]) -> None:
    """After any failure of the issuer, tokens signed by its last good keys stay good, and cached
    ones stay cached.
    """
    provider, clock = Provider(), Clock()
    source, verifier = gate(provider, clock)
    old = bearer(good())
    principal = await verifier.authenticate(Credentials(old), NOW)
    fail(provider)
    for _ in range(3):
        clock.now += 600
        await source.refresh()
        assert (
            source.problem is not None and source.problem.isascii() and source.problem.isprintable()
        )
    assert verifier.cached(Credentials(old), NOW) is principal
    assert (await verifier.authenticate(Credentials(bearer(good(sub="bob"))), NOW)).subject == "bob"


@pytest.mark.parametrize("fail", DOWN.values(), ids=DOWN)
async def test_last_good_keys_end_with_their_age(fail: Callable[[Provider], None]) -> None:
    """An hour after the last good reading, neither cached nor new tokens pass: 503, not 401. The
    next good reading ends that.
    """
    provider, clock = Provider(), Clock()
    source, verifier = gate(provider, clock)
    old = bearer(good())
    await verifier.authenticate(Credentials(old), NOW)
    good_keys, good_configuration = provider.keys, provider.configuration
    fail(provider)
    for _ in range(6):
        clock.now += 600
        await source.refresh()
    assert verifier.cached(Credentials(old), NOW + 1) is None
    assert (source.usable_keys, source.readable) == (0, False)
    refused = await refusal(verifier.authenticate(Credentials(old), NOW + 1))
    assert (refused.reason, refused.status) == (Reason.ISSUER_UNAVAILABLE, 503)
    provider.keys, provider.configuration, provider.down = good_keys, good_configuration, None
    clock.now += 60
    assert (await verifier.authenticate(Credentials(old), NOW + 2)).subject == "alice"


@pytest.mark.parametrize("keys", [key_set(), key_set({"kty": "new"})])
async def test_an_empty_set_withdraws_all_keys(keys: bytes) -> None:
    """What the issuer publishes holds with the next refresh, for cached tokens too."""
    provider, clock = Provider(), Clock()
    source, verifier = gate(provider, clock)
    old = bearer(good())
    await verifier.authenticate(Credentials(old), NOW)
    provider.keys = keys
    clock.now += 600
    await source.refresh()
    assert verifier.cached(Credentials(old), NOW) is None
    refused = await refusal(verifier.authenticate(Credentials(old), NOW))
    assert refused.reason is Reason.UNKNOWN_KEY
    assert source.problem is not None and source.problem.startswith("the key set has no usable key")


async def test_keys_that_may_not_get_old_are_read_more_often() -> None:
    """A third of `max_age_seconds` lies between two refreshes, and never more than ten minutes."""
    provider, slept = Provider(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0 if len(slept) < 2 else 3600)

    for max_age in (90.0, 3600.0):
        source = OidcKeys(ISSUER, provider.fetch, max_age_seconds=max_age, sleep=sleep)
        await source.start()
        await until(lambda: len(slept) > 0)
        await source.close()
        assert slept.pop(0) == min(600.0, max_age / 3)
        slept.clear()


CONFIGURATIONS: dict[str, object] = {
    "another issuer": {"issuer": "https://evil.example", "jwks_uri": KEYS_URL},
    "issuer with a slash more": {"issuer": ISSUER + "/", "jwks_uri": KEYS_URL},
    "issuer missing": {"jwks_uri": KEYS_URL},
    "issuer a list": {"issuer": [ISSUER], "jwks_uri": KEYS_URL},
    "no keys URL": {"issuer": ISSUER},
    "keys over http": {"issuer": ISSUER, "jwks_uri": "http://keys.example/set"},
    "keys over http on loopback": {"issuer": ISSUER, "jwks_uri": "http://127.0.0.1/set"},
    "keys in a file": {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
    "keys with a user": {"issuer": ISSUER, "jwks_uri": "https://a:b@keys.example/set"},
    "keys with a line end": {"issuer": ISSUER, "jwks_uri": "https://keys.example/set\r\nX: y"},
    "keys without host": {"issuer": ISSUER, "jwks_uri": "https:///set"},
    "keys with a bad port": {"issuer": ISSUER, "jwks_uri": "https://keys.example:x/set"},
    "keys URL a list": {"issuer": ISSUER, "jwks_uri": [KEYS_URL]},
    "not an object": [],
    "too large": {"issuer": ISSUER, "jwks_uri": KEYS_URL, "x": "x" * 70_000},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
async def test_configurations_that_are_refused(configuration: object) -> None:
    """A configuration that names another issuer, or keys without https, is not followed."""
    provider = Provider()
    provider.configuration = json.dumps(configuration).encode()
    source, verifier = gate(provider, Clock())
    assert (
        await refusal(verifier.authenticate(Credentials(bearer(good())), NOW))
    ).reason is Reason.ISSUER_UNAVAILABLE
    assert provider.asked == [CONFIGURATION_URL]
    assert source.problem is not None and "configuration" in source.problem


@pytest.mark.parametrize(
    "issuer",
    [
        "http://idp.example",
        "http://127.0.0.1:8080",
        "idp.example",
        "https://",
        "https://idp.example#x",
        "https://idp.example?x=1",
        "",
    ],
)
def test_issuers_that_cannot_be_discovered(issuer: str) -> None:
    """Only an https URL without query and fragment is an issuer (Discovery section 1.2), on the
    loopback interface too.
    """
    with pytest.raises(ValueError, match="https URL"):
        OidcKeys(issuer, Provider().fetch)


async def test_a_final_slash_is_not_doubled() -> None:
    """The URL of the configuration of an issuer with a final slash is the one of Discovery section
    4.1.
    """
    provider = Provider()
    await OidcKeys(ISSUER + "/", provider.fetch, clock=Clock()).refresh()
    assert provider.asked == [CONFIGURATION_URL]


async def test_a_refresh_that_hangs_ends_at_its_deadline() -> None:
    """`problem` says that the issuer did not answer in time."""
    provider = Provider()
    provider.hold = asyncio.Event()
    source = OidcKeys(ISSUER, provider.fetch, clock=Clock(), timeout_seconds=0.01)
    await source.refresh()
    assert source.problem == "the issuer did not answer in time"


class Sleeper:
    """A `sleep` that records its durations and returns on `wake`."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._wake = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        """Sleep until `wake`."""
        self.slept.append(seconds)
        await self._wake.wait()
        self._wake.clear()

    def wake(self) -> None:
        """End the sleep."""
        self._wake.set()


async def test_keys_are_refreshed_in_the_background() -> None:
    """Without any request keys are refreshed every ten minutes, sooner after a failure, and
    failures do not end it.
    """
    provider, clock, sleeper = Provider(), Clock(), Sleeper()
    source = OidcKeys(ISSUER, provider.fetch, clock=clock, sleep=sleeper)
    await source.start()
    await until(lambda: sleeper.slept == [600.0])
    provider.down = RuntimeError("any failure at all")
    for expected in ([600.0, 2.0], [600.0, 2.0, 4.0], [600.0, 2.0, 4.0, 8.0]):
        sleeper.wake()
        await until(lambda expected=expected: sleeper.slept == expected)  # type: ignore[misc]  # the default binds it per round
    provider.down = None
    provider.keys = key_set(jwk(ec_private(which=1), "next"))
    sleeper.wake()
    await until(lambda: sleeper.slept[-1] == 600.0 and len(sleeper.slept) == 5)
    assert (
        source.generation == 1 and source.keys is not None and source.keys.find("next") is not None
    )
    await source.close()
    assert provider.refreshes == 5


async def test_closing_ends_the_background_work() -> None:
    """After `close` no task is left, also with a refresh under way."""
    provider = Provider()
    source = OidcKeys(ISSUER, provider.fetch, clock=Clock())
    await source.start()
    provider.hold = asyncio.Event()
    waiting = asyncio.create_task(source.refresh())
    await until(lambda: provider.refreshes == 2)
    await source.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [task for task in asyncio.all_tasks() if "keys of" in task.get_name()] == []


async def test_starting_twice_refreshes_in_one_task() -> None:
    """A second start refreshes the keys, and adds no second background task."""
    provider, waits = Provider(), 0

    async def sleep(_seconds: float) -> None:
        nonlocal waits
        waits += 1
        await asyncio.Event().wait()

    source = OidcKeys(ISSUER, provider.fetch, clock=Clock(), sleep=sleep)
    await source.start()
    await source.start()
    await asyncio.sleep(0)
    assert (provider.refreshes, waits) == (2, 1)
    await source.close()
