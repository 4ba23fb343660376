"""The circuit breaker of one upstream: after several connections have failed in a row, calls are
told so at once.

closed      connections are tried. `FAILURES` failures in a row open the circuit. open
nothing is tried for a pause, which doubles with every failed probe from `INITIAL_PAUSE` to `MAX_PAUSE`
seconds. half open   the pause is over: one connection is tried, the probe. It closes the circuit,
or opens it again.

Only connecting is guarded: it fails before anything was sent, so a probe costs the upstream no call
and no call is ever made twice for it.
"""

from proxy.errors import Unavailable
from proxy.model import Reason

FAILURES = 5  # connections that fail in a row before the upstream counts as down
INITIAL_PAUSE = 0.5  # seconds; a scheduler that restarts is back within a few
MAX_PAUSE = (
    10.0  # seconds; a worker's ping must not miss a scheduler that is back for half a minute
)


class CircuitBreaker:
    """The state for one upstream. Times are in seconds of a monotonic clock."""

    def __init__(self) -> None:
        """Begin closed."""
        self._failures = 0
        self._pause = INITIAL_PAUSE
        self._until = 0.0
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether the upstream counts as down."""
        return self._failures >= FAILURES

    def admit(self, now: float) -> None:
        """Let a connection be tried, or raise `Unavailable` with the time after which trying again
        makes sense.
        """
        if self._failures < FAILURES:
            return
        if now < self._until or self._probing:
            wait = max(1, round(self._until - now + 0.5))
            raise Unavailable(
                Reason.UPSTREAM_UNREACHABLE, "it refused the last connections", retry_after=wait
            )
        self._probing = True

    def succeeded(self) -> None:
        """A connection was made."""
        self._failures = 0
        self._pause = INITIAL_PAUSE
        self._probing = False

    def failed(self, now: float) -> None:
        """A connection could not be made."""
        self._failures += 1
        if self._failures == FAILURES:
            self._until = now + self._pause
        elif self._probing:
            self._pause = min(2 * self._pause, MAX_PAUSE)
            self._until = now + self._pause
        self._probing = False

    def abandoned(self) -> None:
        """A try ended without an answer to the question (its caller left, the gate had no file
        free): the next one is the probe.
        """
        self._probing = False
