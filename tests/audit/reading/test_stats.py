from proxy.audit.reading.stats import count
from tests.support.audit_records import call_of

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
