import asyncio
import os
import stat
import threading
from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_log
from proxy.audit.format.policy_snapshots import digest, load_snapshot
from proxy.audit.writing.entry import EntryKind
from proxy.audit.writing.keys import PUBLIC_KEYS, new_signing_key, public_keys
from proxy.audit.writing.rejection_summaries import RejectionSummaries
from proxy.errors import Unavailable
from proxy.model import Reason
from tests.support.audit import (
    ALICE,
    ALLOW,
    DENY,
    EIO,
    ENOSPC,
    EROFS,
    HASH,
    HERE,
    WORKER,
    Clock,
    FailingDisk,
    call,
    one,
    open_journal,
    records,
    stages,
)
from tests.support.wait import until

pytestmark = pytest.mark.usefixtures("path")  # every property on both paths to the disk


async def test_a_receipt_means_the_record_is_on_disk(tmp_path: Path) -> None:
    """When decide returns, the record is written and synced."""
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    before = disk.syncs
    [receipt] = await journal.decide("R1", WORKER, HERE, [(call(), ALLOW)], 42)
    assert receipt is not None and disk.syncs > before
    found = records(tmp_path / "gate")[receipt.seq]
    assert (found["id"], found["stage"], receipt.call_id, receipt.decided_at_ns) == (
        "R1",
        "decided",
        "R1",
        42,
    )
    await journal.close()


async def test_a_denied_call_gets_no_receipt(tmp_path: Path) -> None:
    """A denial is recorded durably, and returns nothing that could be used to forward the call."""
    journal = open_journal(tmp_path)
    assert await journal.decide("R1", ALICE, HERE, [(call("pause", "admin"), DENY)], 0) == [None]
    assert records(tmp_path / "gate")[-1]["decision"] == "deny"
    await journal.close()


async def test_a_batch_is_one_commit_with_ids_of_its_own(tmp_path: Path) -> None:
    """Each call of a multicall has a record, all in one commit, and each allowed one a receipt."""
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    before = disk.syncs
    receipts = await journal.decide(
        "R1", WORKER, HERE, [(call("a"), ALLOW), (call("b"), DENY), (call("c"), ALLOW)], 0
    )
    assert disk.syncs == before + 1
    assert [r and r.call_id for r in receipts] == ["R1.0", None, "R1.2"]
    found = records(tmp_path / "gate")
    assert [(found[r.seq]["method"], r.call_id) for r in receipts if r] == [
        ("a", "R1.0"),
        ("c", "R1.2"),
    ]
    await journal.close()


async def test_many_calls_share_commits(tmp_path: Path) -> None:
    """Calls that wait at the same time share an fdatasync, and each has its own record."""
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    before = disk.syncs
    await asyncio.gather(*(one(journal, n) for n in range(200)))
    assert disk.syncs - before < 10
    await journal.close()
    found = records(tmp_path / "gate")
    decided = {r["seq"]: r["id"] for r in found if r["stage"] == "decided"}
    assert {
        r["decided_seq"]: r["id"] for r in found if r["stage"] == "completed"
    } == decided and len(decided) == 200


async def test_files_are_private(tmp_path: Path) -> None:
    """Segments and keys are 0600 and directories 0700 under any umask."""
    old = os.umask(0)
    try:
        journal = open_journal(tmp_path / "audit")
        await journal.close()
    finally:
        os.umask(old)
    for path in (tmp_path / "audit").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(
    ("write", "sync"), [(ENOSPC, 0), (EROFS, 0), (EIO, 0), (0, EIO), (0, ENOSPC)]
)
@pytest.mark.parametrize("short", [0, 50])
async def test_a_failing_disk_refuses_and_then_resumes(
    tmp_path: Path, write: int, sync: int, short: int
) -> None:
    """While write or fdatasync fails, calls get 503 and no receipt; afterwards a gap record
    explains it.

    The bytes of the failed batch are removed; outcomes of calls already forwarded are written.
    """
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    [under_way] = await journal.decide("before", WORKER, HERE, [(call(), ALLOW)], 0)
    assert under_way is not None
    disk.fail_write, disk.fail_sync, disk.short = write, sync, short
    journal.completed(under_way, outcome="ok", status=200, sent=1, duration_us=1)
    for n in range(3):
        with pytest.raises(Unavailable) as caught:
            await journal.decide(f"during-{n}", WORKER, HERE, [(call(), ALLOW)], 0)
        assert (caught.value.reason, caught.value.sent) == (Reason.AUDIT_UNWRITABLE, False)
        assert caught.value.retry_after
    assert not journal.writable and journal.failure
    disk.fail_write = disk.fail_sync = disk.short = 0
    await until(lambda: journal.writable)
    await one(journal, 1)
    await journal.close()
    found = records(tmp_path / "gate")
    assert [r["seq"] for r in found] == list(range(len(found)))
    assert not [r for r in found if r.get("id", "").startswith("during")]
    assert [r["id"] for r in found if r["stage"] == "completed"] == ["before", "call-1"]
    [gap] = [r for r in found if r["stage"] == "gap"]
    assert gap["refused"] == 3 and "Error" in gap["error"] and gap["since"] <= gap["time"]
    assert stages(tmp_path / "gate").count("segment") == 2


