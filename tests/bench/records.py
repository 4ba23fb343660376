"""How fast the journal is read: ``callgate audit verify`` and ``audit query`` over many records, as
they ship.
"""

import asyncio
import gzip
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from proxy.audit.format.layout import segments
from proxy.audit.writing.disk import Disk
from proxy.audit.writing.journal import Journal
from proxy.model import Call, Decision
from tests.bench.calls import task, worker_name
from tests.bench.peers import python_environ
from tests.support.audit import ALLOW, HERE, WORKER

_AT_ONCE = 200  # calls in one commit


@dataclass(frozen=True, slots=True)
class Reading:
    """Records in the log, its bytes a call as written and as sealed segments are kept, and records
    a second by command.
    """

    records: int
    plain_bytes: float
    sealed_bytes: float
    verify: float
    query: float | None


def reading(directory: Path, *, records: int) -> Reading:
    """Make a log of `records` records through the journal itself, and read it with both commands."""
    audit = directory / "records"
    calls = records // 2
    asyncio.run(_make(audit, calls))
    files = list(segments(audit / "bench").values())
    size = sum(path.stat().st_size for path in files)
    sample = files[0].read_bytes()
    verify = _timed("audit", "verify", "--dir", str(audit))
    if verify is None:
        raise RuntimeError("callgate audit verify does not find the log intact")
    # A filter that nearly nothing passes, so that reading is measured and not printing.
    query = _timed("audit", "query", "--dir", str(audit), "--id", "bench-7", "--json")
    return Reading(
        calls * 2,
        size / calls,
        size / calls * len(gzip.compress(sample, 6)) / len(sample),
        calls * 2 / verify,
        None if query is None else calls * 2 / query,
    )


async def _make(audit: Path, calls: int) -> None:
    # Not synced: how fast records are made durable is measured elsewhere. Not compressed: that goes
    # on after the end.
    journal = Journal.open(
        audit, name="bench", disk=Disk(fdatasync=lambda _fd: None), compress=False
    )

    async def one(number: int) -> None:
        args = task(number=number, worker=worker_name(number % 50))
        made: list[tuple[Call, Decision]] = [
            (Call("luigi", "luigi", "add_task", "work", args, task=args["task_id"]), ALLOW)
        ]
        [receipt] = await journal.decide(f"bench-{number}", WORKER, HERE, made, time.monotonic_ns())
        assert receipt is not None
        journal.completed(receipt, outcome="ok", status=200, sent=18, duration_us=900)

    for first in range(0, calls, _AT_ONCE):
        await asyncio.gather(
            *(one(number) for number in range(first, min(first + _AT_ONCE, calls)))
        )
    await journal.close()


def _timed(*arguments: str) -> float | None:
    """Seconds that a command takes; None when it fails or is not there."""
    began = time.monotonic()
    command = [sys.executable, "-m", "proxy.cli.main", *arguments]
    ran = subprocess.run(
        command, env={**os.environ, **python_environ()}, capture_output=True, check=False
    )
    return time.monotonic() - began if ran.returncode == 0 else None
