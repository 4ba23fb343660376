"""Which log a process writes, and what becomes of the logs of those that were killed."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from proxy.audit.journal import Journal, LogInUse
from proxy.audit.keys import PUBLIC_KEYS, public_keys
from proxy.audit.verify import verify_directory
from proxy.config import Settings, load_settings
from proxy.edge.lanes import close_abandoned, open_journal
from proxy.identity.local import LocalIssuer
from tests.audit.made import ALLOW, HERE, WORKER, call, records
from tests.e2e.stage import POLICIES

SETTINGS = """
[listen]
plain_http = true
processes = 2
[local_issuer]
directory = "issuer"
[[upstreams]]
name = "luigi"
protocol = "luigi"
url = "http://127.0.0.1:8082"
[policy]
directory = "policies"
[audit]
directory = "audit"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of a gate with two processes."""
    shutil.copytree(POLICIES, tmp_path / "policies")
    LocalIssuer(tmp_path / "issuer").prepare(time.time())
    (tmp_path / "callgate.toml").write_text(SETTINGS)
    return load_settings(tmp_path / "callgate.toml")


async def decide(journal: Journal) -> None:
    """A call that is under way."""
    await journal.decide("open", WORKER, HERE, [(call(), ALLOW)], 0)


def killed(journal: Journal, log: Path) -> None:
    """Leave a log as kill -9 leaves it while a call is under way."""
    with asyncio.Runner() as runner:
        runner.run(decide(journal))
        left = {path: path.read_bytes() for path in log.iterdir()}
        runner.run(journal.close())
    for path, data in left.items():
        path.write_bytes(data)


def test_every_process_takes_the_first_name_that_is_free(settings: Settings) -> None:
    """Names are taken in order and again when they are free; beyond what a hand-over needs, there is none."""
    journals = [open_journal(settings) for _ in range(7)]
    assert [journal._writer._directory.name for journal in journals[:3]] == ["gate", "gate-2", "gate-3"]
    with pytest.raises(LogInUse):
        open_journal(settings)
    asyncio.run(journals.pop(1).close())
    again = open_journal(settings)
    assert again._writer._directory.name == "gate-2"
    for journal in (*journals, again):
        asyncio.run(journal.close())


def test_what_a_killed_process_left_open_is_closed(settings: Settings) -> None:
    """A log that nobody takes again is ended: its open calls are closed as unknown, once, and logs in use are left alone."""
    first, second, third = (open_journal(settings) for _ in range(3))
    audit = settings.audit.directory
    asyncio.run(second.close())
    killed(third, audit / "gate-3")
    with asyncio.Runner() as runner:
        runner.run(decide(first))
        before = {name: records(audit / name) for name in ("gate", "gate-2")}
        close_abandoned(settings)
        close_abandoned(settings)
        assert {name: records(audit / name) for name in before} == before
        stages = [(record["stage"], record.get("outcome")) for record in records(audit / "gate-3")]
        assert stages[-4:] == [("decided", None), ("opened", None), ("completed", "unknown"), ("closed", None)]
        runner.run(first.close())
    reports = verify_directory(audit, public_keys(audit / PUBLIC_KEYS))
    assert [(report.log, report.broken, report.open, report.ended) for report in reports] == [
        ("gate", None, 0, True),
        ("gate-2", None, 0, True),
        ("gate-3", None, 0, True),
    ]


def test_a_damaged_log_is_left_as_it_is(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """It is evidence: it is named in the operator's log, and the others are ended all the same."""
    journals = [open_journal(settings) for _ in range(2)]
    audit = settings.audit.directory
    left = {path: path.read_bytes() for name in ("gate", "gate-2") for path in (audit / name).iterdir()}
    for journal in journals:
        asyncio.run(journal.close())
    for path, data in left.items():
        path.write_bytes(data if path.parent.name == "gate-2" or path.suffix != ".jsonl" else data[:-20])
    damaged = (audit / "gate" / "00000001.jsonl").read_bytes()
    close_abandoned(settings)
    assert (audit / "gate" / "00000001.jsonl").read_bytes() == damaged
    assert records(audit / "gate-2")[-1]["stage"] == "closed"
    assert "abandoned log not ended" in capsys.readouterr().out
