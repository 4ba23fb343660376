"""The laws of the log under real kills and a really full file system, with several processes at
once.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_directory
from proxy.audit.format.layout import logs
from proxy.audit.reading.reader import read_log
from proxy.audit.reading.records import members_of
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.errors import Unavailable
from tests.support.audit import ALLOW, HERE, WORKER, call, one, open_journal, records
from tests.support.paths import ROOT

pytestmark = pytest.mark.process  # starts the command, or another program

KILLS = 50


def start(directory: Path, name: str, count: int = 0) -> "subprocess.Popen[bytes]":
    """Start a process that records calls."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("child.py")),
        str(directory),
        name,
        str(count),
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_every_forwarded_call_is_decided_after_every_kill(tmp_path: Path) -> None:
    """kill -9 at random moments, fifty times, two processes at once: each forwarded call has a
    decided record on disk.

    Each restart closes the open calls, and at the end both logs are intact.
    """
    chance = random.Random(20260101)
    sent: dict[str, set[str]] = {"a": set(), "b": set()}
    for _ in range(KILLS // 2):
        running = {name: start(tmp_path, name) for name in sent}
        for process in running.values():
            assert process.stdout is not None
            process.stdout.readline()  # it records now; kill it some calls later
        for process in running.values():
            assert process.stdout is not None
            for _ in range(chance.randrange(60)):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        for name, process in running.items():
            out, _ = process.communicate()
            sent[name] |= {line.decode() for line in out.split(b"\n")[:-1]}
            decided = {
                members_of(item.raw)["id"]
                for item in read_log(tmp_path / name)
                if members_of(item.raw)["stage"] == "decided"
            }
            assert sent[name] <= decided
    for name in sent:
        assert start(tmp_path, name, 1).wait() == 0
    reports = verify_directory(tmp_path, public_keys(tmp_path / PUBLIC_KEYS))
    assert [(report.log, report.broken, report.open, report.unsigned) for report in reports] == [
        ("a", None, 0, 0),
        ("b", None, 0, 0),
    ]
    opened = [
        members_of(item.raw)
        for name in logs(tmp_path)
        for item in read_log(tmp_path / name)
        if members_of(item.raw)["stage"] == "opened"
    ]
    assert (
        len(opened) == KILLS + 2
        and sum(bool(record["recovered"]) for record in opened) > KILLS // 4
    )


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    where = tmp_path / "small"
    where.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(where)], capture_output=True
    ).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


async def test_a_full_file_system(small: Path) -> None:
    """A full disk refuses every call and readiness; with space again the log resumes by itself,
    with a gap record.
    """
    ballast = small / "ballast"
    ballast.write_bytes(b"\0" * 300_000)
    journal = open_journal(small, segment_bytes=50_000)
    acknowledged: set[str] = set()
    refused = 0
    for number in range(5000):
        try:
            [receipt] = await journal.decide(f"call-{number}", WORKER, HERE, [(call(), ALLOW)], 0)
        except Unavailable:
            refused += 1
            if refused == 20:
                break
            continue
        assert receipt is not None
        acknowledged.add(receipt.call_id)
        journal.completed(receipt, outcome="ok", status=200, sent=0, duration_us=0)
    assert refused == 20 and acknowledged and not journal.writable
    ballast.unlink()
    for _ in range(2000):
        if journal.writable:
            break
        await asyncio.sleep(0.01)
    assert journal.writable
    await one(journal, 9999)
    await journal.close()
    found = records(small / "gate")
    decided = {record["id"] for record in found if record["stage"] == "decided"}
    assert decided == acknowledged | {"call-9999"}
    assert {record["id"] for record in found if record["stage"] == "completed"} == decided
    assert sum(record["refused"] for record in found if record["stage"] == "gap") == refused
    [report] = verify_directory(small, public_keys(small / PUBLIC_KEYS))
    assert report.broken is None and report.gaps >= 1 and report.unsigned == 0
