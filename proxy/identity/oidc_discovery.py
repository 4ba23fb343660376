"""Keys by OpenID Connect Discovery: from an issuer's URL to its configuration to its key set.

Implements OpenID Connect Discovery 1.0 section 4 as far as keys go. Trusts the TLS connection that
the injected `fetch` makes, and then the issuer's own configuration. The configuration must name
exactly the issuer that was asked, and a `jwks_uri` over https. Refuses plain http everywhere, on
the loopback interface too.

Keys are refreshed in the background, every ten minutes, or three times in `max_age_seconds` if that
is sooner. An unknown `kid` triggers a
refresh at once, within these bounds:

- All requests that wait share one refresh, so a slow issuer is never asked twice at the same time.
- The refresh belongs to no request: a client that hangs up does not cancel it for the others.
- The next one starts `miss_interval_seconds` after the last one at the earliest, so forged tokens
  cannot flood an issuer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from proxy.identity.encoding import json_object
from proxy.identity.issuer import DEFAULT_MAX_AGE_SECONDS, KeySource
from proxy.identity.jwk import load_key_set

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""Get the body of an https URL, with a limit on its size and without following redirects.

Raises `OSError` or `TimeoutError`.
"""

_CONFIGURATION_LIMIT_BYTES = 64 * 1024
_URL_LIMIT = 2048
_FIRST_RETRY_SECONDS = 2.0
_MAX_RETRY_SECONDS = 60.0


class OidcKeys(KeySource):
    """The keys of `issuer`, an https URL.

    `interval_seconds` lies between two background refreshes, `miss_interval_seconds` between two
    that unknown keys trigger. `timeout_seconds` bounds one refresh, which is two requests. `clock`
    is monotonic, and `sleep` waits on that clock.

    Raises:
        ValueError: `issuer` is no URL that can be discovered.

    """

    def __init__(
        self,
        issuer: str,
        fetch: Fetch,
        *,
        interval_seconds: float = 600.0,
        miss_interval_seconds: float = 30.0,
        timeout_seconds: float = 15.0,
        max_age_seconds: float = DEFAULT_MAX_AGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Fetch nothing yet."""
        super().__init__(max_age_seconds=max_age_seconds, clock=clock)
        if not _is_https(issuer) or "?" in issuer:
            raise ValueError(
                "the issuer is not an https URL without query and fragment, as discovery needs"
            )
        self._issuer = issuer
        self._configuration_url = issuer.removesuffix("/") + "/.well-known/openid-configuration"
        self._fetch = fetch
        self._interval_seconds = min(interval_seconds, max_age_seconds / 3)
        self._miss_interval_seconds = miss_interval_seconds
        self._timeout_seconds = timeout_seconds
        self._sleep = sleep
        self._started_at: float | None = None
        self._failures = 0  # refreshes since the last good one
        self._inflight: asyncio.Task[None] | None = None
        self._refresh_task: asyncio.Task[None] | None = None

    async def on_unknown_kid(self) -> None:
        """Share the refresh that is under way, or start one if it is due."""
        under_way = self._inflight is not None and not self._inflight.done()
        if not under_way and self._seconds_until_due() > 0:
            return
        await self.refresh()

    def retry_after(self) -> int:
        """Return in how many seconds the next refresh may start."""
        return max(1, int(self._seconds_until_due()) + 1)

    async def refresh(self) -> None:
        """Refresh now, or share the refresh under way.

        A failure of the issuer is not raised; `problem` has it.
        """
        if self._inflight is None or self._inflight.done():
            self._started_at = self._clock()
            self._inflight = asyncio.create_task(
                self._refresh(), name=f"refresh keys of {self._issuer}"
            )
        # Shielded: the cancellation of one request must not cancel the refresh for the others.
        await asyncio.shield(self._inflight)

    async def start(self) -> None:
        """Refresh once, then go on in the background, whether the first refresh worked or not."""
        await self.refresh()
        if self._refresh_task is None:
            self._refresh_task = asyncio.create_task(
                self._refresh_periodically(), name=f"refresh keys of {self._issuer} periodically"
            )

    async def close(self) -> None:
        """Stop the background work."""
        tasks = [task for task in (self._refresh_task, self._inflight) if task is not None]
        self._refresh_task = self._inflight = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def describe(self) -> str:
        """Return the issuer's URL."""
        return self._issuer

    def _seconds_until_due(self) -> float:
        """Return the seconds until an unknown kid may start a refresh.

        It is sooner while there are no keys, since every caller waits for them then.
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
        """Return 2, 4, 8 … 60 seconds while refreshes fail."""
        return (
            min(_MAX_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10))
            if self._failures
            else _FIRST_RETRY_SECONDS
        )

    async def _refresh_periodically(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self._sleep(
                min(self._interval_seconds, self._backoff_seconds())
                if self._failures
                else self._interval_seconds
            )
            await self.refresh()

    async def _refresh(self) -> None:
        """Fetch the configuration, then the key set that it names."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                keys_url = self._read_configuration(await self._fetch(self._configuration_url))
                self.accept(load_key_set(await self._fetch(keys_url)))
            self._failures = 0
        # After any failure of a fetch the last good keys stay in use, and refreshing goes on.
        except Exception as error:
            self._failures += 1
            self.failed(_describe(error))

    def _read_configuration(self, data: bytes) -> str:
        """Return the `jwks_uri` of the issuer's configuration. Raises `ValueError`."""
        if len(data) > _CONFIGURATION_LIMIT_BYTES:
            raise ValueError(
                f"the issuer's configuration is over {_CONFIGURATION_LIMIT_BYTES} bytes"
            )
        try:
            configuration = json_object(data)
        except ValueError as error:
            raise ValueError(f"the issuer's configuration is {error}") from None
        # Discovery section 4.3: another issuer's name is a mix-up or an impersonation.
        if configuration.get("issuer") != self._issuer:
            raise ValueError(
                "the issuer's configuration names another issuer; check spelling and final slash"
            )
        url = configuration.get("jwks_uri")
        if not isinstance(url, str) or not _is_https(url):
            raise ValueError("the issuer's configuration has no jwks_uri over https")
        return url


def _is_https(url: str) -> bool:
    """Return whether `url` is absolute, https, printable ASCII, without userinfo and fragment."""
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
        _ = parts.port  # raises if it is not a number
    except ValueError:
        return False
    return (
        parts.scheme == "https"
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and "#" not in url
    )


def _describe(error: Exception) -> str:
    """Return one safe line on why a refresh failed.

    The words of a remote party are cut, and reduced to printable ASCII.
    """
    if isinstance(error, TimeoutError):
        return "the issuer did not answer in time"
    text = "".join(
        char if char.isascii() and char.isprintable() else "?" for char in str(error)[:300]
    )
    # The words of the fetch itself need no class name before them.
    plain = isinstance(error, ValueError) or type(error) is OSError
    return text if plain else f"{type(error).__name__}: {text}"
