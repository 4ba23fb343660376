"""Heartbeat windows: one durable decision that many equal calls ride on, every one of them counted.

A worker pings every second. The first ping is decided and recorded like any call and opens a window
for its principal, worker id, upstream, method and address. Later pings are decided as ever; while
the decision is the same one (effect, reason, policies, policy set, roles) they ride: nothing is
written before they go on. The window ends after `WINDOW_SECONDS`, or at once when a call is decided
differently. Its ``completed`` record, written when the last call inside has its answer, counts
calls and outcomes. A process that is killed loses at most the counts of the windows open then.

Pure: it is given the times.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from proxy.model import Call, Decision, Peer, Principal

WINDOW_SECONDS: Final = 60.0
"""The longest a window stays open."""

Key: TypeAlias = tuple[str, str, str, str, str, str]


@dataclass(slots=True)
class Window:
    """One standing decision and the calls on it. `first` and `last` are microseconds since 1970,
    `ends` is monotonic.
    """

    key: Key
    call_id: str
    seq: int
    fingerprint: tuple[object, ...]
    ends: float
    first: int
    last: int
    calls: int = 1
    in_flight: int = 1  # decided, not completed
    ended: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)


def window_key(principal: Principal, worker: str, call: Call, origin: Peer) -> Key:
    """Return what a window is for."""
    return (principal.issuer, principal.subject, worker, call.upstream, call.method, origin.address)


def decision_fingerprint(principal: Principal, decision: Decision) -> tuple[object, ...]:
    """Return all that must stay as it is while the window stands."""
    return (
        decision.allowed,
        decision.reason,
        decision.policies,
        decision.policy_hash,
        principal.roles,
        principal.agent,
    )


class HeartbeatWindows:
    """The open windows, and the ended ones that still have a call inside."""

    def __init__(self) -> None:
        self._open: dict[Key, Window] = {}
        self.by_seq: dict[int, Window] = {}

    def __len__(self) -> int:
        return len(self.by_seq)

    def join(
        self, key: Key, standing: tuple[object, ...], now: float, moment: int
    ) -> Window | None:
        """Let one call ride, if a window for it is open and the decision is the same; else end that
        window.
        """
        window = self._open.get(key)
        if window is None:
            return None
        if window.fingerprint != standing or now >= window.ends:
            self._end(window)
            return None
        window.calls += 1
        window.in_flight += 1
        if moment > window.last:
            window.last = moment
        return window

    def open(self, window: Window) -> None:
        """Take up a window whose decision has just become durable. One opened at the same time for
        the same key ends.
        """
        if (other := self._open.get(window.key)) is not None:
            self._end(other)
        self._open[window.key] = self.by_seq[window.seq] = window

    def completed(self, sequence: int, outcome: str) -> bool:
        """Count an outcome; say whether `sequence` is a window's at all."""
        window = self.by_seq.get(sequence)
        if window is None:
            return False
        window.in_flight -= 1
        window.outcomes[outcome] += 1
        return True

    def expired(self, now: float, *, force: bool = False) -> list[Window]:
        """Return the windows to be written down now, and forget them: ended, with nobody inside (or
        all).
        """
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


def worst_outcome(outcomes: Counter[str]) -> str:
    """Return the outcome of a window as a whole: the worst there was."""
    if not outcomes or "unknown" in outcomes:
        return "unknown"
    return "failed" if set(outcomes) - {"ok", "fault"} else "fault" if "fault" in outcomes else "ok"
