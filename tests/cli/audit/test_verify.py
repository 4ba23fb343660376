import asyncio
from pathlib import Path

import orjson
import pytest

from proxy.audit.writing.keys import PUBLIC_KEYS
from tests.support.audit import open_journal
from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


def test_verify_and_keep_and_verify_from(audit: Path, tmp_path: Path) -> None:
    """Intact is 0, the kept checkpoint serves the next check, damage is 1 and named, another key is
    1.
    """
    key, kept = audit / PUBLIC_KEYS, tmp_path / "kept"
    first = run("verify", "--dir", audit, "--key", key, "--save-checkpoint", kept)
    assert first.exit_code == 0 and "INTACT" in first.stdout
    assert run("verify", "--dir", audit, "--key", key, "--since-checkpoint", kept).exit_code == 0
    assert run("verify", "--dir", audit / "gate", "--segment", 2, "--key", key).exit_code == 0
    beside = run("verify", "--dir", audit)
    assert beside.exit_code == 0 and "An attacker who can alter the log" in beside.stderr
    segment = audit / "gate" / "00000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b"call-1", b"call-9", 1))
    damaged = run("verify", "--dir", audit, "--key", key, "--json")
    document = orjson.loads(damaged.stdout)
    assert damaged.exit_code == 1 and (
        document["intact"],
        document["wrong"],
        document["segment"],
    ) == (False, "altered", 1)
    assert f"record {document['record']}" in run("verify", "--dir", audit, "--key", key).stdout


def test_checkpoints_of_all_logs_are_kept_in_one_file(audit: Path, tmp_path: Path) -> None:
    """A gate that was reloaded has several logs: --keep and --from take all of them, and a log that
    is gone or shortened shows.
    """
    asyncio.run(open_journal(audit, "gate-2").close())
    kept = tmp_path / "kept"
    assert run("verify", "--dir", audit, "--save-checkpoint", kept).exit_code == 0
    assert (
        run("verify", "--dir", audit, "--since-checkpoint", kept).exit_code == 0
        and run("verify", "--dir", audit / "gate-2", "--since-checkpoint", kept).exit_code == 0
    )
    assert run("report", "changes", "--dir", audit, "--checkpoint", kept).exit_code == 0
    away = (audit / "gate-2").rename(tmp_path / "away")
    gone = run("verify", "--dir", audit, "--since-checkpoint", kept)
    assert (
        gone.exit_code == 1
        and "the log is not here" in gone.stdout
        and run("verify", "--dir", audit).exit_code == 0
    )
    away.rename(audit / "gate-2")
    for path in (audit / "gate").glob("00000002.*"):
        path.unlink()
    assert (
        run("verify", "--dir", audit).exit_code == 0
        and "no clean end" in run("verify", "--dir", audit).stdout
    )
    assert run("verify", "--dir", audit, "--since-checkpoint", kept).exit_code == 1
    assert (
        run("verify", "--dir", audit, "--save-checkpoint", tmp_path / "none" / "kept").exit_code
        == 2
    )
