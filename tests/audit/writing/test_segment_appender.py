import os
from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_log
from proxy.audit.format.merkle import Tree, leaf_hash
from proxy.audit.format.policy_snapshots import digest
from proxy.audit.writing.disk import Disk
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.errors import Unavailable
from tests.support.audit import (
    ALLOW,
    EIO,
    HASH,
    HERE,
    WORKER,
    Clock,
    FailingDisk,
    call,
    one,
    open_journal,
    raw_lines,
    records,
    stages,
)
from tests.support.wait import until

pytestmark = pytest.mark.usefixtures("path")  # every property on both paths to the disk


async def test_every_line_is_a_leaf_and_names_the_one_before(tmp_path: Path) -> None:
    """Sequence numbers have no gap, `prev` is the leaf hash of the previous line, and a header has
    the root.
    """
    journal = open_journal(tmp_path, segment_bytes=3000)
    for n in range(30):
        await one(journal, n)
    await journal.close()
    tree, prev = Tree(), "0" * 16
    lines = raw_lines(tmp_path / "gate")
    for seq, (text, record) in enumerate(zip(lines, records(tmp_path / "gate"), strict=True)):
        assert (record["seq"], record["prev"]) == (seq, prev)
        if record["stage"] == "segment":
            assert (record["tree"]["size"], record["tree"]["root"]) == (seq, tree.root().hex())
        leaf = leaf_hash(text)
        tree.append(leaf)
        prev = leaf.hex()[:16]
    assert stages(tmp_path / "gate").count("segment") > 3


async def test_a_failed_sync_is_never_repeated(tmp_path: Path) -> None:
    """After a failed fdatasync the bytes are cut off and written anew: a later success proves
    nothing about them.
    """
    calls: list[str] = []
    fail = [False]

    def write(fd: int, data: bytes | memoryview) -> int:
        calls.append(f"write {Path(f'/proc/self/fd/{fd}').readlink().name}")
        return os.write(fd, data)

    def sync(fd: int) -> None:
        if fail[0]:
            fail[0] = False
            calls.append("failed")
            raise OSError(EIO, "made to fail")
        os.fdatasync(fd)

    journal = open_journal(tmp_path, disk=Disk(write, sync))
    fail[0] = True
    with pytest.raises(Unavailable):
        await journal.decide("lost", WORKER, HERE, [(call(), ALLOW)], 0)
    await until(lambda: journal.writable)
    await one(journal, 1)
    await journal.close()
    after = calls[calls.index("failed") + 1 :]
    assert after and all("00000002.jsonl" in name or "checkpoints" in name for name in after)
    assert b'"lost"' not in b"".join(raw_lines(tmp_path / "gate"))


async def test_a_segment_that_reads_back_wrong_keeps_the_log_failed(tmp_path: Path) -> None:
    """If acknowledged records cannot be read back after a failure, the log does not resume."""
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    await one(journal, 1)
    await until(lambda: journal.size >= 4)
    disk.fail_sync = EIO
    with pytest.raises(Unavailable):
        await journal.decide("x", WORKER, HERE, [(call(), ALLOW)], 0)
    segment = tmp_path / "gate" / "00000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b"call-1", b"call-2"))
    disk.fail_sync = 0
    await until(lambda: "read back" in (journal.failure or ""))
    assert not journal.writable
    await journal.close()


async def test_a_new_day_is_a_new_segment(tmp_path: Path) -> None:
    """A segment ends with the UTC day."""
    clock = Clock()
    journal = open_journal(tmp_path, clock=clock)
    await one(journal, 1)
    clock.now += 24 * 3600 * 10**9
    await one(journal, 2)
    await journal.close()
    assert stages(tmp_path / "gate").count("segment") == 2


async def test_every_segment_names_the_policies_in_force(tmp_path: Path) -> None:
    """A segment's header repeats the policy record, so that it can be read without earlier
    segments.
    """
    clock = Clock()
    journal = open_journal(tmp_path, clock=clock)
    journal.policy_in_force(HASH, {"base.cedar": "y"})
    await one(journal, 1)
    clock.now += 24 * 3600 * 10**9
    await one(journal, 2)
    await journal.close()
    first, second = (r for r in records(tmp_path / "gate") if r["stage"] == "segment")
    assert "policy" not in first and second["policy"] == {
        "hash": HASH,
        "files": ["base.cedar"],
        "texts_sha256": digest({"base.cedar": "y"}),
    }
    assert verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS)).broken is None