async def test_callers_of_the_next_batch_are_refused_at_once(tmp_path: Path) -> None:
    """If a checkpoint fails between two batches, the waiters of the next are refused.

    Entries without a waiter are written later.
    """
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    [under_way] = await journal.decide("before", WORKER, HERE, [(call(), ALLOW)], 0)
    assert under_way is not None
    gathered = asyncio.create_task(journal.decide("gathered", WORKER, HERE, [(call(), ALLOW)], 0))
    await asyncio.sleep(0)  # it waits for the end of the loop's turn
    disk.fail_write = EIO
    journal.completed(under_way, outcome="ok", status=200, sent=1, duration_us=1)
    journal._writer._fail(OSError(EIO, "made to fail"))
    journal._writer._queue.put("wake")
    with pytest.raises(Unavailable):
        await asyncio.wait_for(gathered, 30)
    assert not journal.writable
    disk.fail_write = 0
    await until(lambda: journal.writable)
    await journal.close()
    assert [(r["stage"], r["id"]) for r in records(tmp_path / "gate") if "id" in r] == [
        ("decided", "before"),
        ("completed", "before"),
    ]


@pytest.mark.interpreted
async def test_a_call_refused_before_the_first_record_is_counted(tmp_path: Path) -> None:
    """A call that arrives while the gap record is being written is counted in another."""
    journal = open_journal(tmp_path)
    appender = journal._writer._appender
    under_way, proceed = threading.Event(), threading.Event()
    resume = appender.resume_in_new_segment

    def slowly(since: int, now: int, error: str, refused: int) -> None:
        under_way.set()
        proceed.wait(60)
        resume(since, now, error, refused)

    appender.resume_in_new_segment = slowly  # type: ignore[method-assign]  # a fault: a disk that takes its time
    journal._writer._fail(OSError(EIO, "made to fail"))
    journal._writer._queue.put("wake")
    await until(under_way.is_set)
    with pytest.raises(Unavailable):
        await journal.decide("early", WORKER, HERE, [(call(), ALLOW)], 0)
    proceed.set()
    await until(lambda: journal.writable)
    await journal.close()
    assert sum(r["refused"] for r in records(tmp_path / "gate") if r["stage"] == "gap") == 1


async def test_a_cancelled_call_is_closed(tmp_path: Path) -> None:
    """A caller that is cancelled while its decision is written leaves no open call, and affects no
    other caller.
    """
    journal = open_journal(tmp_path)
    tasks = [asyncio.ensure_future(one(journal, n)) for n in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(r) for r in results] == [type(None), asyncio.CancelledError, type(None)]
    await journal.close()
    closed = {
        r["id"]: (r["outcome"], r.get("reason"))
        for r in records(tmp_path / "gate")
        if r["stage"] == "completed"
    }
    assert closed == {
        "call-0": ("ok", None),
        "call-1": ("failed", "client-gone"),
        "call-2": ("ok", None),
    }


async def test_a_clock_that_goes_back_does_not_disorder_the_log(tmp_path: Path) -> None:
    """Times never decrease; a step back is recorded once, with its size."""
    clock = Clock()
    journal = open_journal(tmp_path, clock=clock)
    await one(journal, 1)
    clock.now -= 3600 * 10**9
    for n in range(2, 5):
        await one(journal, n)
    clock.now += 7200 * 10**9
    await one(journal, 5)
    await journal.close()
    found = records(tmp_path / "gate")
    assert [r["time"] for r in found] == sorted(r["time"] for r in found)
    [step] = [r for r in found if r["stage"] == "clock"]
    assert 3_590_000_000 < step["behind_us"] <= 3_600_000_000


