from typing import Any

import pytest

from proxy.audit.reading.query import CallRecord, parts_of
from proxy.audit.reading.records import DecidedRecord, parse_record
from proxy.audit.reporting.export import COLUMNS, flat, ocsf
from tests.support.audit_records import call_of, line_of

DECIDED = {
    "seq": 4,
    "time": "2026-01-01T00:00:00.123456Z",
    "stage": "decided",
    "id": "R1",
    "principal": {
        "issuer": "https://i/",
        "issuer_name": "okta",
        "subject": "al",
        "roles": ["viewer", "x"],
        "agent": True,
    },
    "peer": {"address": "10.0.0.1", "port": 7, "tls": "TLSv1.3", "user_agent": "ua"},
    "upstream": "luigi",
    "protocol": "luigi",
    "method": "task_list",
    "permission": "view",
    "task": "A_1",
    "args": {"status": ""},
    "decision": "allow",
    "reason": "allowed",
    "policies": ["p"],
    "policy_hash": "sha256:ab",
}
DONE = {
    "seq": 5,
    "stage": "completed",
    "outcome": "ok",
    "status": 200,
    "bytes": 9,
    "duration_us": 2500,
}
CALLS = [
    call_of(DECIDED, DONE),
    call_of(DECIDED),
    call_of(
        {**DECIDED, "decision": "deny", "reason": "no-role", "policies": [], "permission": "admin"},
    ),
    call_of(
        {
            "seq": 6,
            "time": "x",
            "stage": "rejected",
            "id": "R2",
            "reason": "no-credential",
            "peer": {"address": "10.0.0.1", "port": 7},
        },
    ),
    call_of(
        {
            "seq": 7,
            "stage": "rejected",
            "summary": {"address": None, "count": 9, "reasons": {"no-credential": 9}},
        },
    ),
    call_of(DECIDED, {"outcome": "failed", "reason": "upstream-timeout", "window": {"calls": 5}}),
]

REQUIRED: dict[str, Any] = {
    "activity_id": int,
    "category_uid": int,
    "class_uid": int,
    "severity_id": int,
    "time": int,
    "type_uid": int,
    "metadata": {"version": str, "product": {"vendor_name": str}},
    "actor": {"user": dict},
    "api": {"operation": str, "request": {"uid": str}},
    "src_endpoint": dict,
}
"""What schema.ocsf.io 1.3.0 requires of api_activity, its objects, and one of each "at least one"
constraint that we meet.
"""


def holds(event: Any, required: Any) -> bool:
    """Whether an event has all that is required, of the right types."""
    if isinstance(required, dict):
        return isinstance(event, dict) and all(
            name in event and holds(event[name], inner) for name, inner in required.items()
        )
    return type(event) is required


@pytest.mark.parametrize("call", CALLS)
def test_events_have_what_the_schema_requires(call: CallRecord) -> None:
    """Whatever the call, every required attribute is there and the ids agree with each other."""
    event = ocsf(call)
    assert holds(event, REQUIRED)
    # no address is made up
    assert holds(event["src_endpoint"], {"ip": str}) or event["src_endpoint"] == {"name": "unknown"}
    assert (event["class_uid"], event["category_uid"], event["type_uid"]) == (
        6003,
        6,
        600300 + event["activity_id"],
    )
    assert (
        event["activity_id"] in (0, 1, 2, 3, 4, 99)
        and event["status_id"] in (0, 1, 2)
        and event["severity_id"] in range(7)
    )


def test_a_view_is_a_successful_read() -> None:
    """The usual call in full: who, what, from where, with what result."""
    event = ocsf(CALLS[0])
    assert (event["activity_id"], event["status_id"], event["duration"], event["time"]) == (
        2,
        1,
        2,
        1767225600123,
    )
    assert event["actor"] == {
        "app_name": "agent",
        "user": {
            "uid": "https://i/|al",
            "name": "al",
            "domain": "okta",
            "type_id": 1,
            "groups": [{"name": "viewer", "type": "role"}, {"name": "x", "type": "role"}],
        },
    }
    assert event["api"]["response"] == {"code": 200, "message": "ok"} and event["unmapped"][
        "policies"
    ] == ["p"]
    assert [ocsf(call)["status_id"] for call in CALLS] == [1, 0, 2, 2, 2, 2]


@pytest.mark.parametrize("call", CALLS)
def test_rows_have_every_column(call: CallRecord) -> None:
    """A flat row has exactly the columns, with plain values: no list and no object."""
    row = flat(call)
    assert tuple(row) == COLUMNS and all(
        value is None or isinstance(value, str | int | bool) for value in row.values()
    )


def test_an_address_that_is_not_known_is_not_made_up() -> None:
    """The sum of many addresses' rejections has none of them, and says so; a known one is given as
    it is.
    """
    assert (ocsf(CALLS[4])["src_endpoint"], ocsf(CALLS[3])["src_endpoint"]) == (
        {"name": "unknown"},
        {"ip": "10.0.0.1", "port": 7},
    )


def test_a_row() -> None:
    """A row says what the call's two records say."""
    row = flat(CALLS[0])
    assert (row["roles"], row["args"], row["status"], row["result"], row["calls"]) == (
        "viewer x",
        '{"status":""}',
        200,
        "ok",
        1,
    )
    assert (flat(CALLS[4])["calls"], flat(CALLS[5])["calls"], flat(CALLS[5])["outcome_reason"]) == (
        9,
        5,
        "upstream-timeout",
    )


def test_each_part_of_a_summary_is_an_event_of_its_own() -> None:
    """With its own count and identifier, and the times of the first and the last call."""
    summary = {
        "count": 50,
        "first": "2026-01-01T00:00:00Z",
        "last": "2026-01-01T00:00:30Z",
        "reasons": {"no-policy-allows": 50},
        "calls": [
            {"upstream": "luigi", "method": "pause", "reason": "no-policy-allows", "count": 40},
            {"reason": "no-policy-allows", "count": 10},
        ],
    }
    line = line_of("decided", decision="deny", summary=summary, seq=9)
    record = parse_record(line)
    assert isinstance(record, DecidedRecord)
    calls = [CallRecord("gate", one, None, (line,), part) for part, one in parts_of(record)]
    events = [ocsf(each) for each in calls]
    assert [event["metadata"]["uid"] for event in events] == ["gate/9.0", "gate/9.1"]
    assert [event["count"] for event in events] == [40, 10]
    assert [event["unmapped"]["summary"]["count"] for event in events] == [40, 10]
    assert {event["end_time"] - event["start_time"] for event in events} == {30_000}
    assert [(flat(each)["method"], flat(each)["calls"]) for each in calls] == [
        ("pause", 40),
        (None, 10),
    ]
