"""Finds calls: who, what, when, with the decision and what came of it, streaming.

A call is its ``decided`` record joined with its ``completed`` one; a rejection is a call that never
was. Only calls that match are held, and only until they are completed, so any number of records
needs no memory to speak of. Lines are sifted by plain bytes before they are read as JSON.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.audit.format.layout import logs, segments
from proxy.audit.format.segment_file import open_readable
from proxy.audit.reading.reader import LogEntry, Position, parse, read_log


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call, or one rejection: `decided` is its first record, `completed` None while (or if
    never) completed.
    """

    log: str
    decided: dict[str, Any]
    completed: dict[str, Any] | None = None

    @property
    def calls(self) -> int:
        """How many calls this stands for: one, unless it is a heartbeat window or the summary of a
        flood.
        """
        for record, member, count in (
            (self.completed, "window", "calls"),
            (self.decided, "summary", "count"),
        ):
            inner = record.get(member) if record else None
            if isinstance(inner, dict) and isinstance(inner.get(count), int):
                return int(inner[count])
        return 1

    @property
    def result(self) -> str:
        """What came of it in one word: deny, rejected, ok, fault, failed, unknown, or open."""
        if self.decided.get("stage") == "rejected":
            return "rejected"
        if self.decided.get("decision") != "allow":
            return "deny"
        return str(self.completed.get("outcome")) if self.completed else "open"

    @property
    def reason(self) -> str:
        """Why: the reason of a failure, else of the decision."""
        return str((self.completed or {}).get("reason") or self.decided.get("reason") or "")


@dataclass(frozen=True, slots=True)
class Filter:
    """What to look for; None is anything. Times are RFC 3339 in UTC or a beginning of one; `task`
    is a task id or a family.
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
        """Return bytes that every matching first record holds: a cheap test before parsing."""
        plain = (self.method, self.permission, self.upstream, self.address, self.role)
        return [
            orjson.dumps(text)
            for text in plain
            if text is not None and text.isascii() and text.isprintable()
        ]

    def matches(self, record: dict[str, Any]) -> bool:
        """Say whether a ``decided`` or ``rejected`` record matches, its reason aside (that may
        stand in ``completed``).
        """
        principal, origin = _inner(record, "principal"), _inner(record, "origin")
        time = str(record.get("time", ""))
        return (
            (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and (self.principal is None or self.principal in _names(principal))
            and (self.role is None or self.role in principal.get("roles", ()))
            and (self.method is None or record.get("method") == self.method)
            and (self.permission is None or record.get("class") == self.permission)
            and (self.upstream is None or record.get("upstream") == self.upstream)
            and (self.decision is None or record.get("decision", "reject") == self.decision)
            and (
                self.address is None
                or origin.get("address", _inner(record, "summary").get("address")) == self.address
            )
            and (
                self.id is None
                or record.get("id") == self.id
                or str(record.get("id", "")).startswith(f"{self.id}.")
            )
            and (self.task is None or _about(record, self.task))
        )


def find_calls(directory: Path, wanted: Filter, only: Iterable[str] = ()) -> Iterator[CallRecord]:
    """Give the calls that match, of all logs by time; each is given once it is completed, open ones
    last.
    """
    names = set(only)
    streams = [
        _calls(path, wanted) for name, path in logs(directory).items() if not names or name in names
    ]
    for _, call in heapq.merge(*streams, key=lambda pair: pair[0]):
        if (
            wanted.reason is None
            or call.reason == wanted.reason
            or call.decided.get("reason") == wanted.reason
        ):
            yield call


def _calls(directory: Path, wanted: Filter) -> Iterator[tuple[str, CallRecord]]:
    needles = wanted.needles()
    held: dict[int, dict[str, Any]] = {}

    def sift(raw: bytes) -> bool:
        stage = raw[70:110]
        if b'"decided"' in stage or b'"rejected"' in stage:
            return all(needle in raw for needle in needles)
        return bool(held) and b'"completed"' in stage

    for item in _since(directory, wanted.since, sift):
        record = item.record
        stage = record.get("stage")
        if stage == "completed":
            first = held.pop(record.get("decided", -1), None)
            if first is not None:
                yield item.time, CallRecord(item.log, first, record)
        elif wanted.until is not None and item.time >= wanted.until and not held:
            break
        elif stage in ("decided", "rejected") and wanted.matches(record):
            if record.get("decision") == "allow":
                held[record.get("seq", -1)] = record
            else:
                yield item.time, CallRecord(item.log, record)
    for first in held.values():
        yield str(first.get("time")), CallRecord(directory.name, first)


def _since(directory: Path, since: str | None, sift: Callable[[bytes], bool]) -> Iterator[LogEntry]:
    """Read a log from the segment in which `since` lies."""
    start = Position()
    if since is not None:
        for number, path in segments(directory).items():
            with open_readable(path) as lines:
                if str(parse(lines.readline()).get("time", "")) > since:
                    break
            start = Position(number, 0)
    return read_log(directory, start, sift)


def _inner(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _names(principal: dict[str, Any]) -> tuple[str, ...]:
    subject = str(principal.get("subject"))
    return (
        subject,
        f"{principal.get('issuer_name')}|{subject}",
        f"{principal.get('issuer')}|{subject}",
    )


def _about(record: dict[str, Any], task: str) -> bool:
    found = record.get("task")
    if isinstance(found, str) and (found == task or found.startswith(f"{task}_")):
        return True
    args = _inner(record, "args")
    return task in (args.get("task_id"), args.get("family"), args.get("task_family"))
