import os
from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_log
from proxy.audit.format.checkpoint import parse, split
from proxy.audit.reading.reader import read_log
from proxy.audit.reading.records import members_of
from proxy.audit.writing.disk import Disk
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.audit.writing.writer import Timing
from proxy.errors import Unavailable
from tests.support.audit import (
    ALLOW,
    ENOSPC,
    HERE,
    WORKER,
    FailingDisk,
    call,
    one,
    open_journal,
    stages,
)
from tests.support.wait import until

pytestmark = pytest.mark.usefixtures("path")  # every property on both paths to the disk


def sizes(log: Path) -> list[int]:
    """Return the sizes of the signed trees, in order."""
    return [
        parse(note).size
        for path in sorted(log.glob("*.checkpoints"))
        for note in split(path.read_bytes())
    ]


async def test_a_checkpoint_follows_records_by_itself(tmp_path: Path) -> None:
    """After the interval a checkpoint covers every record, without a further event."""
    journal = open_journal(tmp_path, timing=Timing(checkpoint=0.01))
    await one(journal, 1)
    await until(lambda: journal.size == 4 and sizes(tmp_path / "gate")[-1] == 4)
    await journal.close()


async def test_checkpoints_at_start_rotation_and_end(tmp_path: Path) -> None:
    """A start, the end of a segment and the end of the log have a checkpoint, at any interval."""
    journal = open_journal(tmp_path, timing=Timing(checkpoint=1e6), segment_bytes=4000)
    assert sizes(tmp_path / "gate") == [2]
    for n in range(20):
        await one(journal, n)
    await journal.close()
    ends: dict[int, int] = {}
    for item in read_log(tmp_path / "gate"):
        ends[item.after.segment] = members_of(item.raw)["seq"] + 1
    assert len(ends) > 2 and sizes(tmp_path / "gate") == [2, *ends.values()]


async def test_silence_is_on_record(tmp_path: Path) -> None:
    """After the idle time a record has the time of the last one, and a checkpoint covers it."""
    journal = open_journal(tmp_path, timing=Timing(checkpoint=0.01, idle=0.02))
    await until(lambda: stages(tmp_path / "gate").count("idle") >= 3)
    await journal.close()
    idle = [
        members_of(item.raw)
        for item in read_log(tmp_path / "gate")
        if members_of(item.raw)["stage"] == "idle"
    ]
    assert all(record["since"] <= record["time"] for record in idle)
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and report.unsigned == 0


async def test_a_checkpoint_that_cannot_be_written_stops_the_journal(tmp_path: Path) -> None:
    """Unsigned records do not count: the log fails, and resumes when the disk works."""
    failing = [False]

    def write(fd: int, data: bytes | memoryview) -> int:
        if failing[0] and bytes(data[:9]) == b"callgate/":  # a checkpoint, not a record
            raise OSError(ENOSPC, "made to fail")
        return os.write(fd, data)

    journal = open_journal(tmp_path, disk=Disk(write), timing=Timing(checkpoint=0.01, probe=0.01))
    failing[0] = True
    [receipt] = await journal.decide("R1", WORKER, HERE, [(call(), ALLOW)], 0)
    assert receipt is not None
    await until(lambda: not journal.writable)
    failing[0] = False
    await until(lambda: journal.writable)
    journal.completed(receipt, outcome="ok", status=200, sent=0, duration_us=0)
    await journal.close()
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert (
        report.broken is None and report.gaps == 1 and report.unsigned == 0 and report.unknown == 0
    )


async def test_a_disk_that_never_recovers(tmp_path: Path) -> None:
    """The journal refuses every call and can be closed; a restart finds acknowledged records."""
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    await one(journal, 1)
    disk.fail_write = ENOSPC
    for n in range(3):
        try:
            await journal.decide(f"x{n}", WORKER, HERE, [(call(), ALLOW)], 0)
            raise AssertionError("a call went through")
        except Unavailable as error:
            assert error.retry_after
    await journal.close()
    await open_journal(tmp_path).close()
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and report.open == 0


async def test_a_segment_header_has_the_open_calls(tmp_path: Path) -> None:
    """Recovery and a check of one segment need no other segment."""
    journal = open_journal(tmp_path, segment_bytes=2000)
    [receipt] = await journal.decide("long", WORKER, HERE, [(call(), ALLOW)], 0)
    assert receipt is not None
    for n in range(10):
        await one(journal, n)
    headers = [
        members_of(item.raw)
        for item in read_log(tmp_path / "gate")
        if members_of(item.raw)["stage"] == "segment"
    ]
    assert len(headers) > 2 and all(
        [receipt.seq, "long"] in header["open"] for header in headers[1:]
    )
    journal.completed(receipt, outcome="ok", status=200, sent=0, duration_us=0)
    await journal.close()
    assert (
        verify_log(
            tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS), only=headers[-1]["segment"]
        ).broken
        is None
    )
