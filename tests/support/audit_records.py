"""Audit records made from their members, as the readers decode them."""

from typing import Any

import orjson

from proxy.audit.reading.query import CallRecord
from proxy.audit.reading.reader import LogEntry, Position
from proxy.audit.reading.records import (
    AnyRecord,
    CompletedRecord,
    DecidedRecord,
    RejectedRecord,
    parse_record,
)


def line_of(stage: str, version: int = 2, **members: Any) -> bytes:
    """The line of a record."""
    begin = {"v": version, "seq": members.pop("seq", 0), "prev": "0" * 16}
    time = members.pop("time", "t")
    return orjson.dumps({**begin, "time": time, "stage": stage, **members})


def record_of(stage: str, **members: Any) -> AnyRecord:
    """A record."""
    return parse_record(line_of(stage, **members))


def entry_of(stage: str, log: str = "gate", **members: Any) -> LogEntry:
    """A record as a reader finds it."""
    line = line_of(stage, **members)
    return LogEntry(log, Position(1, 0), line, parse_record(line))


def call_of(
    first: dict[str, Any], completed: dict[str, Any] | None = None, *, log: str = "gate"
) -> CallRecord:
    """A call from the members of its records; a first record without a stage is ``decided``."""
    lines = [line_of(**{"stage": "decided", **first})]
    if completed is not None:
        lines.append(line_of(**{"stage": "completed", **completed}))
    record, *done = [parse_record(line) for line in lines]
    assert isinstance(record, DecidedRecord | RejectedRecord)
    outcome = done[0] if done else None
    assert outcome is None or isinstance(outcome, CompletedRecord)
    return CallRecord(log, record, outcome, tuple(lines))
