"""Keys by OpenID Connect Discovery: from an issuer's URL to its configuration to its key set.

Implements OpenID Connect Discovery 1.0 section 4 as far as keys go. Trusts the TLS connection that
the injected `fetch` makes, and after that what the issuer says of itself: its configuration must
name exactly the issuer that was asked, and a `jwks_uri` over https. Refuses plain http everywhere,
loopback too.

Requests never decide when to fetch, or how often. Keys are refreshed in the background, every ten
minutes by default. An unknown `kid` asks for a refresh at once: all who wait share one, it belongs
to none of them (a client that hangs up does not stop it for the others), and the next may begin
only `miss_interval_seconds` after the last began. So made-up tokens cannot make the gate hammer an
issuer, nor can one slow issuer be asked twice at the same time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from proxy.identity.encoding import json_object
from proxy.identity.issuer import KeySource
from proxy.identity.jwk import load_key_set

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""Get the body behind an https URL, without following redirects and with a limit on its size.
Raises `OSError` or `TimeoutError`.
"""

_CONFIGURATION_LIMIT_BYTES = 64 * 1024
_URL_LIMIT = 2048
_FIRST_RETRY_SECONDS = 2.0
_MAX_RETRY_SECONDS = 60.0


class OidcKeys(KeySource):
    """The keys of `issuer`, an https URL. Times are in seconds; `clock` is monotonic, `sleep` waits
    on that clock.

    `interval_seconds` lies between two background refreshes, `miss_interval_seconds` between two that unknown
    keys ask for; `timeout_seconds` bounds one refresh, which is two requests. Raises `ValueError` for an
    issuer that cannot be discovered.
    """

    def __init__(
        self,
        issuer: str,
        fetch: Fetch,
        *,
        interval_seconds: float = 600.0,
        miss_interval_seconds: float = 30.0,
        timeout_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Fetch nothing yet."""
        super().__init__()
        if not _is_https(issuer) or "?" in issuer:
            raise ValueError(
                "an issuer that is discovered is an https URL without query or fragment"
            )
        self._issuer = issuer
        self._configuration_url = issuer.removesuffix("/") + "/.well-known/openid-configuration"
        self._fetch = fetch
        self._interval_seconds = interval_seconds
        self._miss_interval_seconds = miss_interval_seconds
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._sleep = sleep
        self._started_at: float | None = None  # when the last refresh began
        self._failures = 0  # refreshes that failed since the last that did not
        self._inflight: asyncio.Task[None] | None = None
        self._refresh_task: asyncio.Task[None] | None = None

    def poll(self) -> None:
        """Nothing to look at without asking the issuer."""

    async def on_unknown_kid(self) -> None:
        """Share the refresh that is under way, or begin one if it is due."""
        under_way = self._inflight is not None and not self._inflight.done()
        if not under_way and self._seconds_until_due() > 0:
            return
        await self.refresh()

    def retry_after(self) -> int:
        """When the next refresh may begin, in whole seconds."""
        return max(1, int(self._seconds_until_due()) + 1)

    async def refresh(self) -> None:
        """Refresh now, or share the refresh under way. Never raises for what the issuer does; see
        `problem`.
        """
        if self._inflight is None or self._inflight.done():
            self._started_at = self._clock()
            self._inflight = asyncio.create_task(
                self._refresh(), name=f"refresh keys of {self._issuer}"
            )
        # Shielded: cancelling one who waits must not cancel it for all.
        await asyncio.shield(self._inflight)

    async def start(self) -> None:
        """Try once, then keep the keys fresh in the background whether that worked or not."""
        await self.refresh()
        if self._refresh_task is None:
            self._refresh_task = asyncio.create_task(
                self._keep(), name=f"keep keys of {self._issuer}"
            )

    async def close(self) -> None:
        """End the background work."""
        tasks = [task for task in (self._refresh_task, self._inflight) if task is not None]
        self._refresh_task = self._inflight = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def describe(self) -> str:
        """The issuer's URL."""
        return self._issuer

    def _seconds_until_due(self) -> float:
        """Seconds until a miss may begin a refresh. Without any keys yet every caller waits for
        them, so it is tried sooner.
        """
        if self._started_at is None:
            return 0.0
        pause = (
            self._miss_interval_seconds
            if self.keys is not None
            else min(self._miss_interval_seconds, self._backoff_seconds())
        )
        return self._started_at + pause - self._clock()

    def _backoff_seconds(self) -> float:
        """2, 4, 8 … 60 seconds while refreshes fail."""
        return (
            min(_MAX_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10))
            if self._failures
            else _FIRST_RETRY_SECONDS
        )

    async def _keep(self) -> None:
        """Refresh for as long as the gate runs."""
        while True:
            await self._sleep(
                min(self._interval_seconds, self._backoff_seconds())
                if self._failures
                else self._interval_seconds
            )
            await self.refresh()

    async def _refresh(self) -> None:
        """One refresh: the configuration, then the key set it names."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                keys_url = self._read_configuration(await self._fetch(self._configuration_url))
                self.accept(load_key_set(await self._fetch(keys_url)))
            self._failures = 0
        # whatever a fetch raises, the last good keys stay in use and the keeper lives on
        except Exception as error:
            self._failures += 1
            self.failed(_explain(error))

    def _read_configuration(self, data: bytes) -> str:
        """The `jwks_uri` in the issuer's configuration. Raises `ValueError`."""
        if len(data) > _CONFIGURATION_LIMIT_BYTES:
            raise ValueError(
                f"the issuer's configuration is over {_CONFIGURATION_LIMIT_BYTES} bytes"
            )
        try:
            configuration = json_object(data)
        except ValueError as error:
            raise ValueError(f"the issuer's configuration is {error}") from None
        # Discovery section 4.3: one that names another issuer may be a mix-up or an impersonation.
        if configuration.get("issuer") != self._issuer:
            raise ValueError(
                "the issuer's configuration names another issuer; check the exact spelling, final slash included"
            )
        url = configuration.get("jwks_uri")
        if not isinstance(url, str) or not _is_https(url):
            raise ValueError("the issuer's configuration has no jwks_uri over https")
        return url


def _is_https(url: str) -> bool:
    """True for an absolute https URL in printable ASCII, without user information or fragment."""
    if (
        len(url) > _URL_LIMIT
        or not url.isascii()
        or not url.isprintable()
        or " " in url
        or "\\" in url
    ):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number
    except ValueError:
        return False
    return (
        parts.scheme == "https"
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and "#" not in url
    )


def _explain(error: Exception) -> str:
    """One safe line on why a refresh failed: a remote party's words are cut short and stripped to
    printable ASCII.
    """
    if isinstance(error, TimeoutError):
        return "the issuer did not answer in time"
    text = "".join(
        char if char.isascii() and char.isprintable() else "?" for char in str(error)[:300]
    )
    # a fetch's own words, which need no name before them
    plain = isinstance(error, ValueError) or type(error) is OSError
    return text if plain else f"{type(error).__name__}: {text}"
