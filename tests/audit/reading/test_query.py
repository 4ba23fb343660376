from pathlib import Path

import pytest

from proxy.audit.reading.query import Filter, find_calls
from proxy.model import Call, Peer, Reason
from tests.support.audit import (
    ALICE,
    ALLOW,
    DENY,
    HERE,
    WORKER,
    Clock,
    call,
    one,
    open_journal,
    records,
)

THERE = Peer("10.9.9.9", 7, None, "curl")


@pytest.fixture
async def logs(tmp_path: Path) -> Path:
    """Two logs with calls of every sort."""
    clock = Clock()
    a = open_journal(tmp_path, "a", clock=clock, segment_bytes=2500)
    for n in range(3):
        await one(a, n, lambda: call("add_task", task="etl.Load_1", family="etl.Load"))
    await a.decide(
        "batch",
        ALICE,
        THERE,
        [(call("task_list", "view"), ALLOW), (call("pause", "admin"), DENY)],
        0,
    )
    [receipt] = await a.decide("slow", WORKER, HERE, [(call("get_work"), ALLOW)], 0)
    assert receipt is not None
    a.completed(receipt, outcome="upstream-timeout", status=504, sent=0, duration_us=9)
    b = open_journal(tmp_path, "b", clock=clock)
    await one(b, 7, lambda: Call("processes", "xmlrpc", "supervisor.getState", "view", {}))
    b.rejected("R1", THERE, Reason.NO_CREDENTIAL)
    for n in range(20):
        b.rejected(f"R2{n}", THERE, Reason.BAD_CREDENTIAL)
    await b.close()
    await a.close()
    return tmp_path


def ids(directory: Path, **wanted: str) -> list[str]:
    """The ids of what a filter finds."""
    return [str(c.decided.id) for c in find_calls(directory, Filter(**wanted))]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"principal": "alice"}, {"batch.0", "batch.1"}),
        ({"principal": "okta|alice"}, {"batch.0", "batch.1"}),
        ({"principal": "lice"}, set()),
        ({"principal": "https://idp.example/|alice"}, {"batch.0", "batch.1"}),
        ({"role": "etl-worker", "upstream": "luigi"}, {"call-0", "call-1", "call-2", "slow"}),
        ({"method": "get_work"}, {"slow"}),
        ({"permission": "view"}, {"batch.0", "call-7"}),
        ({"upstream": "processes"}, {"call-7"}),
        ({"decision": "deny"}, {"batch.1"}),
        ({"reason": "upstream-timeout"}, {"slow"}),
        ({"reason": "no-policy-allows"}, {"batch.1"}),
        ({"reason": "no-credential"}, {"R1"}),
        ({"task": "etl.Load"}, {"call-0", "call-1", "call-2"}),
        ({"task": "etl.Load_1"}, {"call-0", "call-1", "call-2"}),
        ({"task": "etl"}, set()),
        ({"address": "10.9.9.9", "decision": "allow"}, {"batch.0"}),
        ({"id": "batch"}, {"batch.0", "batch.1"}),
        ({"id": "batch.1"}, {"batch.1"}),
        ({"method": "none"}, set()),
    ],
)
async def test_filters(logs: Path, wanted: dict[str, str], found: set[str]) -> None:
    """Each condition finds exactly what it names, over all logs; conditions together all hold."""
    assert set(ids(logs, **wanted)) == found


async def test_calls_are_joined_with_their_outcomes(logs: Path) -> None:
    """A call comes with what came of it, whichever segment that stands in."""
    results = {
        str(c.decided.id): (c.result, c.reason)
        for c in find_calls(logs, Filter())
        if c.result != "rejected"
    }
    assert results == {
        "call-0": ("ok", "allowed"),
        "call-1": ("ok", "allowed"),
        "call-2": ("ok", "allowed"),
        "call-7": ("ok", "allowed"),
        "batch.0": ("unknown", "allowed"),
        "batch.1": ("deny", "no-policy-allows"),
        "slow": ("failed", "upstream-timeout"),
    }


async def test_rejections_and_floods_are_found(logs: Path) -> None:
    """Single rejections and the summary of a flood are found by address, and the summary counts for
    all it stands for.
    """
    found = list(find_calls(logs, Filter(decision="reject", address="10.9.9.9")))
    assert sum(c.calls for c in found) == 21 and max(c.calls for c in found) == 11


async def test_a_summary_of_denials_counts_in_parts(tmp_path: Path) -> None:
    """A condition on method, reason, permission or address counts what meets it, and all of them
    add up; each part is told as a call of its own.
    """
    journal = open_journal(tmp_path, denials_per_minute=1)
    for n in range(31):
        method = ("pause", "disable_worker")[n % 3 == 1]
        await journal.decide(
            f"R{n}", ALICE, (HERE, THERE)[n % 2], [(call(method, "admin"), DENY)], 0
        )
        journal.rejected(f"S{n}", HERE, Reason.NO_ROLE, principal=ALICE, upstream="luigi")
    await journal.close()

    def calls(**wanted: str) -> int:
        return sum(c.calls for c in find_calls(tmp_path, Filter(**wanted)))

    assert calls() == 62
    assert calls(decision="deny") == calls(permission="admin") == 31
    assert calls(decision="reject") == calls(reason="no-role") == 31
    assert (calls(method="pause"), calls(method="disable_worker")) == (21, 10)
    assert calls(decision="deny", address="10.9.9.9") == 15
    assert (
        calls(method="pause", address="10.9.9.9") + calls(method="pause", address="10.0.0.7") == 21
    )
    assert calls(principal="alice") == 62 and calls(principal="bob") == 0
    parts = [c for c in find_calls(tmp_path, Filter(decision="deny")) if c.part is not None]
    assert len(parts) == 4
    for each in parts:
        [members] = each.members()
        [part] = members["summary"]["calls"]
        assert each.calls == members["summary"]["count"] == part["count"]
        assert (each.result, each.reason) == ("deny", "no-policy-allows")


async def test_time_limits_cut_exactly(logs: Path) -> None:
    """From a time on, and before a time: at every record's own time, with segments left out that
    cannot matter.
    """
    decided = sorted(
        (str(r["time"]), str(r["id"]))
        for r in [*records(logs / "a"), *records(logs / "b")]
        if r["stage"] == "decided"
    )
    for at, _ in decided:
        assert {i for i in ids(logs, since=at) if not i.startswith("R") and i != "None"} == {
            i for t, i in decided if t >= at
        }
        assert {i for i in ids(logs, until=at) if not i.startswith("R") and i != "None"} == {
            i for t, i in decided if t < at
        }


async def test_a_call_that_is_open_is_found(tmp_path: Path) -> None:
    """A call not completed yet is given too, as open."""
    journal = open_journal(tmp_path)
    await journal.decide("open", WORKER, HERE, [(call(), ALLOW)], 0)
    assert [c.result for c in find_calls(tmp_path, Filter())] == ["open"]
    await journal.close()
