"""The times of records: the wall clock in microseconds, never earlier than the time before."""

from collections.abc import Callable
from typing import Final

# Microseconds by which the wall clock may go back without a report.
_TOLERANCE_US: Final = 1_000_000


class RecordClock:
    """A clock that repeats its last time while the wall clock is behind it.

    `clock` returns nanoseconds since 1970. `on_step_back` is called once for each step back, with
    the time to record and the size of the step in microseconds.
    """

    def __init__(
        self, clock: Callable[[], int], last: int, on_step_back: Callable[[int, int], None]
    ) -> None:
        """Begin at `last`, the time of the last record in microseconds."""
        self._clock = clock
        self._last = last
        self._on_step_back = on_step_back
        self._behind = False

    def now(self) -> int:
        """Return the time to record, in microseconds since 1970."""
        micros = self._clock() // 1000
        if micros >= self._last:
            self._last = micros
            self._behind = False
        elif not self._behind and self._last - micros > _TOLERANCE_US:
            self._behind = True
            self._on_step_back(self._last, self._last - micros)
        return self._last
