"""The gate's events in the operator's log, limited in rate.

One caller, or one unreachable upstream, can cause thousands of refusals a second. So each kind of
event has a limit on its lines a second, in total and for each key: the principal of a denied call,
upstream and reason of a failed one, class and place of an internal error. The first events of a
second are written, the others are counted, and one line has their number. The audit journal has a
record of every call that was denied or failed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import structlog

# Lines a second about rejected requests. The audit journal summarises the others by address.
_REJECTED = 20
# Lines a second about denied calls, for each principal and in total.
_DENIED_PER_PRINCIPAL = 5
_DENIED = 50
# Lines a second about failed calls, for each upstream and reason and in total.
_FAILED_PER_UPSTREAM_AND_REASON = 2
_FAILED = 20
# Lines a second about internal errors, for each class and place and in total. A caller that has
# found one can repeat it.
_ERRORS_PER_PLACE = 2
_ERRORS = 20

CallLater: TypeAlias = Callable[[float, Callable[[], None]], object]
"""Calls a function after a delay in seconds, as `loop.call_later` does."""


def _call_later(seconds: float, function: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, function)


class RateLimiter:
    """A limit of events in windows of one second, `per_key` for one key and `total` for all.

    `summarize` is called at the end of a window with the number of further events by key.
    """

    def __init__(
        self,
        per_key: int,
        total: int,
        clock: Callable[[], float],
        call_later: CallLater,
        summarize: Callable[[Counter[str]], object],
    ) -> None:
        self._per_key = per_key
        self._total = total
        self._clock = clock
        self._call_later = call_later
        self._summarize = summarize
        self._window_start = float("-inf")
        self._admitted: Counter[str] = Counter()
        self._suppressed: Counter[str] = Counter()

    def admit(self, key: str) -> bool:
        """Return whether an event is within the limit; count it otherwise."""
        now = self._clock()
        if now - self._window_start >= 1.0:
            self._flush_summary()
            self._window_start = now
        if self._admitted[key] < self._per_key and self._admitted.total() < self._total:
            self._admitted[key] += 1
            return True
        if not self._suppressed:
            # The summary is due even if no event follows.
            self._call_later(1.0, self._flush_summary)
        self._suppressed[key] += 1
        return False

    def _flush_summary(self) -> None:
        suppressed, self._suppressed = self._suppressed, Counter()
        self._admitted.clear()
        self._window_start = float("-inf")
        if suppressed:
            self._summarize(suppressed)


class EventLog:
    """A structlog logger for the gate's events. `clock` is monotonic, in seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, call_later: CallLater = _call_later
    ) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy.gate.pipeline")
        self._rejected = RateLimiter(
            _REJECTED, _REJECTED, clock, call_later, self._summarize_rejected
        )
        self._denied = RateLimiter(
            _DENIED_PER_PRINCIPAL, _DENIED, clock, call_later, self._summarize_denied
        )
        self._failed = RateLimiter(
            _FAILED_PER_UPSTREAM_AND_REASON, _FAILED, clock, call_later, self._summarize_failed
        )
        self._errors = RateLimiter(
            _ERRORS_PER_PLACE, _ERRORS, clock, call_later, self._summarize_errors
        )

    def denied(self, ref: str, principal: str, upstream: str, method: str, reason: str) -> None:
        """Log a call that policy denied."""
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
        """Log an unexpected exception of class `error`, raised at the last place of `at`."""
        if self._errors.admit(f"internal error: {error} {' '.join(at[-1:])}".rstrip()):
            self._log.error("internal error", ref=ref, error=error, at=at)

    def rejected(self, ref: str, address: str, reason: str) -> None:
        """Log a request that never became a call."""
        if self._rejected.admit(""):
            self._log.info("rejected", ref=ref, address=address, reason=reason)

    def upstream_failed(self, ref: str, upstream: str, method: str, reason: str) -> None:
        """Log an allowed call that its upstream did not answer."""
        if self._failed.admit(f"{upstream}: {reason}"):
            self._log.warning(
                "upstream failed", ref=ref, upstream=upstream, method=method, reason=reason
            )

    def _summarize_rejected(self, suppressed: Counter[str]) -> None:
        self._log.info("more requests rejected", count=suppressed.total())

    def _summarize_denied(self, suppressed: Counter[str]) -> None:
        self._log.info(
            "more calls denied",
            count=suppressed.total(),
            principals=len(suppressed),
            top_key=_top_key(suppressed),
        )

    def _summarize_failed(self, suppressed: Counter[str]) -> None:
        self._log.warning(
            "more calls failed", count=suppressed.total(), top_key=_top_key(suppressed)
        )

    def _summarize_errors(self, suppressed: Counter[str]) -> None:
        self._log.error("more errors", count=suppressed.total(), top_key=_top_key(suppressed))


def _top_key(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0]
