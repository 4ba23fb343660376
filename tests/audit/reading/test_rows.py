from typing import Any

import pytest

from proxy.audit.reading.rows import COLUMNS, RowFormatter, call_row
from tests.support.audit_records import call_of, entry_of

DECIDED = {
    "seq": 4,
    "id": "R1",
    "upstream": "luigi",
    "method": "ping",
    "decision": "allow",
    "reason": "allowed",
    "principal": {"issuer_name": "okta", "subject": "al", "agent": True},
    "peer": {"address": "10.0.0.1"},
}


def row_of(rows: RowFormatter, *arguments: Any, **members: Any) -> dict[str, str]:
    """A row by column."""
    return dict(zip(COLUMNS, rows.row(entry_of(*arguments, **members)), strict=True))


def test_a_completed_row_names_its_call() -> None:
    """The row of a completed record shows the principal and method of the call that it completes,
    of its own log alone.
    """
    rows = RowFormatter()
    row_of(rows, "decided", "a", **DECIDED)
    done = {
        "decided_seq": 4,
        "id": "R1",
        "outcome": "ok",
        "status": 200,
        "duration_us": 1500,
        "time": "",
    }
    assert row_of(rows, "completed", "b", **done)["who"] == "-"
    assert row_of(rows, "completed", "a", **done) == {
        "time": "",
        "who": "okta|al (agent)",
        "call": "luigi ping",
        "result": "ok 200",
        "reason": "",
        "ms": "1.5",
        "from": "10.0.0.1",
        "id": "R1",
    }


@pytest.mark.parametrize(
    ("stage", "members"),
    [
        ("unreadable", {}),
        ("later", {"x": [1]}),
        ("decided", {"principal": 5, "peer": []}),
        ("opened", {"software": "callgate", "recovered": {"torn_bytes": 5, "unknown": 1}}),
    ],
)
def test_any_record_has_a_row(stage: str, members: dict[str, object]) -> None:
    """Records of stages to come, and broken ones, are shown with the members that they have."""
    row = row_of(RowFormatter(), stage, **members)
    assert all(name in row["reason"] for name in members)


def test_a_flood_row_has_its_counts() -> None:
    """The row of a flood's summary has how many more there were, in what time and why."""
    row = row_of(
        RowFormatter(),
        "rejected",
        summary={
            "address": "10.0.0.9",
            "count": 412,
            "seconds": 10,
            "reasons": {"no-credential": 412},
        },
    )
    assert "412 more in 10 s" in row["result"] and "no-credential 412" in row["reason"]
    assert row["from"] == "10.0.0.9"


def test_a_call_row_joins_both_records() -> None:
    """The row of a call has the outcome and the time that it took, and how many calls it is."""
    window = {"outcome": "ok", "window": {"calls": 60}}
    assert call_row(call_of(DECIDED, {"outcome": "ok", "status": 200, "duration_us": 1500})) == (
        "t",
        "okta|al (agent)",
        "luigi ping",
        "ok 200",
        "allowed",
        "1.5",
        "10.0.0.1",
        "R1",
    )
    assert call_row(call_of(DECIDED, window))[3] == "ok x60"


def test_the_row_of_a_summary_says_how_many_and_why() -> None:
    """Of denials and of rejections of a principal, also while they are followed."""
    summary = {"count": 940, "first": "a", "last": "2026-01-01T00:00:59Z", "reasons": {"x": 940}}
    for stage, word in (("decided", "deny"), ("rejected", "rejected")):
        row = row_of(
            RowFormatter(), stage, decision="deny", principal=DECIDED["principal"], summary=summary
        )
        assert row["result"] == f"{word}, 940 more until 2026-01-01T00:00:59Z"
        assert (row["reason"], row["who"], row["from"]) == ("x 940", "okta|al (agent)", "(many)")
