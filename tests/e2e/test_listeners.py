"""Several listeners of one gate, as real processes."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cli.demo.certificate import make_self_signed
from proxy.runtime.supervision.status_file import read_status
from tests.support.paths import ROOT
from tests.support.stack import Gate, accepts, table
from tests.support.stage import POLICIES, Client, clean_environment, free_port, until


class TwoListeners(Gate):
    """A gate with a TLS listener and a plain one."""

    def __init__(self, directory: Path, processes: int) -> None:
        policies = directory / "policies"
        shutil.copytree(POLICIES, policies)
        for path in (policies, *policies.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o022)
        upstream = {"name": "luigi", "protocol": "luigi", "url": "http://127.0.0.1:1"}
        super().__init__(directory, [upstream], policies=policies)
        self.plain = Client(free_port())
        self._top = f"processes = {processes}\n"
        self.tls_row, _, self._rest = self.settings.read_text().partition("[local_issuer]")
        self.write(self.tls_row, self.plain_row(self.plain.port))

    @staticmethod
    def plain_row(port: int) -> str:
        """Return the settings of a plain listener."""
        return table("[[listeners]]", {"address": "127.0.0.1", "port": port, "plain_http": True})

    def write(self, *rows: str) -> None:
        """Write the settings with these listeners."""
        text = "\n".join([self._top, *rows, f"[local_issuer]{self._rest}"])
        self.settings.write_text(text, encoding="utf-8")

    def reload(self) -> subprocess.CompletedProcess[str]:
        """Reload, which has to bring a new generation."""
        command = [sys.executable, "-m", "proxy", "reload", "--config", str(self.settings)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment(),
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.stdout == "reloaded: generation 2 is serving\n"
        return done

    def serves_both(self) -> None:
        """Hold that each listener answers, and answers as it was set up."""
        assert self.get("/-/readyz").status == 200
        assert self.plain.get("/-/readyz").status == 200
        assert Client(self.port).get("/-/readyz").refused == "plain-http"


@pytest.fixture(params=[1, 2])
def gate(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TwoListeners]:
    """Start a gate of one or two processes."""
    gate = TwoListeners(tmp_path / "gate", request.param)
    gate.start()
    status = gate.audit / "gate.status"
    # One process may serve while another is about to read its certificate.
    until(lambda: (found := read_status(status)) and found.generation, "all processes serve")
    yield gate
    assert not gate.process.running or gate.stop() == 0
    assert "internal error" not in gate.process.text()


def test_every_listener_is_served_and_closed(gate: TwoListeners) -> None:
    """Each has its own port and its own transport; the end closes all of them."""
    gate.serves_both()
    assert f'"https://127.0.0.1:{gate.port}","http://127.0.0.1:{gate.plain.port}"' in (
        gate.process.text()
    )
    assert gate.stop() == 0
    assert not accepts(gate.port)
    assert not accepts(gate.plain.port)


def test_a_reload_with_the_rows_in_another_order_keeps_each_address_as_it_is(
    gate: TwoListeners,
) -> None:
    """Sockets are told apart by their addresses: the TLS one must never be served as plain HTTP."""
    gate.write(gate.plain_row(gate.plain.port), gate.tls_row)
    assert gate.reload().returncode == 0
    gate.serves_both()
    assert "need a restart" not in gate.process.text()


def test_a_listener_that_is_new_or_gone_needs_a_restart(gate: TwoListeners) -> None:
    """The supervisor holds the sockets: a reload keeps those there are, leaves with 1 and says so."""
    new = free_port()
    gate.write(gate.plain_row(new), gate.tls_row)
    done = gate.reload()
    assert done.returncode == 1
    assert f"127.0.0.1 port {new} is not listened on" in done.stderr
    assert f"127.0.0.1 port {gate.plain.port} is still listened on" in done.stderr
    gate.serves_both()
    assert not accepts(new)
    assert '"settings":["listeners"],"event":"changed settings need a restart"' in (
        gate.process.text()
    )


def test_plain_http_on_the_tls_port_is_answered_recorded_and_counted(gate: TwoListeners) -> None:
    """One reason in the answer, the journal, the log and the metrics; the answer has the port."""
    since = gate.mark()
    answer = Client(gate.port).call("ping", gate.token("worker"), worker="w")
    assert (answer.status, answer.refused) == (400, "plain-http")
    assert f"use an https:// URL with port {gate.port}" in answer.reason
    [record] = [r for r in gate.calls(since) if r["stage"] == "rejected"]
    assert (record["reason"], record["peer"]["address"]) == ("plain-http", answer.source)
    assert gate.token("worker") not in gate.written().decode()
    assert '"reason":"plain-http"' in gate.process.text()


@pytest.mark.parametrize("days", [91, -2], ids=["expired", "not yet valid"])
def test_a_certificate_outside_its_time_is_taken_by_no_reload_and_no_start(
    gate: TwoListeners, days: int
) -> None:
    """The processes that serve keep the old one; a start names the file and the time."""
    pem = gate.directory / "tls.crt"
    now = time.time() - days * 86_400
    make_self_signed(("localhost", "127.0.0.1"), gate.directory, now=now)
    until(lambda: "certificate not reloaded" in gate.process.text(), "the error is in the log")
    command = [sys.executable, "-m", "proxy", "reload", "--config", str(gate.settings)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert ("expired on" if days > 0 else "is not valid before") in done.stderr
    gate.serves_both()
    assert gate.stop() == 0
    gate.launch()
    assert gate.process.wait() == 2
    assert "certificate reloaded" not in gate.process.text()
    assert ("expired on" if days > 0 else "is not valid before") in gate.process.text()
    assert str(pem) in gate.process.text()
