"""Keeps floods of refusals of one principal out of the log, and counts them in summaries.

A principal can be refused thousands of times a second: by policy (``decided``, deny), or before a
call could be made of the request (``rejected``, such as no-role). The first refusals of a principal
in a window of one minute have a record each; the rest are counted, and one summary of each stage at
the end of the window says how many, of what and until when. A process that is killed loses at most
the counts of its open windows.

Memory is bounded: beyond `MAX_PRINCIPALS` principals, all others share one window. A window counts
`MAX_PARTS` combinations of upstream, method, reason and address, and beyond them without the
address. There are few methods in a catalog, so a flood hides none of them. Methods that no catalog
has are counted by reason alone then; so is everything beyond `MAX_PARTS_IN_ALL`.

Pure: takes the times as arguments.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from proxy.audit.format.record import TimestampEncoder, encode_event, principal_members
from proxy.audit.redaction.redactor import Json
from proxy.model import Call, Decision, Peer, Principal, Reason

WINDOW_SECONDS: Final = 60.0
MAX_PRINCIPALS: Final = 1024
MAX_PARTS: Final = 16
MAX_PARTS_IN_ALL: Final = 256
# The records of all principals together, as a multiple of those of one: 15 MB a minute by default.
_TOTAL_FACTOR: Final = 100
# Characters of a method's name, which the caller chose if the catalog does not have it.
_METHOD_LENGTH: Final = 256

Stage: TypeAlias = Literal["decided", "rejected"]

_Part: TypeAlias = tuple[str | None, str | None, str | None, str, str | None]
"""Upstream, method, permission, reason and address."""

_Key: TypeAlias = tuple[str, str, bool] | None
"""Issuer, subject and whether it is an agent; None for all further principals."""


@dataclass(slots=True)
class _Counted:
    """The refusals of one stage. `first` and `last` are microseconds since 1970."""

    first: int
    last: int
    policy_hash: str = ""
    parts: Counter[_Part] = field(default_factory=Counter)

    def add(self, part: _Part, micros: int) -> None:
        self.last = max(self.last, micros)
        parts = self.parts
        if part not in parts and len(parts) >= MAX_PARTS:
            upstream, method, permission, reason, _ = part
            part = (upstream, method, permission, reason, None)
            full = len(parts) >= MAX_PARTS_IN_ALL or reason == Reason.UNKNOWN_METHOD.value
            if full and part not in parts:
                part = (None, None, None, reason, None)
        parts[part] += 1


@dataclass(slots=True)
class _Window:
    """`principal` is as it was in the first refusal. `ends` is monotonic, in seconds."""

    principal: Principal | None
    ends: float
    recorded: int = 0
    counted: dict[Stage, _Counted] = field(default_factory=dict)


class DenialSummaries:
    """A rate limit of recorded refusals, by principal and in total."""

    def __init__(self, per_minute: int = 60) -> None:
        """Record at most `per_minute` refusals of one principal one by one."""
        self._each = per_minute
        self._total = per_minute * _TOTAL_FACTOR
        self._recorded = 0
        self._windows: dict[_Key, _Window] = {}

    def admit_denied(
        self,
        principal: Principal,
        peer: Peer,
        call: Call,
        decision: Decision,
        micros: int,
        now: float,
    ) -> bool:
        """Return whether to record this denied call one by one; count it if not.

        `micros` is the time of the record, `now` is monotonic, in seconds.
        """
        window = self._window(principal, now)
        if self._has_room(window):
            return True
        part = (
            call.upstream,
            call.method[:_METHOD_LENGTH],
            call.permission,
            decision.reason.value,
            peer.address,
        )
        counted = self._count("decided", window, part, micros)
        counted.policy_hash = decision.policy_hash
        return False

    def admit_rejected(
        self,
        principal: Principal,
        peer: Peer,
        upstream: str | None,
        reason: str,
        micros: int,
        now: float,
        *,
        room: bool = True,
    ) -> bool:
        """Return whether to record this rejection; count it if not, or if there is no `room`."""
        window = self._window(principal, now)
        if room and self._has_room(window):
            return True
        self._count("rejected", window, (upstream, None, None, reason, peer.address), micros)
        return False

    def expired(self, now: float, *, force: bool = False) -> Iterable["Summary"]:
        """Remove the windows that have ended (all if `force`) and yield their summaries."""
        for key in [key for key, window in self._windows.items() if force or window.ends <= now]:
            window = self._windows.pop(key)
            self._recorded -= window.recorded
            for stage, counted in window.counted.items():
                yield Summary(stage, window.principal, counted)

    @property
    def watching(self) -> bool:
        """Whether there is a window that will end."""
        return bool(self._windows)

    def _window(self, principal: Principal, now: float) -> _Window:
        key: _Key = (principal.issuer, principal.subject, principal.agent)
        window = self._windows.get(key)
        if window is None:
            known: Principal | None = principal
            if len(self._windows) >= MAX_PRINCIPALS:
                key, known = None, None
            window = self._windows.setdefault(key, _Window(known, now + WINDOW_SECONDS))
        return window

    def _has_room(self, window: _Window) -> bool:
        if window.recorded >= self._each or self._recorded >= self._total:
            return False
        window.recorded += 1
        self._recorded += 1
        return True

    @staticmethod
    def _count(stage: Stage, window: _Window, part: _Part, micros: int) -> _Counted:
        counted = window.counted.get(stage)
        if counted is None:
            counted = window.counted[stage] = _Counted(micros, micros)
        counted.add(part, micros)
        return counted


@dataclass(frozen=True, slots=True)
class Summary:
    """The refusals of one principal that have no record of their own."""

    stage: Stage
    principal: Principal | None
    counted: _Counted

    @property
    def count(self) -> int:
        """The number of refusals."""
        return self.counted.parts.total()

    def encode(self, timestamp: TimestampEncoder) -> bytes:
        """Return the body of the summary's record."""
        counted = self.counted
        reasons: Counter[str] = Counter()
        calls: list[Json] = []
        for part, count in counted.parts.most_common():
            upstream, method, permission, reason, address = part
            reasons[reason] += count
            each: dict[str, Json] = {
                "upstream": upstream,
                "method": method,
                "permission": permission,
                "reason": reason,
                "address": address,
                "count": count,
            }
            calls.append({name: value for name, value in each.items() if value is not None})
        by_reason: dict[str, Json] = dict(sorted(reasons.items()))
        members: dict[str, Json] = {}
        if self.principal is not None:
            members["principal"] = principal_members(self.principal)
        if self.stage == "decided":
            members |= {"decision": "deny", "policy_hash": counted.policy_hash}
        members["summary"] = {
            "count": self.count,
            "first": timestamp(counted.first).decode(),
            "last": timestamp(counted.last).decode(),
            "reasons": by_reason,
            "calls": calls,
        }
        return encode_event(self.stage, members)
