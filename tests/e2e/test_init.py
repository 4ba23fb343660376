"""``callgate init`` as an operator runs it: the printed commands, a stock worker, a stock client."""

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_luigi_worker import graph, outputs
from tests.support.paths import ROOT
from tests.support.stage import Client, Luigid, Process, Worker, free_port

CALLGATE = [sys.executable, "-m", "proxy"]


def callgate(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``callgate`` in `directory`."""
    return subprocess.run(
        [*CALLGATE, *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def luigid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A stock luigid."""
    running = Luigid(tmp_path_factory.mktemp("luigid"))
    yield running
    running.stop()


def test_a_stock_worker_passes_an_installation_of_one_command(
    luigid: Luigid, tmp_path: Path
) -> None:
    """Init, serve, a token: the worker's run succeeds, and its calls are in a log that verifies."""
    port = free_port()
    done = callgate(
        tmp_path, "init", "--upstream", f"http://127.0.0.1:{luigid.port}", "--protocol", "luigi",
        "--dir", "gate", "--port", str(port),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Another process may have the port of the metrics: the settings are the operator's to edit.
    settings = tmp_path / "gate" / "callgate.toml"
    settings.write_text(settings.read_text() + "\n[metrics]\nport = 0\n")
    gate = Process([*CALLGATE, "serve", "--config", "gate/callgate.toml"], tmp_path, "gate")
    context = ssl.create_default_context(cafile=str(tmp_path / "gate" / "ca.pem"))
    try:
        gate.until_ready(lambda: Client(port, context).get("/-/readyz").status == 200)
        issued = callgate(
            tmp_path, "token", "issue", "--config", "gate/callgate.toml", "--subject", "me", "--group", "worker",
            "--ttl", "1h", "--out", "gate/worker.jwt",
        )  # fmt: skip
        assert issued.returncode == 0, issued.stderr
        token = (tmp_path / "gate" / "worker.jwt").read_text().strip()
        worker = Worker(
            tmp_path / "w",
            f"https://jwt:{token}@localhost:{port}/",
            graph("Few", "init", tmp_path / "out"),
            ca=tmp_path / "gate" / "ca.pem",
        )
        assert worker.wait() == 0, worker.text()
        assert outputs(tmp_path / "out")
    finally:
        assert gate.stop() == 0
    verified = callgate(tmp_path, "audit", "verify", "--dir", "gate/audit")
    assert verified.returncode == 0
    assert "INTACT" in verified.stdout


def test_the_modes_satisfy_serve_and_check_for_another_user(tmp_path: Path) -> None:
    """As root, --user gives the files away; serve of that user finds nothing open."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    done = callgate(
        tmp_path, "init", "--upstream", "http://127.0.0.1:9", "--protocol", "luigi", "--user", "daemon",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    gate = tmp_path / "callgate"
    assert {path.owner() for path in (gate, *gate.rglob("*"))} == {"daemon"}
    assert "User=daemon\nGroup=daemon\n" in (gate / "callgate.service").read_text()
    checked = callgate(tmp_path, "check", "--config", "callgate/callgate.toml", "--json")
    assert json.loads(checked.stdout)["ok"], checked.stdout