async def test_floods_are_summed_up(tmp_path: Path) -> None:
    """A flood of rejections is ten records and a summary of the rest; closing loses none."""
    journal = open_journal(tmp_path, rejections=RejectionSummaries(each=10))
    for n in range(422):
        journal.rejected(f"R{n}", HERE, Reason.NO_CREDENTIAL)
    await journal.close()
    found = [r for r in records(tmp_path / "gate") if r["stage"] == "rejected"]
    assert len(found) == 11 and found[-1]["summary"]["count"] == 412


async def test_rejections_of_a_principal_are_summed_up_beyond_their_rate(tmp_path: Path) -> None:
    """Sixty have their own record, whatever the limit of an address; closing loses none."""
    journal = open_journal(tmp_path, rejections=RejectionSummaries(each=10))
    for n in range(100):
        journal.rejected(f"R{n}", HERE, Reason.MALFORMED_CALL, principal=ALICE, upstream="luigi")
    await journal.close()
    found = [r for r in records(tmp_path / "gate") if r["stage"] == "rejected"]
    assert [r["id"] for r in found[:-1]] == [f"R{n}" for n in range(60)]
    assert (found[-1]["principal"]["subject"], found[-1]["summary"]["count"]) == ("alice", 40)


@pytest.mark.exhaustive
async def test_denials_do_not_fill_the_disk(tmp_path: Path) -> None:
    """Two thousand denied calls with large arguments take less than 150 kB. One record each, which
    a rate beyond them still gives, takes more than twenty times as much. The log is intact, and
    none is lost from the counts.
    """
    sizes = {}
    for name, settings in (("gate", {}), ("before", {"denials_per_minute": 1_000_000})):
        journal = open_journal(tmp_path, name, **settings)
        for n in range(2000):
            denied = call("pause", "admin", text="x" * 900)
            assert await journal.decide(f"R{n}", ALICE, HERE, [(denied, DENY)], 0) == [None]
        await one(journal, 1)
        await journal.close()
        sizes[name] = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
    assert sizes["gate"] < 150_000 < 20 * sizes["gate"] < sizes["before"]
    found = [r for r in records(tmp_path / "gate") if r.get("decision") == "deny"]
    assert len(found) == 61 and found[-1]["summary"]["count"] == 2000 - 60
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and report.open == 0


async def test_a_batch_with_counted_denials_gives_the_right_receipts(tmp_path: Path) -> None:
    """A denied call without a record leaves the receipts of the others at their own records."""
    journal = open_journal(tmp_path, denials_per_minute=1)
    mixed = [(call("pause", "admin"), DENY), (call(), ALLOW)] * 3 + [(call(), DENY)]
    receipts = await journal.decide("B", ALICE, HERE, mixed, 0)
    assert [receipt is not None for receipt in receipts] == [False, True] * 3 + [False]
    by_seq = {r["seq"]: r for r in records(tmp_path / "gate")}
    for number, receipt in enumerate(receipts):
        if receipt is not None:
            assert by_seq[receipt.seq]["id"] == receipt.call_id == f"B.{number}"
            journal.completed(receipt, outcome="ok", status=200, sent=1, duration_us=1)
    await journal.close()
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and report.unknown == 0


async def test_closing_closes_open_calls_and_ends_the_log(tmp_path: Path) -> None:
    """A clean end leaves no call open and is recorded; nothing can be decided afterwards."""
    journal = open_journal(tmp_path)
    await journal.decide("open", WORKER, HERE, [(call(), ALLOW)], 0)
    await journal.close()
    await journal.close()
    found = records(tmp_path / "gate")
    assert [(r["stage"], r.get("outcome")) for r in found[-2:]] == [
        ("completed", "unknown"),
        ("closed", None),
    ]
    with pytest.raises(Unavailable):
        await journal.decide("late", WORKER, HERE, [(call(), ALLOW)], 0)


