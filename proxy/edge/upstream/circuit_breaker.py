"""The circuit breaker of one upstream: after several failed connections, calls fail at once.

closed
    Connections are tried. `FAILURES` failures in a row open the circuit.
open
    Nothing is tried for a pause, which doubles with every failed probe, from `INITIAL_PAUSE` to
    `MAX_PAUSE` seconds.
half open
    The pause is over, and one connection is tried, the probe. It closes the circuit or opens it
    again.

Only connecting is guarded. It fails before anything was sent, so a probe costs the upstream no
call, and no call is repeated because of it.
"""

from proxy.errors import Unavailable
from proxy.model import Reason

# Connections that fail in a row before the upstream counts as down.
FAILURES = 5
# Seconds of the first pause. A scheduler that restarts is back within a few.
INITIAL_PAUSE = 0.5
# Seconds of the longest pause, so that a worker's ping reaches a scheduler soon after it is back.
MAX_PAUSE = 10.0


class CircuitBreaker:
    """The state for one upstream. Times are in seconds of a monotonic clock."""

    def __init__(self) -> None:
        """Start closed."""
        self._failures = 0
        self._pause = INITIAL_PAUSE
        self._until = 0.0
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether the upstream counts as down."""
        return self._failures >= FAILURES

    def before_connect(self, now: float) -> None:
        """Let a connection be tried, perhaps as the probe.

        Raises:
            Unavailable: the circuit is open; it says after which time to retry.

        """
        if self._failures < FAILURES:
            return
        if now < self._until or self._probing:
            wait = max(1, round(self._until - now + 0.5))
            raise Unavailable(
                Reason.UPSTREAM_UNREACHABLE, "the last connections failed", retry_after=wait
            )
        self._probing = True

    def succeeded(self) -> None:
        """Note that a connection was made."""
        self._failures = 0
        self._pause = INITIAL_PAUSE
        self._probing = False

    def failed(self, now: float) -> None:
        """Note that a connection could not be made."""
        self._failures += 1
        if self._failures == FAILURES:
            self._until = now + self._pause
        elif self._probing:
            self._pause = min(2 * self._pause, MAX_PAUSE)
            self._until = now + self._pause
        self._probing = False

    def inconclusive(self) -> None:
        """Note that an attempt says nothing about the upstream; the next attempt is the probe.

        Its caller left, or the proxy had no file descriptor free.
        """
        self._probing = False
