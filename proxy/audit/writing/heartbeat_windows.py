"""Heartbeat windows: one durable decision for many equal calls, each of them counted.

A worker pings every second. Its first ping is decided and recorded like any call, and opens a
window for its principal, worker id, upstream, method and address. Every later ping is decided too.
While the decision stays the same (effect, reason, policies, policy set, roles), it joins the window
and is forwarded without a record of its own. The window ends after `WINDOW_SECONDS`, or at once
when a decision differs.

The ``completed`` record of a window counts its calls and outcomes; it is written when the last of
them has its response. A process that is killed loses at most the counts of its open windows.

A caller chooses its worker ids, so memory is bounded: beyond `MAX_WINDOWS` a heartbeat has records
of its own, like any call.

Pure: takes the times as arguments.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from proxy.audit.format.record import TimestampEncoder, encode_event, encode_json
from proxy.audit.redaction.redactor import Json
from proxy.model import Call, Decision, Peer, Principal

# Seconds that a window stays open. A killed process loses at most the counts of this time.
WINDOW_SECONDS: Final = 60.0
MAX_WINDOWS: Final = 20_000

Key: TypeAlias = tuple[str, str, str, str, str, str]


@dataclass(slots=True)
class Window:
    """A decision and the calls that share it.

    `first` and `last` are microseconds since 1970, `ends` is a monotonic time in seconds.
    `in_flight` counts calls that are decided and not completed.
    """

    key: Key
    call_id: str
    seq: int
    fingerprint: tuple[object, ...]
    ends: float
    first: int
    last: int
    calls: int = 1
    in_flight: int = 1
    ended: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)


def window_key(principal: Principal, worker: str, call: Call, peer: Peer) -> Key:
    """Return the key of the window that a heartbeat belongs to."""
    return (principal.issuer, principal.subject, worker, call.upstream, call.method, peer.address)


def decision_fingerprint(principal: Principal, decision: Decision) -> tuple[object, ...]:
    """Return everything that must stay the same while a window is open."""
    return (
        decision.allowed,
        decision.reason,
        decision.policies,
        decision.policy_hash,
        principal.roles,
        principal.agent,
    )


class HeartbeatWindows:
    """The open windows, and the ended ones with calls in flight."""

    def __init__(self, limit: int = MAX_WINDOWS) -> None:
        self.limit = limit
        self._open: dict[Key, Window] = {}
        self.by_seq: dict[int, Window] = {}

    def __len__(self) -> int:
        return len(self.by_seq)

    @property
    def has_room(self) -> bool:
        """Whether another window may open."""
        return len(self.by_seq) < self.limit

    def join(
        self, key: Key, fingerprint: tuple[object, ...], now: float, micros: int
    ) -> Window | None:
        """Add a call to the open window of its key and return it.

        Return None if there is none. A window that has expired or whose decision differs ends.
        """
        window = self._open.get(key)
        if window is None:
            return None
        if window.fingerprint != fingerprint or now >= window.ends:
            self._end(window)
            return None
        window.calls += 1
        window.in_flight += 1
        if micros > window.last:
            window.last = micros
        return window

    def open(self, window: Window) -> None:
        """Open a window whose decision has become durable; an open one of the same key ends."""
        if (other := self._open.get(window.key)) is not None:
            self._end(other)
        self._open[window.key] = self.by_seq[window.seq] = window

    def completed(self, seq: int, outcome: str) -> bool:
        """Count the outcome of a call; return False if `seq` is not a window's."""
        window = self.by_seq.get(seq)
        if window is None:
            return False
        window.in_flight -= 1
        window.outcomes[outcome] += 1
        return True

    def expired(self, now: float, *, force: bool = False) -> list[Window]:
        """Remove and return the ended windows without calls in flight; all windows if `force`."""
        for window in list(self._open.values()):
            if force or now >= window.ends:
                self._end(window)
        done = [
            window
            for window in self.by_seq.values()
            if window.ended and (force or window.in_flight == 0)
        ]
        for window in done:
            del self.by_seq[window.seq]
            if window.in_flight:
                window.outcomes["unknown"] += window.in_flight
        return done

    def _end(self, window: Window) -> None:
        window.ended = True
        if self._open.get(window.key) is window:
            del self._open[window.key]


def encode_opening(worker: str) -> bytes:
    """Return the member of the ``decided`` record that opens a window for a worker id."""
    return b',"window":' + encode_json({"seconds": WINDOW_SECONDS, "worker": worker[:256]})


def encode_window(window: Window, timestamp: TimestampEncoder) -> bytes:
    """Return the body of the ``completed`` record of an ended window."""
    outcomes: dict[str, Json] = dict(sorted(window.outcomes.items()))
    counts: dict[str, Json] = {
        "calls": window.calls,
        "first": timestamp(window.first).decode(),
        "last": timestamp(window.last).decode(),
        "outcomes": outcomes,
    }
    members: dict[str, Json] = {
        "id": window.call_id,
        "decided_seq": window.seq,
        "outcome": worst_outcome(window.outcomes),
        "window": counts,
    }
    return encode_event("completed", members)


def worst_outcome(outcomes: Counter[str]) -> str:
    """Return the worst of a window's outcomes, from unknown and failed to fault and ok."""
    if not outcomes or "unknown" in outcomes:
        return "unknown"
    if set(outcomes) - {"ok", "fault"}:
        return "failed"
    return "fault" if "fault" in outcomes else "ok"
