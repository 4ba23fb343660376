from proxy.audit.reading.query import CallRecord, parts_of
from proxy.audit.reading.records import DecidedRecord, parse_record
from proxy.audit.reading.stats import count
from tests.support.audit_records import call_of, line_of

ALICE = {"issuer_name": "okta", "subject": "alice"}


def test_windows_and_floods_count_for_what_they_stand_for() -> None:
    """A window of sixty pings is sixty calls, a summary of 412 rejections 412."""
    allowed = {
        "stage": "decided",
        "decision": "allow",
        "principal": ALICE,
        "upstream": "luigi",
        "method": "ping",
        "time": "b",
    }
    found = count(
        [
            call_of(allowed, {"outcome": "ok", "window": {"calls": 60}}),
            call_of(
                {
                    **allowed,
                    "decision": "deny",
                    "reason": "no-role",
                    "method": "pause",
                    "time": "a",
                },
            ),
            call_of(
                {
                    "stage": "rejected",
                    "time": "c",
                    "summary": {
                        "count": 412,
                        "reasons": {"no-credential": 400, "bad-credential": 12},
                    },
                },
            ),
            call_of({"stage": "rejected", "time": "c", "reason": "no-credential"}),
        ]
    )
    assert (found.calls, found.rejected, found.first, found.last) == (61, 413, "a", "c")
    assert found.methods == {"luigi ping": 60, "luigi pause": 1} and found.principals == {
        "okta|alice": 61
    }
    assert found.refusals == {"no-credential": 401, "bad-credential": 12, "no-role": 1}
    assert found.results == {"ok": 60, "deny": 1, "rejected": 413}


def test_summaries_of_denials_count_for_what_they_stand_for() -> None:
    """By principal, method and reason; what has no method of its own is among the others."""
    summary = {
        "count": 50,
        "reasons": {"no-policy-allows": 40, "unknown-method": 10},
        "calls": [
            {"upstream": "luigi", "method": "pause", "reason": "no-policy-allows", "count": 40},
            {"reason": "unknown-method", "count": 10},
        ],
    }
    line = line_of(
        "decided", decision="deny", principal=ALICE, summary=summary, policy_hash="h", time="a"
    )
    record = parse_record(line)
    assert isinstance(record, DecidedRecord)
    found = count(CallRecord("gate", one, None, (line,), part) for part, one in parts_of(record))
    assert (found.calls, found.rejected) == (50, 0)
    assert found.methods == {"luigi pause": 40, "(others)": 10}
    assert found.refusals == {"no-policy-allows": 40, "unknown-method": 10}
    assert found.principals == {"okta|alice": 50} and found.results == {"deny": 50}
