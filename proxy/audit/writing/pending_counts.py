"""What is counted now and recorded later: heartbeat windows, and refusals beyond a rate.

A sweep once a second records what has ended, while there is anything that will end. While the log
cannot be written the counts stay where they are.
"""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Final

from proxy.audit.format.record import TimestampEncoder, encode_event
from proxy.audit.writing.denial_summaries import DenialSummaries
from proxy.audit.writing.entry import EntryKind
from proxy.audit.writing.heartbeat_windows import HeartbeatWindows, encode_window
from proxy.audit.writing.rejection_summaries import RejectionSummaries
from proxy.model import Call, Decision, Peer, Principal, Reason

_SWEEP_SECONDS: Final = 1.0


class PendingCounts:
    """The open windows and summaries of one log.

    `submit` takes the body of a record, its kind, and the seq that it closes. `clock` returns the
    time of a record, and `writable` whether the log can be written.
    """

    def __init__(
        self,
        rejections: RejectionSummaries,
        denials: DenialSummaries,
        *,
        loop: Callable[[], AbstractEventLoop],
        clock: Callable[[], int],
        writable: Callable[[], bool],
        submit: Callable[[bytes, EntryKind, int], None],
    ) -> None:
        self.windows = HeartbeatWindows()
        self._rejections = rejections
        self._denials = denials
        self._loop = loop
        self._clock = clock
        self._writable = writable
        self._submit = submit
        self._timestamp = TimestampEncoder()
        self._sweeping = self._stopped = False

    def admit_denied(
        self, principal: Principal, peer: Peer, call: Call, decision: Decision
    ) -> bool:
        """Return whether a denied call gets a record of its own; count it if not."""
        now = self._loop().time()
        self.start_sweeping()
        return self._denials.admit_denied(principal, peer, call, decision, self._clock(), now)

    def admit_rejected(
        self,
        principal: Principal | None,
        peer: Peer,
        upstream: str | None,
        reason: Reason,
        *,
        room: bool,
    ) -> bool:
        """Return whether a rejection gets a record of its own; count it if not."""
        now = self._loop().time()
        self.start_sweeping()
        if principal is None:
            return self._rejections.admit(peer.address, reason.value, now, room=room)
        return self._denials.admit_rejected(
            principal, peer, upstream, reason.value, self._clock(), now, room=room
        )

    def start_sweeping(self) -> None:
        """Sweep once a second while there is something that will end."""
        if not self._sweeping:
            self._sweeping = True
            self._loop().call_later(_SWEEP_SECONDS, self._sweep)

    def record(self, now: float, *, force: bool = False) -> None:
        """Record what has ended; everything if `force`."""
        for summary in self._rejections.expired(now, force=force):
            self._submit(encode_event("rejected", {"summary": summary}), EntryKind.EVENT, -1)
        for refusals in self._denials.expired(now, force=force):
            self._submit(refusals.encode(self._timestamp), EntryKind.EVENT, -1)
        for window in self.windows.expired(now, force=force):
            self._submit(encode_window(window, self._timestamp), EntryKind.CLOSES, window.seq)

    def stop(self) -> None:
        """Sweep no more."""
        self._stopped = True

    def _sweep(self) -> None:
        if self._stopped:
            return
        loop = self._loop()
        if self._writable():
            self.record(loop.time())
        self._sweeping = (
            self._rejections.watching or self._denials.watching or len(self.windows) > 0
        )
        if self._sweeping:
            loop.call_later(_SWEEP_SECONDS, self._sweep)
