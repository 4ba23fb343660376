"""Turns records and calls into rows of a table, with texts that cannot control the terminal."""

from datetime import datetime

from proxy.audit.reading.query import CallRecord, address_of
from proxy.audit.reading.reader import LogEntry
from proxy.audit.reading.records import (
    CompletedRecord,
    DecidedRecord,
    RecordedPrincipal,
    RejectedRecord,
    members_of,
)
from proxy.common.text import escape_controls

COLUMNS = ("time", "who", "call", "result", "reason", "ms", "from", "id")

# Decided calls that a `RowFormatter` holds, so that the rows of their completed records name them;
# about a kilobyte each.
MAX_OPEN_CALLS = 10_000
# Members of a record about the log that its row does not show.
_HIDDEN = frozenset({"v", "seq", "prev", "time", "stage", "tree", "open"})
_MANY = "(many)"


def principal_name(principal: RecordedPrincipal | None) -> str:
    """Return the principal in one word, with a mark when an agent acts for it."""
    if principal is None:
        return "-"
    return principal.name + (" (agent)" if principal.agent else "")


def call_row(call: CallRecord) -> tuple[str, ...]:
    """Return the cells of `COLUMNS` for a call with its outcome, safe to print."""
    record, done = call.decided, call.completed
    status = "" if done is None or done.status is None else str(done.status)
    result = f"{call.result} {status}".strip() + (f" x{call.calls}" if call.calls > 1 else "")
    reason = call.reason
    if record.summary is not None or isinstance(record, RejectedRecord):
        reason = _refusal(record)
    return _row(record, record.time, result, reason, _milliseconds(done))


class RowFormatter:
    """Makes one row a record; rows of completed records name the call that they complete."""

    def __init__(self, *, local_time: bool = False) -> None:
        """Show times in UTC, or in the zone of this machine."""
        self._local_time = local_time
        self._open: dict[tuple[str, int], DecidedRecord] = {}

    def row(self, entry: LogEntry) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`, safe to print."""
        record = entry.record
        time = self._time(record.time)
        if isinstance(record, DecidedRecord):
            if record.allowed:
                self._remember((entry.log, record.seq), record)
            result, reason = record.decision, record.reason
            if (flood := record.summary) is not None:
                result, reason = f"deny, {flood.count} more {flood.period}", _refusal(record)
            return _row(record, time, result, reason)
        if isinstance(record, CompletedRecord):
            decided = self._open.pop((entry.log, record.decided_seq), None)
            if record.window is not None:
                result = f"{record.outcome} x{record.window.calls}"
            else:
                status = "" if record.status is None else str(record.status)
                result = f"{record.outcome} {status}".strip()
            return _row(
                decided, time, result, record.reason or "", _milliseconds(record), record.id
            )
        if isinstance(record, RejectedRecord):
            result = "rejected"
            if (flood := record.summary) is not None:
                result = f"rejected, {flood.count} more {flood.period}"
            return _row(record, time, result, _refusal(record))
        return _row(None, time, f"[{record.stage}]", _other_members(entry.raw))

    def _remember(self, key: tuple[str, int], record: DecidedRecord) -> None:
        if len(self._open) >= MAX_OPEN_CALLS:
            del self._open[next(iter(self._open))]
        self._open[key] = record

    def _time(self, text: str) -> str:
        if not self._local_time:
            return text
        try:
            moment = datetime.fromisoformat(text).astimezone()
        except ValueError:
            return text
        return moment.isoformat(sep=" ", timespec="milliseconds")


def _row(
    record: DecidedRecord | RejectedRecord | None,
    time: str,
    result: str,
    reason: str,
    milliseconds: str = "",
    call_id: str | None = None,
) -> tuple[str, ...]:
    """Return the cells for what `record` (if known) says of a call, and what came of it."""
    cells = (
        time,
        principal_name(None if record is None else record.principal),
        _target(record),
        result,
        reason,
        milliseconds,
        _address(record),
        call_id or (None if record is None else record.id) or "",
    )
    return tuple(escape_controls(cell) for cell in cells)


def _address(record: DecidedRecord | RejectedRecord | None) -> str:
    if record is None:
        return "-"
    return address_of(record) or (_MANY if record.summary is not None else "-")


def _target(record: DecidedRecord | RejectedRecord | None) -> str:
    if record is None:
        return "-"
    words: tuple[object, ...] = (record.upstream,)
    if isinstance(record, DecidedRecord):
        words = (record.upstream, record.method, record.task)
    return " ".join(str(word) for word in words if word) or "-"


def _refusal(record: DecidedRecord | RejectedRecord) -> str:
    """Return why a request was rejected, or the reasons of a flood with their counts."""
    if record.summary is not None:
        return ", ".join(f"{name} {count}" for name, count in record.summary.reasons.items())
    detail = record.detail if isinstance(record, RejectedRecord) else None
    return f"{record.reason or ''} {detail or ''}".strip()


def _milliseconds(record: CompletedRecord | None) -> str:
    if record is None or record.duration_us is None:
        return ""
    return f"{record.duration_us / 1000:.1f}"


def _other_members(line: bytes) -> str:
    """Return the members of a record about the log, known or not, as text."""
    members = members_of(line)
    return " ".join(
        f"{name}={value}"
        for name, value in members.items()
        if name not in _HIDDEN and value is not None
    )
