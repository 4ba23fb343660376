"""Who is calling: from the raw credential headers of a request to a `Principal`, or a refusal with
its reason.

The one place where tokens are verified, for every door and every protocol. It follows a numbered
plan:
1. exactly one credential is read from the headers;
2. it is taken apart, and its unverified `iss` selects one configured issuer;
3. its type is that of an access token;
4. its `kid` selects one vetted key of that issuer, and the signature holds under that key's own
algorithm;
5. its claims meet the issuer's profile now;
6. issuer and subject, never an e-mail address or a display name, are given their roles.

What was verified is remembered under the whole raw header value until the token expires or the
issuer withdraws a key: a signature costs 110 us, a look-up less than one. Other roles come with
another process, which remembers nothing yet. Refusals are not remembered, so they need no bound.
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

_POLL_SECONDS = 1.0


class _Remembered(NamedTuple):
    """A verified credential, and the generation of its issuer's keys under which it was."""

    principal: Principal
    source: KeySource
    generation: int


class Verifier:
    """Identifies callers by the tokens of `issuers`. Raises `ValueError` when there is none or two
    are the same.

    At most `entries` credentials with `header_bytes` in sum are remembered; the oldest go first.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        resolve_roles: RoleResolver,
        *,
        entries: int = 10_000,
        header_bytes: int = 32 * 2**20,
    ) -> None:
        """Take the issuers as configured; start them with `start`."""
        self.issuers = tuple(issuers)
        self._by_url = index_by_issuer(self.issuers)
        self._resolve_roles = resolve_roles
        self._entries = entries
        self._header_bytes = header_bytes
        self._memory: dict[bytes, _Remembered] = {}
        self._held_bytes = 0
        self._polled = float("-inf")

    async def start(self) -> None:
        """Read every issuer's keys and keep them fresh. An issuer that is down does not keep the
        gate from starting.
        """
        await asyncio.gather(*(issuer.source.start() for issuer in self.issuers))

    async def close(self) -> None:
        """Stop the background work of the issuers."""
        for issuer in self.issuers:
            await issuer.source.close()

    def cached(self, credentials: Credentials, now: float) -> Principal | None:
        """Return the principal verified before for these `credentials`, if still valid at `now`.

        `now` is in Unix seconds. Credentials with a Cookie header are never cached: they may be two,
        which `authenticate` refuses.
        """
        authorization = credentials.authorization
        if authorization is None or credentials.cookie is not None:
            return None
        return self._cached(authorization, now)

    def _cached(self, authorization: bytes, now: float) -> Principal | None:
        if (
            not self._polled <= now < self._polled + _POLL_SECONDS
        ):  # also when the clock was set back
            self._polled = now
            for issuer in self.issuers:
                issuer.source.poll()
        found = self._memory.get(authorization)
        if found is None:
            return None
        if now < found.principal.expires and found.generation == found.source.generation:
            return found.principal
        self._drop(authorization)
        return None

    async def authenticate(self, credentials: Credentials, now: float) -> Principal:
        """Identify the caller at `now` (Unix seconds). Raises `Rejected`, and nothing else whatever
        the bytes.
        """
        token = read_credential(credentials)  # 1
        authorization = credentials.authorization
        assert authorization is not None  # else read_credential would have raised
        known = self._cached(authorization, now)
        if known is not None:
            return known
        unverified = parse(token)  # 2
        issuer = self._by_url.get(unverified.issuer)
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
            # RFC 8693 section 4.1: a token with an `act` claim is used by someone else
            agent=granted.agent or verified.actor,
            expires=verified.expires,
        )
        self._remember(authorization, _Remembered(principal, issuer.source, generation))
        return principal

    async def _check_signature(self, token: Unverified, issuer: Issuer) -> int:
        """Check it with the key it names; the generation of the keys it was checked under."""
        key = await issuer.resolve_key(token.kid)
        generation = issuer.source.generation
        try:
            check_signature(token, key)
            return generation
        except Rejected as error:
            if token.kid is not None:
                raise
            reason, detail = error.reason, error.detail
        # Without a kid a rotation shows only as a bad signature: look again, within the same
        # bounds. (Not in the handler: a compiled
        # coroutine that waits there would leave its exception to others.)
        await issuer.source.on_unknown_kid()
        again = issuer.key(None)
        if again is None or again is key:
            raise Rejected(reason, detail)
        generation = issuer.source.generation
        check_signature(token, again)
        return generation

    def _remember(self, authorization: bytes, entry: _Remembered) -> None:
        """Keep `entry`, dropping the oldest ones beyond the bounds."""
        self._drop(authorization)
        self._memory[authorization] = entry
        self._held_bytes += len(authorization)
        while len(self._memory) > self._entries or self._held_bytes > self._header_bytes:
            self._drop(next(iter(self._memory)))

    def _drop(self, authorization: bytes) -> None:
        """Forget one credential, if it is known."""
        if self._memory.pop(authorization, None) is not None:
            self._held_bytes -= len(authorization)
