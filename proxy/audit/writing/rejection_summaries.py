"""Keeps floods of rejected requests out of the log, and counts them in summaries.

The first rejections of an address in a window of time are recorded one by one; the rest are
counted, and one summary at the end of the window has their number. Memory is bounded: beyond
`MAX_ADDRESSES` addresses, all others share one window. An IPv6 address counts as its /64.

Pure: takes the time as an argument.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from proxy.audit.redaction.redactor import Json
from proxy.common.address import address_key

MAX_ADDRESSES: Final = 4096

# The key of the window that all further addresses share; its summary's address is null.
OTHERS: Final = ""


@dataclass(slots=True)
class _Window:
    ends: float
    recorded: int = 0
    counted: Counter[str] = field(default_factory=Counter)


class RejectionSummaries:
    """A rate limit of recorded rejections, by address and in total."""

    def __init__(self, *, each: int = 10, seconds: float = 10.0, total: int = 1000) -> None:
        """Record at most `each` of one address and `total` of all in a window of `seconds`."""
        self._each = each
        self._seconds = seconds
        self._total = total
        self._recorded = 0
        self._windows: dict[str, _Window] = {}

    def admit(self, address: str, reason: str, now: float, *, room: bool = True) -> bool:
        """Return whether to record this rejection; count it if not, or if there is no `room`.

        `now` is monotonic, in seconds.
        """
        key = address_key(address)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= MAX_ADDRESSES:
                key = OTHERS
            window = self._windows.setdefault(key, _Window(now + self._seconds))
        if room and window.recorded < self._each and self._recorded < self._total:
            window.recorded += 1
            self._recorded += 1
            return True
        window.counted[reason] += 1
        return False

    def expired(self, now: float, *, force: bool = False) -> list[dict[str, Json]]:
        """Remove the windows that have ended (all if `force`) and return their summaries."""
        ended = [key for key, window in self._windows.items() if force or window.ends <= now]
        summaries: list[dict[str, Json]] = []
        for key in ended:
            window = self._windows.pop(key)
            self._recorded -= window.recorded
            if window.counted:
                reasons: dict[str, Json] = dict(sorted(window.counted.items()))
                summaries.append(
                    {
                        "address": key or None,
                        "count": window.counted.total(),
                        "seconds": round(self._seconds + now - window.ends, 3),
                        "reasons": reasons,
                    }
                )
        return summaries

    @property
    def watching(self) -> bool:
        """Whether there is a window that will end."""
        return bool(self._windows)
