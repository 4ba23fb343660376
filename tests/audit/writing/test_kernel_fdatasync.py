import asyncio
import errno
import os
import platform
import select
from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_log
from proxy.audit.writing.disk import Disk
from proxy.audit.writing.kernel_fdatasync import REAL_DISK, KernelFlusher, open_kernel_flusher
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.errors import Unavailable
from tests.support.audit import (
    ENOSPC,
    FailingDisk,
    FailingFlusher,
    one,
    open_journal,
    records,
    stages,
)
from tests.support.wait import until


def test_the_kernel_flushes_and_signals_it(tmp_path: Path) -> None:
    """A flush makes the descriptor readable; after its result is taken, the next can start."""
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_WRONLY)
    flusher = open_kernel_flusher(fd)
    assert flusher is not None, "this kernel has asynchronous fdatasync"
    for _ in range(3):
        os.write(fd, b"x")
        flusher.start(fd)
        assert select.select([flusher.fileno()], [], [], 30)[0]
        flusher.finish()
        with pytest.raises(BlockingIOError):
            flusher.finish()  # nothing more was done
    flusher.close()
    os.close(fd)


def test_an_error_of_the_flush_is_that_of_fdatasync(tmp_path: Path) -> None:
    """A pipe and a closed descriptor fail with the errno of fdatasync."""
    flusher = KernelFlusher()
    read, write = os.pipe()
    with pytest.raises(OSError, match="Invalid argument"):
        flusher.start(write)
    os.close(read)
    os.close(write)
    with pytest.raises(OSError) as caught:
        flusher.start(write)
    assert caught.value.errno == errno.EBADF
    flusher.close()


@pytest.mark.parametrize("machine", ["riscv64", ""])
def test_where_the_kernel_cannot_the_thread_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    """Without the system calls (another machine, a filter) there is no flusher, and the thread
    writes.
    """
    monkeypatch.setattr(platform, "machine", lambda: machine)
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_WRONLY)
    assert open_kernel_flusher(fd) is None
    os.close(fd)

    async def write() -> None:
        journal = open_journal(tmp_path, disk=REAL_DISK)
        await asyncio.gather(*(one(journal, n) for n in range(20)))
        await journal.close()

    asyncio.run(write())
    assert stages(tmp_path / "gate").count("completed") == 20


def test_a_flusher_that_fails_when_tried_is_not_used(tmp_path: Path) -> None:
    """A flusher that cannot flush the log's file is dropped before a call depends on it."""
    read, write = os.pipe()
    assert open_kernel_flusher(write) is None
    os.close(read)
    os.close(write)


async def test_both_paths_write_the_same_log(tmp_path: Path) -> None:
    """Batches of the event loop and of the thread alternate in one log that verifies, rotations
    included.
    """
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk, segment_bytes=3000)
    await asyncio.gather(*(one(journal, n) for n in range(60)))
    for n in range(60, 100):
        await one(journal, n)
    disk.fail_sync = ENOSPC
    with pytest.raises(Exception, match="cannot be written"):
        await one(journal, 100)
    disk.fail_sync = 0
    await until(lambda: journal.writable)
    for n in range(101, 120):
        await one(journal, n)
    await journal.close()
    found = records(tmp_path / "gate")
    assert {r["id"] for r in found if r["stage"] == "completed"} == {
        f"call-{n}" for n in range(120) if n != 100
    }
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and report.gaps == 1 and report.unsigned == 0 and report.open == 0


async def test_no_thread_takes_part_in_an_ordinary_batch(tmp_path: Path) -> None:
    """Where the kernel flushes, a batch takes the event loop's path and fdatasync is not called."""
    syncs: list[int] = []

    def fdatasync(fd: int) -> None:
        syncs.append(fd)
        os.fdatasync(fd)

    journal = open_journal(tmp_path, disk=Disk(fdatasync=fdatasync, flusher=open_kernel_flusher))
    before, commits = len(syncs), journal.commits
    for n in range(5):
        await one(journal, n)
    assert journal.commits == commits + 5
    assert len(syncs) - before <= 2  # a checkpoint, perhaps
    await journal.close()


@pytest.mark.parametrize("kept", [True, False])
async def test_a_kernel_that_takes_no_more_flushes_costs_one_batch(
    tmp_path: Path, kept: bool
) -> None:
    """If starting a flush fails, that batch is refused and reported, and the thread writes all
    later ones.
    """

    class Tired(FailingFlusher):
        def start(self, fd: int) -> None:
            if tired:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            super().start(fd)

    tired = False
    journal = open_journal(tmp_path, disk=Disk(flusher=lambda _fd: Tired(os.fdatasync)))
    await one(journal, 0)
    tired = True
    with pytest.raises(Unavailable):
        await one(journal, 1)
    await until(lambda: journal.writable)
    tired = kept
    for n in range(2, 12):
        await one(journal, n)
    await journal.close()
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and report.gaps == 1 and report.open == 0
    assert stages(tmp_path / "gate").count("decided") == 11


async def test_a_log_can_be_closed_on_a_disk_that_is_full_by_then(
    tmp_path: Path, path: str
) -> None:
    """The last batch fails, the journal ends all the same, and the next start closes the open
    calls.
    """
    disk = FailingDisk()
    journal = open_journal(tmp_path, disk=disk.disk)
    await one(journal, 1)
    disk.fail_write = ENOSPC
    async with asyncio.timeout(30):
        await journal.close()
    disk.fail_write = 0
    await open_journal(tmp_path).close()
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and report.open == 0
