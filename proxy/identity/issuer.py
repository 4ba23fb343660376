"""The configured issuers, each with the keys that it publishes now.

An `Issuer` has a profile for its tokens and a source of keys: OIDC discovery
(`proxy.identity.oidc_discovery`) or a key-set file (`proxy.identity.jwks_file`). The rules of every
source:

- While the source cannot be read, or gives a set that is refused, the last good keys stay in use
  for `max_age_seconds` after they were read, and no longer. That is an alarm: an error in the log,
  and a gauge. Afterwards there are no keys.
- A set that was read replaces the one before it, also when it is empty.
- `generation` rises whenever a key that was in use is gone. A token that was verified under an
  earlier generation is verified again, so a withdrawn key takes the tokens that it signed with it.
- A source without keys that are young enough is not a source without the key: the refusal is
  ISSUER_UNAVAILABLE, which asks for a retry, and not UNKNOWN_KEY.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from proxy.errors import Rejected, Unavailable
from proxy.identity.access_token import TokenProfile
from proxy.identity.jwk import Key, KeySet
from proxy.model import Reason

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


DEFAULT_MAX_AGE_SECONDS = 3600.0
"""How long the last good keys are used while their source cannot be read."""


class KeySource(ABC):
    """The source of an issuer's keys, with the last good set.

    `problem` says why the last reading failed or gave no usable key; it is None after a good one.
    `readable` is whether the last reading gave a set. `clock` is monotonic.
    """

    def __init__(
        self,
        *,
        max_age_seconds: float = DEFAULT_MAX_AGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without keys."""
        self.keys: KeySet | None = None
        self.generation = 0
        self.problem: str | None = None
        self.readable = False
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._read_at = 0.0

    @property
    def usable_keys(self) -> int:
        """The number of keys in use."""
        return 0 if self.keys is None else len(self.keys.keys)

    def poll(self) -> None:
        """Check for a change if that is cheap, and drop keys that are too old.

        Called about once a second, also from the request path.
        """
        if self.keys is not None and self._clock() - self._read_at >= self._max_age_seconds:
            self.keys = None
            self.readable = False
            self.generation += 1
            _log.error(
                "issuer keys dropped: not read for too long",
                source=self.describe(),
                problem=self.problem,
                max_age_seconds=self._max_age_seconds,
            )

    @abstractmethod
    async def on_unknown_kid(self) -> None:
        """Read the keys again, within bounds, for a token that names a key which is not here.

        Returns when that is done, or at once when it is not due.
        """

    @abstractmethod
    def retry_after(self) -> int:
        """Return in how many seconds a caller may try again while there are no keys."""

    async def start(self) -> None:
        """Read the keys for the first time, and refresh them from then on.

        A failure is logged and not raised.
        """
        self.poll()

    async def close(self) -> None:
        """Stop refreshing."""
        return

    def accept(self, keys: KeySet) -> None:
        """Use `keys` from now on."""
        if self.keys is not None and keys.dropped_keys_of(self.keys):
            self.generation += 1
        if self.keys is None or self.keys.warnings != keys.warnings:
            for warning in keys.warnings:
                _log.warning("issuer key skipped", source=self.describe(), problem=warning)
        before, self.problem = self.problem, None
        if not keys.keys:
            self.problem = "; ".join(["the key set has no usable key", *keys.warnings[:3]])
            if self.problem != before:
                _log.error("issuer has no usable key", source=self.describe())
        elif before is not None:
            _log.info("issuer keys read again", source=self.describe())
        self.keys = keys
        self.confirm()

    def confirm(self) -> None:
        """Note that the keys in use are what the source gives now."""
        self.readable = True
        self._read_at = self._clock()

    def failed(self, problem: str, *, alarm: bool = True) -> None:
        """Log why the keys could not be read; the last good ones stay in use for a time.

        Without `alarm` it is a warning and no error.
        """
        if problem != self.problem:
            (_log.error if alarm else _log.warning)(
                "issuer keys not read",
                source=self.describe(),
                problem=problem,
                last_good_keys_in_use=self.keys is not None,
            )
        self.problem = problem
        self.readable = False

    @abstractmethod
    def describe(self) -> str:
        """Return the URL or path of this source, for logs."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """One configured issuer: its short `name` in the settings, its token rules and its keys."""

    name: str
    profile: TokenProfile
    source: KeySource

    def __post_init__(self) -> None:
        """Refuse a name with ``|``, which ends the issuer's name in the name of a principal."""
        if not _NAME.match(self.name):
            raise ValueError(
                "the name of an issuer must be 1 to 32 of a-z, 0-9 and -, and not begin with -"
            )

    def key(self, kid: str | None) -> Key | None:
        """Return the key for a token's `kid` (None: it has none) among the keys read before."""
        return None if self.source.keys is None else self.source.keys.find(kid)

    async def resolve_key(self, kid: str | None) -> Key:
        """Return the key for a token's `kid`. Read the source again if the key is not here.

        Raises:
            Rejected: UNKNOWN_KEY.
            Unavailable: ISSUER_UNAVAILABLE, while the keys of the issuer were never read, or were
                last read too long ago.

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
                f"the keys of the issuer {self.name} were not read"
                + (" for too long" if self.source.generation else " yet"),
                retry_after=self.source.retry_after(),
            )
        if kid is None and self.source.usable_keys:
            raise Rejected(Reason.UNKNOWN_KEY, "it has no kid, and its issuer has several keys")
        raise Rejected(Reason.UNKNOWN_KEY)


def index_by_issuer(issuers: tuple[Issuer, ...]) -> Mapping[str, Issuer]:
    """Return the issuers by their exact `iss`.

    Raises:
        ValueError: there is none, or two share an `iss` or a name.

    """
    found = {issuer.profile.issuer: issuer for issuer in issuers}
    if not issuers:
        raise ValueError("no issuer is configured, so no caller could be identified")
    if len(found) != len(issuers) or len({issuer.name for issuer in issuers}) != len(issuers):
        raise ValueError("two issuers share a name or an issuer URL")
    return found
