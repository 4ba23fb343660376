"""Keeps floods of refused requests out of the log without keeping silent about them.

The first rejections of an address in a window are written one by one; the rest are counted, and one
summary says how many there were when the window ends. Memory is bounded: when `MAX_ADDRESSES` are being
watched, all others share one window. An IPv6 address stands for its /64, since whoever has one
address of it has all of them.

Pure: it is given the time, and says what to write.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from proxy.audit.redaction.redactor import Json
from proxy.common.address import address_key

MAX_ADDRESSES: Final = 4096
OTHERS: Final = ""


@dataclass(slots=True)
class _Window:
    ends: float
    written: int = 0
    counted: Counter[str] = field(default_factory=Counter)


class RejectionSummaries:
    """Decides which rejections are written one by one, and sums up the others."""

    def __init__(self, *, each: int = 10, seconds: float = 10.0, total: int = 1000) -> None:
        """Write at most `each` of one address, and `total` of all addresses, in a window of
        `seconds`.
        """
        self._each = each
        self._seconds = seconds
        self._total = total
        self._written = 0
        self._windows: dict[str, _Window] = {}

    def admit(self, address: str, reason: str, now: float, *, room: bool = True) -> bool:
        """Say whether this rejection is to be written; if not (or there is no `room`), count it.
        `now` is monotonic, in seconds.
        """
        key = address_key(address)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= MAX_ADDRESSES:
                key = OTHERS
            window = self._windows.setdefault(key, _Window(now + self._seconds))
        if room and window.written < self._each and self._written < self._total:
            window.written += 1
            self._written += 1
            return True
        window.counted[reason] += 1
        return False

    def expired(self, now: float, *, force: bool = False) -> list[dict[str, Json]]:
        """Return the summaries of windows that have ended, and forget those windows."""
        ended = [key for key, window in self._windows.items() if force or window.ends <= now]
        summaries: list[dict[str, Json]] = []
        for key in ended:
            window = self._windows.pop(key)
            self._written -= window.written
            if window.counted:
                reasons: dict[str, Json] = dict(sorted(window.counted.items()))
                seconds = round(self._seconds + now - window.ends, 3)
                summaries.append(
                    {
                        "address": key or None,
                        "count": window.counted.total(),
                        "seconds": seconds,
                        "reasons": reasons,
                    }
                )
        return summaries

    @property
    def watching(self) -> bool:
        """Whether there is a window that will end."""
        return bool(self._windows)
