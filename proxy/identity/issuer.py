"""The configured issuers and the keys each of them publishes now.

An `Issuer` is a profile its tokens have to meet, and a source of keys: OIDC discovery
(`proxy.identity.oidc_discovery`) or a key-set file (`proxy.identity.jwks_file`). What every source
holds to:

- The last good keys stay in use while the source cannot be read or gives what is refused.
- `generation` rises whenever a key that was in use is gone. What was concluded under an earlier
generation has to be
  concluded again: so a withdrawn key takes the tokens it signed with it.
- No keys yet is not "no such key": the caller is told to come back (ISSUER_UNAVAILABLE), not that
the token is bad.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from proxy.errors import Rejected, Unavailable
from proxy.identity.access_token import TokenProfile
from proxy.identity.jwk import Key, KeySet
from proxy.model import Reason

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class KeySource(ABC):
    """Where an issuer's keys come from. Holds the last good set; `problem` is why the last reading
    failed, or None.
    """

    def __init__(self) -> None:
        """Start without keys."""
        self.keys: KeySet | None = None
        self.generation = 0
        self.problem: str | None = None

    @abstractmethod
    def poll(self) -> None:
        """Look for a change if that is cheap. Called at most about once a second, from the request
        path.
        """

    @abstractmethod
    async def on_unknown_kid(self) -> None:
        """A token names a key that is not here: look again, within bounds. Returns when that is
        done or not due.
        """

    @abstractmethod
    def retry_after(self) -> int:
        """In how many whole seconds the keys may be there, while there are none."""

    async def start(self) -> None:
        """Read the keys for the first time and keep them fresh from then on. A failure is noted,
        not raised.
        """
        self.poll()

    async def close(self) -> None:
        """Stop what `start` began."""
        return

    def accept(self, keys: KeySet) -> None:
        """Take `keys` into use."""
        if self.keys is not None and keys.dropped_keys_of(self.keys):
            self.generation += 1
        if self.keys is None or self.keys.warnings != keys.warnings:
            for note in keys.warnings:
                _log.warning("issuer_key_skipped", source=self.describe(), note=note)
        self.keys = keys
        if self.problem is not None:
            _log.info("issuer_keys_good_again", source=self.describe())
        self.problem = None

    def failed(self, problem: str) -> None:
        """Note why the keys could not be read; the last good ones stay."""
        if problem != self.problem:
            _log.warning(
                "issuer_keys_not_read",
                source=self.describe(),
                problem=problem,
                last_good_keys_kept=self.keys is not None,
            )
        self.problem = problem

    @abstractmethod
    def describe(self) -> str:
        """The URL or path of this source, for logs."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """One configured issuer: the short `name` of the settings, what its tokens have to look like,
    and its keys.
    """

    name: str
    profile: TokenProfile
    source: KeySource

    def __post_init__(self) -> None:
        """The name stands before a ``|`` in every principal's name, so it cannot hold one."""
        if not _NAME.match(self.name):
            raise ValueError(
                "an issuer's name is 1 to 32 of a-z, 0-9 and -, and does not begin with -"
            )

    def key(self, kid: str | None) -> Key | None:
        """The key a token with this `kid` (None: without one) names, among the keys at hand."""
        return None if self.source.keys is None else self.source.keys.find(kid)

    async def resolve_key(self, kid: str | None) -> Key:
        """As `key`, after one look at the source if need be.

        Raises `Rejected` UNKNOWN_KEY, or `Unavailable` ISSUER_UNAVAILABLE while the issuer's keys
        were never read.
        """
        key = self.key(kid)
        if key is None:
            await self.source.on_unknown_kid()
            key = self.key(kid)
        if key is not None:
            return key
        if self.source.keys is None:
            raise Unavailable(
                Reason.ISSUER_UNAVAILABLE,
                f"the keys of issuer {self.name} are not there yet",
                retry_after=self.source.retry_after(),
            )
        if kid is None:
            raise Rejected(Reason.UNKNOWN_KEY, "it has no kid, and its issuer has several keys")
        raise Rejected(Reason.UNKNOWN_KEY)


def index_by_issuer(issuers: tuple[Issuer, ...]) -> Mapping[str, Issuer]:
    """The issuers by their exact `iss`. Raises `ValueError` when there is none, or two share an
    `iss` or a name.
    """
    found = {issuer.profile.issuer: issuer for issuer in issuers}
    if not issuers:
        raise ValueError("no issuer is configured: nobody could be identified")
    if len(found) != len(issuers) or len({issuer.name for issuer in issuers}) != len(issuers):
        raise ValueError("two issuers share a name or an issuer URL")
    return found
