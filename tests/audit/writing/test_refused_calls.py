"""Refused calls are counted where the count outlives the process."""

import asyncio
import os
from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_log
from proxy.audit.writing.entry import Entry
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.audit.writing.log_instances import instance_names, recover_abandoned
from proxy.audit.writing.refused_calls import (
    FILE,
    NOTHING_UNREPORTED,
    RefusedCalls,
    Unreported,
    encode_gap,
    read_unreported,
)
from proxy.audit.writing.writer import Timing
from proxy.errors import Unavailable
from proxy.model import Reason
from tests.support.audit import (
    ALICE,
    ALLOW,
    DENY,
    ENOSPC,
    HERE,
    WORKER,
    FailingDisk,
    call,
    one,
    open_journal,
    records,
)
from tests.support.wait import until


async def refuse(journal: Journal, count: int) -> None:
    """Have `count` calls refused."""
    for n in range(count):
        with pytest.raises(Unavailable):
            await journal.decide(f"refused-{n}", WORKER, HERE, [(call(), ALLOW)], 0)


def gaps(log: Path) -> list[dict[str, object]]:
    """Return the gap records of a log."""
    return [record for record in records(log) if record["stage"] == "gap"]


def intact(log: Path) -> bool:
    """Verify a log."""
    return verify_log(log, public_keys(log.parent / PUBLIC_KEYS)).broken is None


async def test_a_process_that_ends_while_the_disk_is_full_leaves_its_count(tmp_path: Path) -> None:
    """The next process of the log reports every refused call and every rejection without a record,
    once, after the ends of open calls.
    """
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk, timing=Timing(probe=60))
    await journal.decide("open", WORKER, HERE, [(call(), ALLOW)], 0)
    for n in range(100):  # forty of them are counted, and their summary cannot be written
        await journal.decide(f"denied-{n}", ALICE, HERE, [(call("pause", "admin"), DENY)], 0)
    disk.fail_write = ENOSPC
    await refuse(journal, 30)
    for n in range(7):
        journal.rejected(f"R{n}", HERE, Reason.AUDIT_UNWRITABLE, principal=WORKER)
    await journal.close()
    assert gaps(tmp_path / "gate") == []
    for _ in range(2):
        await open_journal(tmp_path).close()
    [gap] = gaps(tmp_path / "gate")
    assert (gap["refused"], gap["rejected"]) == (30, 47)
    assert "No space left" in str(gap["error"]) or "made to fail" in str(gap["error"])
    assert "2020" < str(gap["since"]) < str(gap["time"])
    assert intact(tmp_path / "gate")


async def test_without_its_file_the_count_is_lost(tmp_path: Path) -> None:
    """What was before: the count ends with the process, and no record speaks of the calls."""
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk, timing=Timing(probe=60))
    disk.fail_write = ENOSPC
    await refuse(journal, 30)
    await journal.close()
    (tmp_path / "gate" / FILE).unlink()
    await open_journal(tmp_path).close()
    assert gaps(tmp_path / "gate") == []
    assert intact(tmp_path / "gate")


async def test_a_killed_process_leaves_its_count(tmp_path: Path) -> None:
    """The file follows within an interval of the probes."""
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    disk.fail_write = ENOSPC
    await refuse(journal, 12)
    await until(lambda: read_unreported(tmp_path / "gate").refused == 12)
    left = {path: path.read_bytes() for path in (tmp_path / "gate").iterdir()}
    disk.fail_write = 0
    await until(lambda: journal.writable)
    await journal.close()
    for path, data in left.items():  # as it was when the process was killed
        path.write_bytes(data)
    for path in (tmp_path / "gate").iterdir():
        if path not in left:
            path.unlink()
    await open_journal(tmp_path).close()
    assert [gap["refused"] for gap in gaps(tmp_path / "gate")] == [12]


async def test_a_log_that_went_on_leaves_nothing(tmp_path: Path) -> None:
    """What a gap record reports is not reported a second time by the next process, not even one
    that follows a kill.
    """
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk, timing=Timing(probe=0.01, checkpoint=0.05))
    for _ in range(3):
        disk.fail_write = ENOSPC
        await refuse(journal, 5)
        await asyncio.sleep(0.03)
        disk.fail_write = 0
        await until(lambda: journal.writable)
    await one(journal, 1)
    await until(lambda: read_unreported(tmp_path / "gate") == NOTHING_UNREPORTED)
    await journal.close()
    await open_journal(tmp_path).close()
    assert sum(int(str(gap["refused"])) for gap in gaps(tmp_path / "gate")) == 15


async def test_calls_that_come_after_the_end_are_counted(tmp_path: Path) -> None:
    """A log that has been closed refuses; the next process reports that."""
    journal = open_journal(tmp_path)
    await one(journal, 1)
    await journal.close()
    await refuse(journal, 3)
    await open_journal(tmp_path).close()
    [gap] = gaps(tmp_path / "gate")
    assert (gap["refused"], gap["error"]) == (3, "refused while the process ended")


async def test_a_gap_that_could_not_be_written_is_reported_later(tmp_path: Path) -> None:
    """Refused calls whose own gap record is lost with the process count as not reported."""
    counters = RefusedCalls(tmp_path)
    counters.open()
    counters.refused = counters.reported = 9
    counters.take_back(
        [
            Entry(0, encode_gap("", "x", 4)),
            Entry(0, b'"stage":"rejected","id":"R"}'),
            Entry(0, b'"stage":"rejected","summary":{"count":5}}'),
            Entry(0, b'"stage":"decided","decision":"deny","summary":{"count":6}}'),
            Entry(0, b'"stage":"completed","id":"R"}'),
        ]
    )
    counters.save(7, "é" * 1000)
    assert read_unreported(tmp_path) == Unreported(4, 12, 7, "?" * 200)


def test_recovery_reports_the_count_of_a_log_that_ended_in_order(tmp_path: Path) -> None:
    """A log of another name that no process opens again is opened for its count."""

    async def leave() -> None:
        journal = open_journal(tmp_path, "gate-2")
        await journal.close()
        await refuse(journal, 3)

    asyncio.run(leave())
    names = instance_names("gate", 1)
    for _ in range(2):
        recover_abandoned(tmp_path, names, lambda name: open_journal(tmp_path, name))
    assert [gap["refused"] for gap in gaps(tmp_path / "gate-2")] == [3]
    assert intact(tmp_path / "gate-2")


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 512, b"[]", b'{"refused":"x"}', b'{"refused":1e400}', os.urandom(512)],
)
def test_a_damaged_file_counts_for_nothing_and_is_made_anew(tmp_path: Path, data: bytes) -> None:
    """It is no evidence: the log opens."""
    (tmp_path / FILE).write_bytes(data)
    counters = RefusedCalls(tmp_path)
    assert counters.open() == NOTHING_UNREPORTED
    counters.refused = 1
    counters.save(0, "full")
    assert read_unreported(tmp_path) == Unreported(1, 0, 0, "full")


def test_the_file_is_written_in_place(tmp_path: Path) -> None:
    """It has one size from the beginning, so that a full disk takes it; a link is not followed."""
    counters = RefusedCalls(tmp_path)
    counters.open()
    before = (tmp_path / FILE).stat()
    assert before.st_blocks > 0
    for n in range(1, 200):
        counters.refused = n * 10**15
        counters.save(n, "x" * n)
    after = (tmp_path / FILE).stat()
    assert (after.st_ino, after.st_size, after.st_blocks) == (
        before.st_ino,
        before.st_size,
        before.st_blocks,
    )
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    counters.refused += 1
    counters.save(0, "")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(OSError):
        RefusedCalls(tmp_path).open()
