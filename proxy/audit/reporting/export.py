"""Calls in other systems' forms: OCSF API Activity (class 6003, schema 1.3.0), and flat rows for
CSV and Parquet.

In OCSF a view is a Read and every other class an Update; a refusal has status Failure and severity
Low, an allowed admin call severity Low, all else Informational. What OCSF has no place for stands
in ``unmapped``, under the log's own names.
"""

from datetime import datetime
from typing import Any, Final

import orjson

from proxy.audit.reading.query import CallRecord

OCSF_VERSION: Final = "1.3.0"
_CLASS, _CATEGORY = 6003, 6
_READ, _UPDATE, _UNKNOWN = 2, 3, 0
_SUCCESS, _FAILURE = 1, 2
_UNMAPPED = (
    "stage",
    "class",
    "protocol",
    "task",
    "decision",
    "policies",
    "policy_hash",
    "detail",
    "summary",
)

COLUMNS: Final = (
    "time", "log", "seq", "id", "issuer", "issuer_name", "subject", "roles", "agent", "address", "port", "tls", "user_agent", "upstream",
    "protocol", "method", "class", "task", "args", "decision", "reason", "detail", "policies", "policy_hash", "result", "outcome_reason",
    "status", "bytes", "duration_us", "calls",
)  # fmt: skip
"""The columns of flat rows, in order. `calls` is how many calls a row stands for (heartbeat
windows, summaries of floods).
"""


def flat(call: CallRecord) -> dict[str, str | int | bool | None]:
    """Return a call as one row: texts, numbers and truth values; lists joined with spaces,
    arguments as JSON.
    """
    record, done = call.decided, call.completed or {}
    principal, origin = _inner(record, "principal"), _inner(record, "origin")
    args = record.get("args")
    return {
        "time": record.get("time"), "log": call.log, "seq": record.get("seq"), "id": record.get("id"),
        "issuer": principal.get("issuer"), "issuer_name": principal.get("issuer_name"), "subject": principal.get("subject"),
        "roles": " ".join(principal.get("roles", ())), "agent": principal.get("agent"),
        "address": origin.get("address") or _inner(record, "summary").get("address"), "port": origin.get("port"), "tls": origin.get("tls"),
        "user_agent": origin.get("user_agent"), "upstream": record.get("upstream"), "protocol": record.get("protocol"),
        "method": record.get("method"), "class": record.get("class"), "task": _text(record.get("task")),
        "args": None if args is None else orjson.dumps(args).decode(), "decision": record.get("decision", "reject"),
        "reason": record.get("reason"), "detail": record.get("detail"), "policies": " ".join(record.get("policies", ())),
        "policy_hash": record.get("policy_hash"), "result": call.result, "outcome_reason": done.get("reason"),
        "status": done.get("status"), "bytes": done.get("bytes"), "duration_us": done.get("duration_us"), "calls": call.calls,
    }  # fmt: skip


def ocsf(call: CallRecord) -> dict[str, Any]:
    """Return a call as an OCSF API Activity event."""
    record, done = call.decided, call.completed or {}
    principal, origin = _inner(record, "principal"), _inner(record, "origin")
    address = origin.get("address") or _inner(record, "summary").get("address")
    method = record.get("method")
    activity = _UNKNOWN if method is None else _READ if record.get("class") == "view" else _UPDATE
    succeeded = call.result == "ok"
    refused = call.result in ("deny", "rejected")
    event: dict[str, Any] = {
        "activity_id": activity, "category_uid": _CATEGORY, "class_uid": _CLASS, "type_uid": _CLASS * 100 + activity,
        "time": _millis(record.get("time")), "severity_id": 2 if refused or record.get("class") == "admin" else 1,
        "status_id": _SUCCESS if succeeded else _FAILURE if call.result != "open" else 0,
        "status_code": call.reason or call.result, "count": call.calls,
        "metadata": {
            "version": OCSF_VERSION, "uid": f"{call.log}/{record.get('seq')}", "correlation_uid": str(record.get("id", "")),
            "log_name": call.log, "sequence": record.get("seq"), "original_time": str(record.get("time")),
            "product": {"name": "Callgate", "vendor_name": "Callgate"},
        },
        "api": {
            "operation": str(method or "unreadable"), "service": {"name": str(record.get("upstream") or "unknown")},
            "request": {"uid": str(record.get("id", "")), "data": record.get("args")},
        },
        "actor": {"user": _user(principal)} | ({"app_name": "agent"} if principal.get("agent") else {}),
        "src_endpoint": {"ip": str(address)} if address else {"name": "unknown"},
        "http_request": {"user_agent": str(origin.get("user_agent", ""))},
        "unmapped": {name: record[name] for name in _UNMAPPED if name in record},
    }  # fmt: skip
    if isinstance(origin.get("port"), int):
        event["src_endpoint"]["port"] = origin["port"]
    if done:
        code = done.get("status")
        event["api"]["response"] = {
            "code": code if isinstance(code, int) else 0,
            "message": str(done.get("outcome")),
        }
        event["unmapped"]["completed"] = {
            name: done[name] for name in ("seq", "outcome", "bytes", "window") if name in done
        }
        if isinstance(code, int):
            event["http_response"] = {"code": code}
        if isinstance(done.get("duration_us"), int):
            event["duration"] = done["duration_us"] // 1000
    return event


def _user(principal: dict[str, Any]) -> dict[str, Any]:
    if not principal:
        return {"uid": "unknown", "type_id": 0}
    groups = [{"name": str(role), "type": "role"} for role in principal.get("roles", ())]
    uid = f"{principal.get('issuer')}|{principal.get('subject')}"
    return {
        "uid": uid,
        "name": str(principal.get("subject")),
        "domain": str(principal.get("issuer_name")),
        "type_id": 1,
        "groups": groups,
    }


def _millis(text: object) -> int:
    try:
        return int(datetime.fromisoformat(str(text)).timestamp() * 1000)
    except ValueError:
        return 0


def _inner(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
