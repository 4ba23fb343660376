"""Calls in the formats of other systems: OCSF API Activity, and flat rows for CSV and Parquet.

OCSF is class 6003 of schema 1.3.0. A view is a Read and every other permission an Update. A refusal
has the status Failure and the severity Low, an allowed admin call the severity Low, and all else is
Informational. ``unmapped`` has what OCSF has no place for, under the log's own names.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from proxy.audit.reading.query import CallRecord, address_of
from proxy.audit.reading.records import (
    CompletedRecord,
    DecidedRecord,
    RecordedPrincipal,
    RejectedRecord,
)

OCSF_VERSION: Final = "1.3.0"
_CLASS, _CATEGORY = 6003, 6
_READ, _UPDATE, _UNKNOWN = 2, 3, 0
_SUCCESS, _FAILURE = 1, 2
_INFORMATIONAL, _LOW = 1, 2
_PRODUCT = {"name": "Callgate", "vendor_name": "Callgate"}
# Members of a first record, of either format, that OCSF has no place for.
_UNMAPPED = (
    "stage",
    "permission",
    "protocol",
    "task",
    "decision",
    "policies",
    "policy_hash",
    "detail",
    "summary",
)

COLUMNS: Final = (
    "time",
    "log",
    "seq",
    "id",
    "issuer",
    "issuer_name",
    "subject",
    "roles",
    "agent",
    "address",
    "port",
    "tls",
    "user_agent",
    "upstream",
    "protocol",
    "method",
    "permission",
    "task",
    "args",
    "decision",
    "reason",
    "detail",
    "policies",
    "policy_hash",
    "result",
    "outcome_reason",
    "status",
    "bytes",
    "duration_us",
    "calls",
)
"""The columns of flat rows, in order.

`calls` is how many calls a row counts for: those of a heartbeat window or a flood, or one. A flood
has a row for each combination of method, reason and address; they have the same `seq`.
"""

Row = dict[str, str | int | bool | None]


def flat(call: CallRecord) -> Row:
    """Return a call as one row of `COLUMNS`: lists joined with spaces, arguments as JSON."""
    record, done = call.decided, call.completed
    principal = record.principal
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "time": record.time,
        "log": call.log,
        "seq": record.seq,
        "id": record.id or None,
        "roles": "",
        "address": address_of(record),
        "port": record.peer.port,
        "tls": record.peer.tls,
        "user_agent": record.peer.user_agent or None,
        "upstream": record.upstream,
        "decision": "reject",
        "reason": record.reason,
        "policies": "",
        "result": call.result,
        "calls": call.calls,
    }
    if principal is not None:
        row |= {
            "issuer": principal.issuer,
            "issuer_name": principal.issuer_name,
            "subject": principal.subject,
            "roles": " ".join(principal.roles),
            "agent": principal.agent,
        }
    if isinstance(record, RejectedRecord):
        row["detail"] = record.detail
    else:
        row |= {
            "protocol": record.protocol,
            "method": record.method,
            "permission": record.permission,
            "task": _text(record.task),
            "args": _text(record.arguments()) if record.args else None,
            "decision": record.decision,
            "policies": " ".join(record.policies),
            "policy_hash": record.policy_hash,
        }
    if done is not None:
        row |= {
            "outcome_reason": done.reason,
            "status": done.status,
            "bytes": done.bytes,
            "duration_us": done.duration_us,
        }
    return row


def ocsf(call: CallRecord) -> dict[str, Any]:
    """Return a call as an OCSF API Activity event."""
    record = call.decided
    method, permission = _method_of(record)
    activity = _UNKNOWN if method is None else _READ if permission == "view" else _UPDATE
    refused = call.result in ("deny", "rejected")
    status = _SUCCESS if call.result == "ok" else _FAILURE
    event: dict[str, Any] = {
        "activity_id": activity,
        "category_uid": _CATEGORY,
        "class_uid": _CLASS,
        "type_uid": _CLASS * 100 + activity,
        "time": _milliseconds(record.time),
        "severity_id": _LOW if refused or permission == "admin" else _INFORMATIONAL,
        "status_id": _UNKNOWN if call.result == "open" else status,
        "status_code": call.reason or call.result,
        "count": call.calls,
        "metadata": {
            "version": OCSF_VERSION,
            "uid": f"{call.log}/{record.seq}" + ("" if call.part is None else f".{call.part}"),
            "correlation_uid": record.id or "",
            "log_name": call.log,
            "sequence": record.seq,
            "original_time": record.time,
            "product": _PRODUCT,
        },
        "api": {
            "operation": method or "unreadable",
            "service": {"name": record.upstream or "unknown"},
            "request": {"uid": record.id or "", "data": _data_of(record)},
        },
        "actor": _actor(record.principal),
        "src_endpoint": _endpoint(record),
        "http_request": {"user_agent": record.peer.user_agent},
        "unmapped": _unmapped(call),
    }
    if call.completed is not None:
        _add_outcome(event, call.completed)
    if record.summary is not None and record.summary.last:
        event["start_time"] = _milliseconds(record.summary.first)
        event["end_time"] = _milliseconds(record.summary.last)
    return event


def _add_outcome(event: dict[str, Any], done: CompletedRecord) -> None:
    event["api"]["response"] = {"code": done.status or 0, "message": done.outcome}
    if done.status is not None:
        event["http_response"] = {"code": done.status}
    if done.duration_us is not None:
        event["duration"] = done.duration_us // 1000


def _method_of(record: DecidedRecord | RejectedRecord) -> tuple[str | None, str | None]:
    """Return the method and its permission, which only a decided call has."""
    if isinstance(record, DecidedRecord):
        return record.method, record.permission
    return None, None


def _data_of(record: DecidedRecord | RejectedRecord) -> Mapping[str, Any] | None:
    if isinstance(record, DecidedRecord) and record.args:
        return record.arguments()
    return None


def _endpoint(record: DecidedRecord | RejectedRecord) -> dict[str, Any]:
    address = address_of(record)
    endpoint: dict[str, Any] = {"ip": address} if address else {"name": "unknown"}
    if record.peer.port is not None:
        endpoint["port"] = record.peer.port
    return endpoint


def _actor(principal: RecordedPrincipal | None) -> dict[str, Any]:
    if principal is None:
        return {"user": {"uid": "unknown", "type_id": 0}}
    user = {
        "uid": principal.url_name,
        "name": principal.subject,
        "domain": principal.issuer_name,
        "type_id": 1,
        "groups": [{"name": role, "type": "role"} for role in principal.roles],
    }
    return {"user": user, "app_name": "agent"} if principal.agent else {"user": user}


def _unmapped(call: CallRecord) -> dict[str, Any]:
    """Return the members of the call's records that have no place in OCSF."""
    first, *rest = call.members() or [{}]
    if "class" in first:  # record format 1
        first["permission"] = first["class"]
    found = {name: first[name] for name in _UNMAPPED if name in first}
    for done in rest:
        found["completed"] = {
            name: done[name] for name in ("seq", "outcome", "bytes", "window") if name in done
        }
    return found


def _milliseconds(text: str) -> int:
    """Return a time in milliseconds since 1970; 0 if it is none."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return 0


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