@pytest.mark.parametrize("heartbeat", [None, "w"])
@pytest.mark.parametrize("turns", range(8))
async def test_a_call_that_ends_while_the_log_does_is_closed_once(
    tmp_path: Path, turns: int, heartbeat: str | None
) -> None:
    """At whatever moment the response arrives, a call has one outcome and nothing follows
    ``closed``.
    """
    journal = open_journal(tmp_path)
    [receipt] = await journal.decide("R1", WORKER, HERE, [(call("ping"), ALLOW)], 0, heartbeat)
    assert receipt is not None
    closing = asyncio.create_task(journal.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    journal.completed(receipt, outcome="ok", status=200, sent=1, duration_us=1)
    journal.rejected("R2", HERE, Reason.BAD_REQUEST)
    await closing
    journal.completed(receipt, outcome="ok", status=200, sent=1, duration_us=1)
    found = records(tmp_path / "gate")
    assert [r["decided_seq"] for r in found if r["stage"] == "completed"] == [receipt.seq]
    assert found[-1]["stage"] == "closed"
    assert verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS)).broken is None


async def test_a_log_that_ends_on_a_full_disk_closes_no_call_twice(tmp_path: Path) -> None:
    """Outcomes that a full disk kept back are written once; the end of the log adds only the
    others.
    """
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    first, second = [
        (await journal.decide(name, WORKER, HERE, [(call(), ALLOW)], 0))[0] for name in ("R1", "R2")
    ]
    assert first is not None and second is not None
    disk.fail_write = ENOSPC
    journal.completed(first, outcome="ok", status=200, sent=1, duration_us=1)
    with pytest.raises(Unavailable):
        await journal.decide("R3", WORKER, HERE, [(call(), ALLOW)], 0)
    await journal.close()
    ends = [entry.seq for entry in journal._commits.entries if entry.kind == EntryKind.CLOSES]
    assert ends == [first.seq, second.seq]


async def test_policy_sets_are_recorded_when_they_come_into_force(tmp_path: Path) -> None:
    """A record has the policy set that decides from there on."""
    journal = open_journal(tmp_path)
    journal.policy_in_force(HASH, {"roles.toml": "x", "base.cedar": "y"})
    await journal.close()
    [found] = [r for r in records(tmp_path / "gate") if r["stage"] == "policy"]
    assert load_snapshot(tmp_path, HASH) == {"roles.toml": "x", "base.cedar": "y"}
    assert found["texts_sha256"] == digest({"base.cedar": "y", "roles.toml": "x"})
    assert (found["hash"], found["files"]) == (HASH, ["base.cedar", "roles.toml"])


async def test_a_log_keeps_its_name(tmp_path: Path) -> None:
    """A log keeps the origin name that it began with, also under settings with another prefix."""
    await open_journal(tmp_path, origin_prefix="callgate.example/one").close()
    await open_journal(tmp_path, origin_prefix="callgate.example/two").close()
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and report.origin == "callgate.example/one/gate"


async def test_a_new_signing_key_takes_over(tmp_path: Path) -> None:
    """With a new key the log continues; it verifies with both public keys, and not with the new one
    alone.
    """
    await open_journal(tmp_path).close()
    await open_journal(tmp_path, signing_key=new_signing_key()).close()
    keys = public_keys(tmp_path / PUBLIC_KEYS)
    assert len(keys) == 2 and verify_log(tmp_path / "gate", keys).broken is None
    assert verify_log(tmp_path / "gate", keys[1:]).broken is not None


async def test_made_up_worker_ids_open_a_bounded_number_of_windows(tmp_path: Path) -> None:
    """Beyond it a heartbeat has records of its own, and the log is whole."""
    journal = open_journal(tmp_path)
    journal._windows.limit = 2
    for number in range(5):
        heartbeat = [(call("ping"), ALLOW)]
        [receipt] = await journal.decide(f"R{number}", WORKER, HERE, heartbeat, 0, f"w{number}")
        assert receipt is not None
        journal.completed(receipt, outcome="ok", status=200, sent=2, duration_us=1)
    assert len(journal._windows) == 2
    await journal.close()
    found = records(tmp_path / "gate")
    assert sum(each["stage"] == "completed" for each in found) == 5
    assert sum("window" in each for each in found if each["stage"] == "decided") == 2
