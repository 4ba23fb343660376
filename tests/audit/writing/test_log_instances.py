"""Which log a process writes, and what becomes of the logs of those that were killed."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_directory
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.audit.writing.log_instances import instance_names, open_first_unlocked, recover_abandoned
from proxy.audit.writing.opening import LogInUseError
from tests.support.audit import ALLOW, HERE, WORKER, call, open_journal, records

NAMES = instance_names("gate", 2)


def take(directory: Path) -> Journal:
    """Open a log as a serving process does."""
    return open_first_unlocked(NAMES, partial(open_journal, directory))


def end_abandoned(directory: Path) -> None:
    """Recover logs as a serving process does."""
    recover_abandoned(directory, NAMES, partial(open_journal, directory))


async def decide(journal: Journal) -> None:
    """Decide a call and leave it open."""
    await journal.decide("open", WORKER, HERE, [(call(), ALLOW)], 0)


def killed(journal: Journal, log: Path) -> None:
    """Leave a log as kill -9 leaves it while a call is open."""
    with asyncio.Runner() as runner:
        runner.run(decide(journal))
        left = {path: path.read_bytes() for path in log.iterdir()}
        runner.run(journal.close())
    for path, data in left.items():
        path.write_bytes(data)


def test_every_process_takes_the_first_unlocked_name(tmp_path: Path) -> None:
    """Names are taken in order, and again once unlocked; there are only as many as a hand-over
    needs.
    """
    journals = [take(tmp_path) for _ in NAMES]
    assert [journal.directory.name for journal in journals[:3]] == [
        "gate",
        "gate-2",
        "gate-3",
    ]
    with pytest.raises(LogInUseError):
        take(tmp_path)
    asyncio.run(journals.pop(1).close())
    again = take(tmp_path)
    assert again.directory.name == "gate-2"
    for journal in (*journals, again):
        asyncio.run(journal.close())


def test_the_log_of_a_killed_process_is_recovered(tmp_path: Path) -> None:
    """Its open calls are closed as unknown, once, and it ends; logs in use are left alone."""
    first, second, third = (take(tmp_path) for _ in range(3))
    asyncio.run(second.close())
    killed(third, tmp_path / "gate-3")
    with asyncio.Runner() as runner:
        runner.run(decide(first))
        before = {name: records(tmp_path / name) for name in ("gate", "gate-2")}
        end_abandoned(tmp_path)
        end_abandoned(tmp_path)
        assert {name: records(tmp_path / name) for name in before} == before
        stages = [
            (record["stage"], record.get("outcome")) for record in records(tmp_path / "gate-3")
        ]
        assert stages[-4:] == [
            ("decided", None),
            ("opened", None),
            ("completed", "unknown"),
            ("closed", None),
        ]
        runner.run(first.close())
    reports = verify_directory(tmp_path, public_keys(tmp_path / PUBLIC_KEYS))
    assert [
        (report.log, report.broken, report.open, report.ended_in_order) for report in reports
    ] == [
        ("gate", None, 0, True),
        ("gate-2", None, 0, True),
        ("gate-3", None, 0, True),
    ]


def test_a_damaged_log_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged log is evidence: it is logged, unchanged, and the other logs are recovered."""
    journals = [take(tmp_path) for _ in range(2)]
    left = {
        path: path.read_bytes()
        for name in ("gate", "gate-2")
        for path in (tmp_path / name).iterdir()
    }
    for journal in journals:
        asyncio.run(journal.close())
    for path, data in left.items():
        path.write_bytes(
            data if path.parent.name == "gate-2" or path.suffix != ".jsonl" else data[:-20]
        )
    damaged = (tmp_path / "gate" / "00000001.jsonl").read_bytes()
    end_abandoned(tmp_path)
    assert (tmp_path / "gate" / "00000001.jsonl").read_bytes() == damaged
    assert records(tmp_path / "gate-2")[-1]["stage"] == "closed"
    assert "abandoned log not ended" in capsys.readouterr().out
