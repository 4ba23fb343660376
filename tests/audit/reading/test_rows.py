import pytest

from proxy.audit.reading.rows import COLUMNS, RowFormatter


def test_a_completed_row_names_its_call() -> None:
    """The row of a completed record shows the principal and method of the call it completes, of its
    own log alone.
    """
    rows = RowFormatter()
    decided = {"stage": "decided", "seq": 4, "id": "R1", "upstream": "luigi", "method": "ping", "decision": "allow", "reason": "allowed",
               "principal": {"issuer_name": "okta", "subject": "al", "agent": True}, "origin": {"address": "10.0.0.1"}}  # fmt: skip
    rows.row("a", decided)
    done = {
        "stage": "completed",
        "decided": 4,
        "id": "R1",
        "outcome": "ok",
        "status": 200,
        "duration_us": 1500,
    }
    assert dict(zip(COLUMNS, rows.row("b", done), strict=True))["who"] == "-"
    assert dict(zip(COLUMNS, rows.row("a", done), strict=True)) == {
        "time": "", "who": "okta|al (agent)", "call": "luigi ping", "result": "ok 200", "reason": "",
        "ms": "1.5", "from": "10.0.0.1", "id": "R1",
    }  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"stage": "unreadable"},
        {"stage": "later", "x": [1]},
        {"stage": "decided", "principal": 5, "origin": []},
    ],
)
def test_any_record_has_a_row(record: dict[str, object]) -> None:
    """Records of stages to come, and broken ones, are shown as well as may be."""
    assert len(RowFormatter().row("a", record)) == len(COLUMNS)


def test_a_summary_says_how_many() -> None:
    """A flood's summary row says how many more there were, in what time and why."""
    row = RowFormatter().row(
        "a",
        {
            "stage": "rejected",
            "summary": {
                "address": "10.0.0.9",
                "count": 412,
                "seconds": 10,
                "reasons": {"no-credential": 412},
            },
        },
    )
    assert "412 more in 10 s" in row[3] and "no-credential 412" in row[4] and row[6] == "10.0.0.9"
