"""The gate's own lines in the operator's log. Refusals before identity are thinned: anybody can cause them."""

import time
from collections.abc import Callable
from typing import Any

import structlog

_PER_SECOND = 20  # lines about rejected requests a second; the audit journal sums the rest up by address


class GateLog:
    """A structlog logger with a bounded line about rejected requests. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy.gate")
        self._clock = clock
        self._second = 0
        self._written = 0
        self._suppressed = 0
        self.info: Callable[..., Any] = self._log.info
        self.warning: Callable[..., Any] = self._log.warning
        self.error: Callable[..., Any] = self._log.error

    def rejected(self, ref: str, address: str, reason: str) -> None:
        """One line for a request that never became a call, or a count of those there was no line for."""
        second = int(self._clock())
        if second != self._second:
            if self._suppressed:
                self._log.info("more requests rejected", count=self._suppressed)
            self._second, self._written, self._suppressed = second, 0, 0
        if self._written < _PER_SECOND:
            self._written += 1
            self._log.info("rejected", ref=ref, address=address, reason=reason)
        else:
            self._suppressed += 1
