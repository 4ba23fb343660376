from pathlib import Path

from proxy.audit.checking.verify import verify_directory
from proxy.audit.reading.query import CallRecord, Filter, find_calls
from proxy.audit.reading.reader import read_all
from proxy.audit.reading.records import RecordedPrincipal
from proxy.audit.reporting import controls
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.model import Reason
from tests.support.audit import ALICE, DENY, HERE, call, one, open_journal
from tests.support.audit_records import call_of


def granted(principal: RecordedPrincipal) -> dict[tuple[str, str], list[str]]:
    """Everybody may look at two things and trigger one."""
    return (
        {("luigi", "view"): ["graph", "task_list"], ("luigi", "trigger"): ["forgive_failures"]}
        if principal.roles
        else {}
    )


def decided(
    subject: str,
    method: str,
    permission: str,
    roles: list[str],
    decision: str = "allow",
    time: str = "t",
    protocol: str = "luigi",
) -> CallRecord:
    """One call."""
    principal = {"issuer": "https://i/", "issuer_name": "i", "subject": subject, "roles": roles}
    return call_of(
        {
            "principal": principal,
            "upstream": "luigi",
            "protocol": protocol,
            "permission": permission,
            "method": method,
            "decision": decision,
            "time": time,
        }
    )


def test_unused_rights_come_first() -> None:
    """Rights that were never used lead the list; used ones come with how much, when last, and what
    of them was not used.
    """
    calls = [
        decided("al", "task_list", "view", ["viewer"], time="2026-01-02"),
        decided("al", "task_list", "view", ["viewer"], time="2026-01-01"),
        decided("al", "forgive_failures", "trigger", ["viewer"], "deny"),
        decided("no", "graph", "view", [], "deny"),
    ]
    made = controls.access(
        calls, granted, [("viewer", "i: group v"), ("admin", "i: subject root")], "p", (), ("n",)
    )
    rows = made.sections[0].rows
    assert [row[:7] for row in rows] == [
        ("i|al", "viewer", "luigi", "trigger", "1", "0", "0"),
        ("i|al", "viewer", "luigi", "view", "2", "1", "2"),
    ]
    assert rows[0][7:] == ("never", "forgive_failures") and rows[1][7:] == ("2026-01-02", "graph")
    assert made.sections[1].rows == (
        ("viewer", "i: group v", "1"),
        ("admin", "i: subject root", "0"),
    )


def test_a_right_used_without_being_granted_now_shows() -> None:
    """What somebody did and may no longer do stands in the list, with nothing granted."""
    [row] = [
        r
        for r in controls.access(
            [decided("al", "pause", "admin", ["viewer"])], granted, [], "p", (), ()
        )
        .sections[0]
        .rows
        if r[3] == "admin"
    ]
    assert row[4:7] == ("0", "1", "1")


def test_questions_to_the_gate_are_no_used_rights() -> None:
    """What the gate answers itself is in nobody's catalog: it neither counts as used nor stands
    beside what is granted.
    """
    asked = decided("al", "system.listMethods", "view", ["viewer"], protocol="callgate")
    rows = controls.access([asked], granted, [], "p", (), ()).sections[0].rows
    assert [row[4:7] for row in rows] == [("1", "0", "0"), ("2", "0", "0")]


async def test_disorderly_ends_are_found(tmp_path: Path) -> None:
    """Each process that ended without saying so shows, also if it had nothing in hand; an orderly
    restart does not.
    """
    await open_journal(tmp_path).close()
    await open_journal(tmp_path).close()
    assert controls.disruptions(read_all(tmp_path)) == []
    [found] = controls.disruptions(
        item for item in read_all(tmp_path) if item.record.stage != "closed"
    )
    assert found.record.stage == "opened"
    made = controls.completeness([], [], [found]).sections[1].rows[0]
    assert made[2] == "the process before it did not end in order" and "{" not in "".join(made)


async def test_refusals_are_counted_with_floods(tmp_path: Path) -> None:
    """Denials and rejections by reason, the summed-up ones included, and by whom; allowed calls are
    none.
    """
    journal = open_journal(tmp_path)
    await one(journal, 1)
    for _ in range(2):
        await journal.decide("d", ALICE, HERE, [(call("pause", "admin"), DENY)], 0)
    for n in range(30):
        journal.rejected(f"R{n}", HERE, Reason.NO_CREDENTIAL)
    await journal.close()
    reasons, rows = controls.refusals(find_calls(tmp_path, Filter()), "p", ()).sections
    assert reasons.rows == (("no-credential", "30"), ("no-policy-allows", "2"))
    assert [row[:5] for row in rows.rows] == [
        ("no-credential", "-", "-", "-", "30"),
        ("no-policy-allows", "okta|alice", "luigi", "pause", "2"),
    ]
    assert {row[7] for row in rows.rows} == {"10.0.0.7"}


async def test_refusals_include_summaries_of_principals(tmp_path: Path) -> None:
    """The totals are those of the calls, however few of them have a record of their own; so are
    principal, upstream and method, and the times of the first and the last.
    """
    journal = open_journal(tmp_path)
    for n in range(500):
        await journal.decide(f"d{n}", ALICE, HERE, [(call("pause", "admin"), DENY)], 0)
        journal.rejected(f"R{n}", HERE, Reason.NO_ROLE, principal=ALICE, upstream="luigi")
    await journal.close()
    reasons, rows = controls.refusals(find_calls(tmp_path, Filter()), "p", ()).sections
    assert sorted(reasons.rows) == [("no-policy-allows", "500"), ("no-role", "500")]
    assert sorted(row[:5] for row in rows.rows) == [
        ("no-policy-allows", "okta|alice", "luigi", "pause", "500"),
        ("no-role", "okta|alice", "luigi", "-", "500"),
    ]


async def test_completeness_says_what_was_checked(tmp_path: Path) -> None:
    """Counts, verdict, checkpoint and key stand in it; a broken log is called broken."""
    journal = open_journal(tmp_path)
    await one(journal, 1)
    await journal.close()
    keys = public_keys(tmp_path / PUBLIC_KEYS)
    made = controls.completeness(
        verify_directory(tmp_path, keys),
        keys,
        [i for i in read_all(tmp_path) if i.record.stage == "opened"],
    )
    logs, disturbed, listed = made.sections
    assert (
        logs.rows[0][:2] == ("gate", "intact")
        and len(disturbed.rows) == 1
        and listed.rows[0][0].startswith("callgate+")
    )
    assert made.basis[0].size == 5
    segment = tmp_path / "gate" / "00000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b"etl-07", b"etl-08"))
    assert (
        controls.completeness(verify_directory(tmp_path, keys), keys, [])
        .sections[0]
        .rows[0][1]
        .startswith("broken: record 2")
    )
