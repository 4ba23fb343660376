"""The authenticator: from the raw credential headers of a request to a `Principal` or a refusal.

Tokens are verified here only, for every protocol, by a numbered plan:
1. Read exactly one credential from the headers.
2. Take it apart; its unverified `iss` selects one configured issuer.
3. Check that its type is that of an access token.
4. Select one vetted key of that issuer by `kid`; check the signature under the key's algorithm.
5. Check its claims against the issuer's profile, now.
6. Resolve the roles of issuer and subject, never of an e-mail address or a display name.

A verified credential is cached under its complete raw header value, until the token expires or the
issuer withdraws a key. Role changes need no invalidation: a reload starts new processes with an
empty cache. Refusals are not cached, so they need no bound.

The cache gives the same `Principal` object for the same header value. `proxy.audit.format.record`
relies on that: it finds its own entry by the `id()`, and holds the object as long as it uses the
number.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from proxy.errors import Rejected
from proxy.identity.access_token import Unverified, check_claims, check_signature, check_type, parse
from proxy.identity.credentials import read_credential
from proxy.identity.issuer import Issuer, KeySource, index_by_issuer
from proxy.model import Credentials, Principal, Reason, RoleGrant

RoleResolver: TypeAlias = Callable[[str, str, tuple[str, ...], Mapping[str, object]], RoleGrant]
"""From issuer name, subject, verified groups and claims to roles; `proxy.policy.roles.Roles.of`."""

# Seconds between two checks of the key sources for a change. It bounds how long a withdrawn key of
# a file is still accepted.
_POLL_SECONDS = 1.0


class _CacheEntry(NamedTuple):
    """A verified credential, with the generation of its issuer's keys at that time."""

    principal: Principal
    source: KeySource
    generation: int


class Verifier:
    """The authenticator of callers by the tokens of `issuers`.

    The cache holds at most `max_entries` credentials with `max_header_bytes` in sum. It is not a
    `BoundedCache`, since headers are up to 24 kB and it bounds their bytes too. The oldest entries
    are evicted first.

    Raises:
        ValueError: there is no issuer, or two are the same.

    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        resolve_roles: RoleResolver,
        *,
        max_entries: int = 10_000,
        max_header_bytes: int = 32 * 2**20,
    ) -> None:
        """Read no keys before `start`."""
        self.issuers = tuple(issuers)
        self._issuers = index_by_issuer(self.issuers)
        self._resolve_roles = resolve_roles
        self._max_entries = max_entries
        self._max_header_bytes = max_header_bytes
        # PERF: the cache saves 59 us of 163 (add_task, 900 B, ES256)
        self._cache: dict[bytes, _CacheEntry] = {}
        self._cached_bytes = 0
        self._polled_at = float("-inf")

    async def start(self) -> None:
        """Read the keys of every issuer and keep them fresh.

        An issuer that is down does not fail the start.
        """
        await asyncio.gather(*(issuer.source.start() for issuer in self.issuers))

    async def close(self) -> None:
        """Stop the background work of the issuers."""
        for issuer in self.issuers:
            await issuer.source.close()

    def poll(self) -> None:
        """Check the sources of keys for changes, and drop keys that are too old."""
        for issuer in self.issuers:
            issuer.source.poll()

    def cached(self, credentials: Credentials, now: float) -> Principal | None:
        """Return the principal verified before for these `credentials`, if still valid at `now`.

        `now` is in Unix seconds. Credentials with a Cookie header are never cached: they may be two
        credentials, which `authenticate` refuses.
        """
        authorization = credentials.authorization
        if authorization is None or credentials.cookie is not None:
            return None
        return self._lookup(authorization, now)

    def _lookup(self, authorization: bytes, now: float) -> Principal | None:
        # Due also after the clock was set back.
        if not self._polled_at <= now < self._polled_at + _POLL_SECONDS:
            self._polled_at = now
            self.poll()
        found = self._cache.get(authorization)
        if found is None:
            return None
        if now < found.principal.expires and found.generation == found.source.generation:
            return found.principal
        self._evict(authorization)
        return None

    async def authenticate(self, credentials: Credentials, now: float) -> Principal:
        """Identify the caller at `now` (Unix seconds).

        Raises:
            Rejected: for every input that proves no identity. No bytes raise anything else.

        """
        token = read_credential(credentials)  # 1
        authorization = credentials.authorization
        assert authorization is not None  # read_credential refuses that
        cached = self._lookup(authorization, now)
        if cached is not None:
            return cached
        unverified = parse(token)  # 2
        issuer = self._issuers.get(unverified.issuer)
        if issuer is None:
            raise Rejected(Reason.UNKNOWN_ISSUER)
        check_type(unverified, issuer.profile)  # 3
        generation = await self._check_signature(unverified, issuer)  # 4
        verified = check_claims(unverified, issuer.profile, now)  # 5
        granted = self._resolve_roles(  # 6
            issuer.name, verified.subject, verified.groups, verified.claims
        )
        principal = Principal(
            issuer=issuer.profile.issuer,
            issuer_name=issuer.name,
            subject=verified.subject,
            roles=granted.roles,
            groups=verified.groups,
            # RFC 8693 section 4.1: an `act` claim says that another party uses the token.
            agent=granted.agent or verified.actor,
            expires=verified.expires,
        )
        self._store(authorization, _CacheEntry(principal, issuer.source, generation))
        return principal

    async def _check_signature(self, token: Unverified, issuer: Issuer) -> int:
        """Check the signature; return the generation of the keys under which it holds."""
        key = await issuer.resolve_key(token.kid)
        generation = issuer.source.generation
        try:
            check_signature(token, key)
            return generation
        except Rejected as error:
            if token.kid is not None:
                raise
            reason, detail = error.reason, error.detail
        # Without a kid a rotation shows only as a bad signature: read the keys again, within the
        # same bounds. Not in the handler: a compiled coroutine must not await there
        # (tests/test_compiled.py).
        await issuer.source.on_unknown_kid()
        again = issuer.key(None)
        if again is None or again is key:
            raise Rejected(reason, detail)
        generation = issuer.source.generation
        check_signature(token, again)
        return generation

    def _store(self, authorization: bytes, entry: _CacheEntry) -> None:
        """Cache `entry`; evict the oldest ones beyond the bounds."""
        self._evict(authorization)
        self._cache[authorization] = entry
        self._cached_bytes += len(authorization)
        while len(self._cache) > self._max_entries or self._cached_bytes > self._max_header_bytes:
            self._evict(next(iter(self._cache)))

    def _evict(self, authorization: bytes) -> None:
        """Evict one credential, if it is cached."""
        if self._cache.pop(authorization, None) is not None:
            self._cached_bytes -= len(authorization)
