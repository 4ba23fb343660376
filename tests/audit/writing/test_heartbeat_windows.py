from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_log
from proxy.audit.writing.heartbeat_windows import (
    WINDOW_SECONDS,
    HeartbeatWindows,
    Window,
    decision_fingerprint,
    window_key,
    worst_outcome,
)
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.model import Decision, Peer, Principal, Reason, Receipt
from tests.support.audit import ALICE, ALLOW, DENY, HASH, HERE, WORKER, call, open_journal, records

PING = call("ping", "work", worker="w1")
KEY = window_key(WORKER, "w1", PING, HERE)
STANDING = decision_fingerprint(WORKER, ALLOW)


def opened(sequence: int = 5, ends: float = 60.0) -> Window:
    """Return a window with its first call in flight."""
    return Window(KEY, "R1", sequence, STANDING, ends, 1000, 1000)


def test_equal_calls_join_until_the_end() -> None:
    """Equal calls join an open window for at most a minute, and none afterwards."""
    windows = HeartbeatWindows()
    windows.open(opened())
    assert windows.join(KEY, STANDING, 59.9, 2000) is not None
    assert windows.join(KEY, STANDING, 60.0, 3000) is None
    assert WINDOW_SECONDS <= 60


@pytest.mark.parametrize(
    "standing",
    [
        decision_fingerprint(WORKER, DENY),
        decision_fingerprint(WORKER, Decision("allow", Reason.ALLOWED, ("other",), HASH)),
        decision_fingerprint(
            WORKER, Decision("allow", Reason.ALLOWED, ALLOW.policies, "sha256:cd")
        ),
        decision_fingerprint(
            Principal(WORKER.issuer, WORKER.issuer_name, WORKER.subject, ("other",)), ALLOW
        ),
    ],
)
def test_a_different_decision_ends_it_at_once(standing: tuple[object, ...]) -> None:
    """A denial, another policy, another policy set or other roles end the window: no call joins the
    old decision.
    """
    windows = HeartbeatWindows()
    windows.open(opened())
    assert (
        windows.join(KEY, standing, 1.0, 2000) is None
        and windows.join(KEY, STANDING, 1.0, 2000) is None
    )


def test_the_key_of_a_window() -> None:
    """Another principal, worker, method, upstream or address has a window of its own."""
    other = Peer("10.0.0.8", 1, None, "")
    keys = [
        KEY,
        window_key(ALICE, "w1", PING, HERE),
        window_key(WORKER, "w2", PING, HERE),
        window_key(WORKER, "w1", call("x"), HERE),
        window_key(WORKER, "w1", replace(PING, upstream="b"), HERE),
        window_key(WORKER, "w1", PING, other),
    ]
    assert len(set(keys)) == len(keys)


def test_every_call_is_counted() -> None:
    """A window expires when its last call is completed, with all outcomes."""
    windows = HeartbeatWindows()
    windows.open(opened())
    windows.join(KEY, STANDING, 1.0, 2000)
    assert windows.completed(5, "ok") and not windows.completed(6, "ok")
    assert windows.expired(61.0) == [] and len(windows) == 1
    windows.completed(5, "upstream-timeout")
    [window] = windows.expired(61.0)
    assert (window.calls, window.first, window.last, window.outcomes) == (
        2,
        1000,
        2000,
        {"ok": 1, "upstream-timeout": 1},
    )
    assert not windows


def test_forced_expiry_counts_calls_in_flight_as_unknown() -> None:
    """Closing the log expires every window; calls in flight count as unknown."""
    windows = HeartbeatWindows()
    windows.open(opened())
    [window] = windows.expired(0.0, force=True)
    assert window.outcomes == {"unknown": 1}


def test_two_opened_at_once() -> None:
    """Of two windows opened for one key at the same time the first ends, and both are recorded."""
    windows = HeartbeatWindows()
    windows.open(opened(5))
    windows.open(opened(6))
    for sequence in (5, 6):
        windows.completed(sequence, "ok")
    assert [w.seq for w in windows.expired(1.0)] == [5] and [
        w.seq for w in windows.expired(60.0)
    ] == [6]


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        ({"ok": 5}, "ok"),
        ({"ok": 5, "fault": 1}, "fault"),
        ({"fault": 1, "upstream-timeout": 1}, "failed"),
        ({"ok": 1, "unknown": 1}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_outcome_of_a_window_is_the_worst(outcomes: dict[str, int], whole: str) -> None:
    """A window's outcome is its worst call's."""
    assert worst_outcome(Counter(outcomes)) == whole


async def ping(journal: Journal, number: int, decision: Decision = ALLOW) -> Receipt | None:
    """Send one heartbeat and complete it."""
    [receipt] = await journal.decide(
        f"ping-{number}", WORKER, HERE, [(PING, decision)], number, "w1"
    )
    if receipt is not None:
        journal.completed(receipt, outcome="ok", status=200, sent=1, duration_us=1)
    return receipt


async def test_a_minute_of_pings_is_two_records(tmp_path: Path) -> None:
    """Sixty pings are one decided and one completed record that counts them all, and the log
    verifies.
    """
    journal = open_journal(tmp_path)
    commits = journal.commits
    receipts = [await ping(journal, n) for n in range(60)]
    assert journal.commits == commits + 1
    assert {r and (r.call_id, r.seq) for r in receipts} == {
        ("ping-0", receipts[0] and receipts[0].seq)
    }
    assert [r and r.decided_at_ns for r in receipts] == list(range(60))
    await journal.close()
    found = [r for r in records(tmp_path / "gate") if r["stage"] in ("decided", "completed")]
    assert [(r["stage"], r["id"]) for r in found] == [
        ("decided", "ping-0"),
        ("completed", "ping-0"),
    ]
    assert found[0]["window"] == {"seconds": 60.0, "worker": "w1"}
    assert (found[1]["outcome"], found[1]["window"]["calls"], found[1]["window"]["outcomes"]) == (
        "ok",
        60,
        {"ok": 60},
    )
    assert found[1]["window"]["first"] <= found[1]["window"]["last"]
    assert verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS)).broken is None


async def test_a_denied_ping_is_written_and_ends_the_window(tmp_path: Path) -> None:
    """A denial is a record of its own, and the next allowed ping opens another window."""
    journal = open_journal(tmp_path)
    for number, decision in enumerate((ALLOW, ALLOW, DENY, DENY, ALLOW, ALLOW)):
        await ping(journal, number, decision)
    await journal.close()
    found = records(tmp_path / "gate")
    assert [(r["id"], r["decision"]) for r in found if r["stage"] == "decided"] == [
        ("ping-0", "allow"),
        ("ping-2", "deny"),
        ("ping-3", "deny"),
        ("ping-4", "allow"),
    ]
    assert [r["window"]["calls"] for r in found if r["stage"] == "completed"] == [2, 2]
