"""The gate's own lines in the operator's log. Refusals are thinned: one caller, or one dead
upstream, can cause thousands a second.

Of requests rejected, of calls denied to one principal, of calls that one upstream failed to answer
for one reason, and of errors of the gate's own from one place, a few lines a second are written,
the first ones, then a count of the rest. The audit journal has what happened: every call denied or
failed has a record of its own there.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import structlog

# lines about rejected requests a second; the audit journal sums the rest up by address
_PER_SECOND = 20
_PER_PRINCIPAL = 5  # lines about calls denied to one principal a second
_DENIED_PER_SECOND = 50  # of all principals
_PER_FAILURE = 2  # lines about calls that one upstream failed for one reason a second
_FAILED_PER_SECOND = 20  # of all upstreams
# lines a second about errors of one kind from one place in the gate: a caller who found one can
# repeat it
_PER_ERROR = 2
_ERRORS_PER_SECOND = 20  # of all kinds and places

Later: TypeAlias = Callable[[float, Callable[[], None]], object]
"""Calls a function after so many seconds."""


def _later(seconds: float, function: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, function)


class EventLog:
    """A structlog logger with bounded lines about refusals. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, later: Later = _later) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy.gate.pipeline")
        self._rejected = RateLimiter(_PER_SECOND, _PER_SECOND, clock, later, self._more_rejected)
        self._denied = RateLimiter(
            _PER_PRINCIPAL, _DENIED_PER_SECOND, clock, later, self._more_denied
        )
        self._failed = RateLimiter(
            _PER_FAILURE, _FAILED_PER_SECOND, clock, later, self._more_failed
        )
        self._broken = RateLimiter(_PER_ERROR, _ERRORS_PER_SECOND, clock, later, self._more_broken)

    def denied(self, ref: str, principal: str, upstream: str, method: str, reason: str) -> None:
        """Write a line about a call that policy denied, or count it with those of its principal."""
        if self._denied.admit(principal):
            self._log.info(
                "denied",
                ref=ref,
                principal=principal,
                upstream=upstream,
                method=method,
                reason=reason,
            )

    def internal_error(self, ref: str, error: str, at: Sequence[str]) -> None:
        """Write a line about an unexpected exception, or count it with those of its class `error`
        from the same place (the last of `at`).
        """
        if self._broken.admit(f"internal error: {error} {' '.join(at[-1:])}".rstrip()):
            self._log.error("internal error", ref=ref, error=error, at=at)

    def rejected(self, ref: str, address: str, reason: str) -> None:
        """Write a line about a request that never became a call, or count it among those there was
        no line for.
        """
        if self._rejected.admit(""):
            self._log.info("rejected", ref=ref, address=address, reason=reason)

    def upstream_failed(self, ref: str, upstream: str, method: str, reason: str) -> None:
        """Write a line about an allowed call that its upstream did not answer, or count it with
        those of its upstream.
        """
        if self._failed.admit(f"{upstream}: {reason}"):
            self._log.warning(
                "upstream failed", ref=ref, upstream=upstream, method=method, reason=reason
            )

    def _more_rejected(self, counted: Counter[str]) -> None:
        self._log.info("more requests rejected", count=counted.total())

    def _more_denied(self, counted: Counter[str]) -> None:
        [(most, _)] = counted.most_common(1)
        self._log.info(
            "more calls denied", count=counted.total(), principals=len(counted), most_of=most
        )

    def _more_failed(self, counted: Counter[str]) -> None:
        [(most, _)] = counted.most_common(1)
        self._log.warning("more calls failed", count=counted.total(), most_of=most)

    def _more_broken(self, counted: Counter[str]) -> None:
        [(most, _)] = counted.most_common(1)
        self._log.error("more errors", count=counted.total(), most_of=most)


class RateLimiter:
    """Admits `each` lines a second for one key and `total` for all; tells `more` how many there
    were beside, once the second is over.
    """

    def __init__(
        self,
        each: int,
        total: int,
        clock: Callable[[], float],
        later: Later,
        more: Callable[[Counter[str]], object],
    ) -> None:
        self._each, self._total, self._clock, self._later, self._more = (
            each,
            total,
            clock,
            later,
            more,
        )
        self._begun = float("-inf")
        self._written: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def admit(self, key: str) -> bool:
        """Say whether there is a line for this one; count it if not."""
        now = self._clock()
        if now - self._begun >= 1.0:
            self._tell()
            self._begun = now
        if self._written[key] < self._each and self._written.total() < self._total:
            self._written[key] += 1
            return True
        if not self._counted:
            self._later(1.0, self._tell)  # the count is due even when nothing follows
        self._counted[key] += 1
        return False

    def _tell(self) -> None:
        counted, self._counted = self._counted, Counter()
        self._written.clear()
        self._begun = float("-inf")
        if counted:
            self._more(counted)
