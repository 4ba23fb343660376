"""Turns records into what a person reads: one row of a table, and texts that cannot drive the
terminal.
"""

from datetime import datetime
from typing import Any

from proxy.audit.reading.query import CallRecord
from proxy.common.text import escape_controls

COLUMNS = ("time", "who", "call", "result", "reason", "ms", "from", "id")


def principal_name(record: dict[str, Any]) -> str:
    """Return the principal in one word, with a mark when an agent acts for it."""
    principal = record.get("principal")
    if not isinstance(principal, dict):
        return "-"
    return f"{principal.get('issuer_name')}|{principal.get('subject')}" + (
        " (agent)" if principal.get("agent") else ""
    )


def call_row(call: CallRecord) -> tuple[str, ...]:
    """Return the cells of `COLUMNS` for a whole call, safe to print."""
    record, done = call.decided, call.completed or {}
    summary = record.get("summary")
    address = (
        _address(record)
        if not isinstance(summary, dict)
        else str(summary.get("address") or "(many)")
    )
    result = f"{call.result} {done.get('status', '')}".strip() + (
        f" x{call.calls}" if call.calls > 1 else ""
    )
    reason = f"{call.reason} {record.get('detail') or ''}".strip()
    if isinstance(summary, dict):
        reason = ", ".join(
            f"{name} {count}" for name, count in dict(summary.get("reasons", {})).items()
        )
    cells = (
        record.get("time", ""),
        principal_name(record),
        _target(record),
        result,
        reason,
        _ms(done),
        address,
        record.get("id", ""),
    )
    return tuple(escape_controls(cell) for cell in cells)


def _address(record: dict[str, Any]) -> str:
    origin = record.get("origin")
    return str(origin.get("address", "-")) if isinstance(origin, dict) else "-"


def _target(record: dict[str, Any]) -> str:
    return (
        " ".join(str(record[name]) for name in ("upstream", "method", "task") if record.get(name))
        or "-"
    )


def _ms(record: dict[str, Any]) -> str:
    return (
        f"{record['duration_us'] / 1000:.1f}" if isinstance(record.get("duration_us"), int) else ""
    )


class RowFormatter:
    """Makes rows. Remembers decided calls for as long as they are open, so that `completed` rows
    can name them (at most 10,000).
    """

    def __init__(self, *, local_time: bool = False) -> None:
        """Show times in UTC, or in the zone of this machine."""
        self._local = local_time
        self._open: dict[tuple[str, object], dict[str, Any]] = {}

    def row(self, log: str, record: dict[str, Any]) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`, safe to print."""
        stage = record.get("stage")
        decided = record
        if stage == "decided":
            if record.get("decision") == "allow":
                self._remember((log, record.get("seq")), record)
            result = str(record.get("decision"))
            reason = str(record.get("reason"))
        elif stage == "completed":
            decided = self._open.pop((log, record.get("decided")), {})
            result, reason = (
                f"{record.get('outcome')} {record.get('status', '')}".strip(),
                str(record.get("reason", "")),
            )
            if isinstance(window := record.get("window"), dict):
                result = f"{record.get('outcome')} x{window.get('calls')}"
        elif stage == "rejected" and isinstance(summary := record.get("summary"), dict):
            result = f"rejected, {summary.get('count')} more in {summary.get('seconds')} s"
            reason = ", ".join(
                f"{name} {count}" for name, count in dict(summary.get("reasons", {})).items()
            )
            decided = {"origin": {"address": summary.get("address") or "(many)"}}
        elif stage == "rejected":
            result, reason = (
                "rejected",
                f"{record.get('reason')} {record.get('detail', '')}".strip(),
            )
        else:
            result, reason = f"[{stage}]", self._about(record)
        time = self._time(record.get("time"))
        cells = (
            time,
            principal_name(decided),
            _target(decided),
            result,
            reason,
            _ms(record),
            _address(decided),
            record.get("id", ""),
        )
        return tuple(escape_controls(cell) for cell in cells)

    def _remember(self, key: tuple[str, object], record: dict[str, Any]) -> None:
        if len(self._open) >= 10_000:
            del self._open[next(iter(self._open))]
        self._open[key] = record

    def _time(self, text: object) -> str:
        if not self._local or not isinstance(text, str):
            return str(text or "")
        try:
            return (
                datetime.fromisoformat(text)
                .astimezone()
                .isoformat(sep=" ", timespec="milliseconds")
            )
        except ValueError:
            return text

    @staticmethod
    def _about(record: dict[str, Any]) -> str:
        rest = {
            name: value
            for name, value in record.items()
            if name not in ("v", "seq", "prev", "time", "stage", "tree", "open")
        }
        return " ".join(f"{name}={value}" for name, value in rest.items() if value is not None)
