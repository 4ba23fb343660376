"""Finds calls and streams them: who, what, when, with the decision and the outcome.

A call is its ``decided`` record joined with its ``completed`` record; a rejected request counts as
a call with the result ``rejected``. A summary of refusals gives one `CallRecord` for each of its
parts, so conditions on method, reason or address count what meets them. Memory holds the calls that
match and are not completed yet, so it does not grow with the log. Lines are filtered by plain bytes
before they are decoded.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson

from proxy.audit.format.layout import logs, segments
from proxy.audit.format.segment_file import open_readable
from proxy.audit.reading.reader import LogEntry, Position, read_log
from proxy.audit.reading.records import (
    CompletedRecord,
    DecidedRecord,
    FloodSummary,
    RecordedPrincipal,
    RejectedRecord,
    members_of,
    parse_record,
)

STAGE_BYTES = slice(70, 110)
"""Where ``"stage":"…"`` is in a line, whatever the length of its sequence number."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call, or one rejected request.

    `decided` is its first record, `completed` its second or None. `lines` are the records as
    written. `part` is the number of the part of a summary, whose members `decided` has; None for
    anything else.
    """

    log: str
    decided: DecidedRecord | RejectedRecord
    completed: CompletedRecord | None = None
    lines: tuple[bytes, ...] = ()
    part: int | None = None

    @property
    def calls(self) -> int:
        """How many calls it counts for: one, or those of a heartbeat window or a flood."""
        if self.completed is not None and self.completed.window is not None:
            return self.completed.window.calls
        return 1 if self.decided.summary is None else self.decided.summary.count

    def members(self) -> list[dict[str, Any]]:
        """Return the members of its records as written; of a summary, those of its part alone."""
        found = [members_of(line) for line in self.lines]
        if self.part is not None:
            summary = found[0]["summary"]
            part = summary["calls"][self.part]
            found[0]["summary"] = summary | {
                "count": part["count"],
                "reasons": {part["reason"]: part["count"]},
                "calls": [part],
            }
        return found

    @property
    def result(self) -> str:
        """The outcome in one word: deny, rejected, ok, fault, failed, unknown, or open."""
        if isinstance(self.decided, RejectedRecord):
            return "rejected"
        if not self.decided.allowed:
            return "deny"
        return "open" if self.completed is None else self.completed.outcome

    @property
    def reason(self) -> str:
        """The reason of a failure, or else of the decision."""
        failure = None if self.completed is None else self.completed.reason
        return failure or self.decided.reason or ""


@dataclass(frozen=True, slots=True)
class Filter:
    """The conditions that a call must meet; None is no condition.

    Times are RFC 3339 in UTC, or a prefix of one. `task` is a task id or a family.
    """

    since: str | None = None
    until: str | None = None
    principal: str | None = None
    role: str | None = None
    method: str | None = None
    permission: str | None = None
    upstream: str | None = None
    decision: str | None = None
    reason: str | None = None
    task: str | None = None
    address: str | None = None
    id: str | None = None

    def needles(self) -> list[bytes]:
        """Return bytes that every matching first record holds: a cheap test before decoding."""
        texts = (self.method, self.permission, self.upstream, self.address, self.role)
        return [
            orjson.dumps(text)
            for text in texts
            if text is not None and text.isascii() and text.isprintable()
        ]

    def matches(self, record: DecidedRecord | RejectedRecord) -> bool:
        """Return whether a first record meets every condition but `reason`.

        The reason of a failed call is in its ``completed`` record.
        """
        return (
            (self.since is None or record.time >= self.since)
            and (self.until is None or record.time < self.until)
            and (self.principal is None or self.principal in _names(record.principal))
            and (self.role is None or self.role in _roles(record.principal))
            and (self.upstream is None or record.upstream == self.upstream)
            and (self.address is None or address_of(record) == self.address)
            and (self.id is None or belongs_to(record.id, self.id))
            and self._matches_call(record)
        )

    def _matches_call(self, record: DecidedRecord | RejectedRecord) -> bool:
        """Return whether the conditions hold that only a decided call can meet."""
        if isinstance(record, RejectedRecord):
            return self.decision in (None, "reject") and (
                self.method is None and self.permission is None and self.task is None
            )
        return (
            (self.decision is None or record.decision == self.decision)
            and (self.method is None or record.method == self.method)
            and (self.permission is None or record.permission == self.permission)
            and (self.task is None or _is_about(record, self.task))
        )


def find_calls(directory: Path, wanted: Filter, only: Iterable[str] = ()) -> Iterator[CallRecord]:
    """Yield the calls that match, of all logs (or those in `only`), by time.

    A call comes when it is completed; open calls come last.
    """
    names = set(only)
    streams = [
        _calls(path, wanted) for name, path in logs(directory).items() if not names or name in names
    ]
    for _, call in heapq.merge(*streams, key=lambda pair: pair[0]):
        if wanted.reason is None or wanted.reason in (call.reason, call.decided.reason):
            yield call


def belongs_to(record_id: str | None, call_id: str) -> bool:
    """Return whether a record is of the call `call_id`, or of a multicall with this request id."""
    return record_id is not None and (record_id == call_id or record_id.startswith(f"{call_id}."))


def address_of(record: DecidedRecord | RejectedRecord) -> str | None:
    """Return the address that a call came from; None for the flood of several addresses."""
    if record.summary is not None:
        return record.summary.address
    return record.peer.address or None


def parts_of(
    record: DecidedRecord | RejectedRecord,
) -> list[tuple[int | None, DecidedRecord | RejectedRecord]]:
    """Return the parts of a summary, each as a record of its own with its number.

    Anything else is returned as it is, without a number.
    """
    summary = record.summary
    if summary is None or not summary.calls:
        return [(None, record)]
    found: list[tuple[int | None, DecidedRecord | RejectedRecord]] = []
    for number, part in enumerate(summary.calls):
        own = FloodSummary(
            address=part.address,
            count=part.count,
            reasons={part.reason: part.count},
            first=summary.first,
            last=summary.last,
        )
        of_call = {"method": part.method, "permission": part.permission}
        members = of_call if isinstance(record, DecidedRecord) else {}
        changed = msgspec.structs.replace(
            record, upstream=part.upstream, reason=part.reason, summary=own, **members
        )
        found.append((number, changed))
    return found


def _calls(directory: Path, wanted: Filter) -> Iterator[tuple[str, CallRecord]]:
    needles = wanted.needles()
    open_calls: dict[int, tuple[DecidedRecord, bytes]] = {}

    def predicate(raw: bytes) -> bool:
        stage = raw[STAGE_BYTES]
        if b'"decided"' in stage or b'"rejected"' in stage:
            return all(needle in raw for needle in needles)
        return bool(open_calls) and b'"completed"' in stage

    for entry in _since(directory, wanted.since, predicate):
        record = entry.record
        if isinstance(record, CompletedRecord):
            first = open_calls.pop(record.decided_seq, None)
            if first is not None:
                lines = (first[1], entry.raw)
                yield record.time, CallRecord(entry.log, first[0], record, lines)
        elif wanted.until is not None and record.time >= wanted.until and not open_calls:
            break
        elif isinstance(record, DecidedRecord | RejectedRecord):
            for part, one in parts_of(record):
                if not wanted.matches(one):
                    continue
                if isinstance(one, DecidedRecord) and one.allowed:
                    open_calls[one.seq] = (one, entry.raw)
                else:
                    yield one.time, CallRecord(entry.log, one, None, (entry.raw,), part)
    for decided, raw in open_calls.values():
        yield decided.time, CallRecord(directory.name, decided, None, (raw,))


def _since(
    directory: Path, since: str | None, predicate: Callable[[bytes], bool]
) -> Iterator[LogEntry]:
    """Read a log from the segment in which `since` lies."""
    start = Position()
    if since is not None:
        for number, path in segments(directory).items():
            with open_readable(path) as lines:
                if parse_record(lines.readline().removesuffix(b"\n")).time > since:
                    break
            start = Position(number, 0)
    return read_log(directory, start, predicate)


def _names(principal: RecordedPrincipal | None) -> tuple[str, ...]:
    if principal is None:
        return ()
    return (principal.subject, principal.name, principal.url_name)


def _roles(principal: RecordedPrincipal | None) -> tuple[str, ...]:
    return () if principal is None else principal.roles


def _is_about(record: DecidedRecord, task: str) -> bool:
    """Return whether a call is about a task or a family, by its task or its arguments."""
    found = record.task
    if isinstance(found, str) and (found == task or found.startswith(f"{task}_")):
        return True
    args = record.arguments()
    return task in (args.get("task_id"), args.get("family"), args.get("task_family"))
