"""The largest calls allowed, of each codec and kind, through a real gate: its event loop goes on."""

import http.client
import json
import re
import shutil
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from tests.support.amount import some
from tests.support.largest_calls import DEPENDENCIES, all_calls, luigi_calls
from tests.support.paths import ROOT
from tests.support.stack import Gate
from tests.support.stage import free_port, until

pytestmark = pytest.mark.process

SERVER = "/bench/RPC2"
_XML = (
    b'<?xml version="1.0"?><methodResponse><params><param>'
    b"<value><int>1</int></value></param></params></methodResponse>"
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Note the body, and answer in the protocol of the call."""
        assert isinstance(self.server, Upstream)
        self.server.last = self.rfile.read(int(self.headers["Content-Length"]))
        xml = self.headers["Content-Type"] == "text/xml"
        body = _XML if xml else b'{"response": null}'
        self.send_response(200)
        self.send_header("Content-Type", "text/xml" if xml else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Upstream(socketserver.ThreadingTCPServer):
    """A luigid and an XML-RPC server in one, which keeps the last body."""

    daemon_threads = True
    allow_reuse_address = True
    last = b""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """Start it."""
    with Upstream(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Gate]:
    """Start a gate before it, on default limits."""
    directory = tmp_path_factory.mktemp("large")
    shutil.copytree(ROOT / "policies", directory / "policies")
    catalog = ROOT / "tests" / "bench" / "conf" / "catalog.toml"
    shutil.copy(catalog, directory / "policies" / "catalogs" / "bench.toml")
    url = f"http://127.0.0.1:{upstream.server_address[1]}"
    bench = {"name": "bench", "protocol": "xmlrpc", "path_prefix": "/bench", "catalog": "bench"}
    upstreams = [{"name": "luigi", "protocol": "luigi", "url": url}, {**bench, "url": url}]
    gate = Gate(directory / "gate", upstreams, policies=directory / "policies")
    text = gate.settings.read_text().replace("port = 0", f"port = {free_port()}")
    gate.settings.write_text(text)
    gate.start()
    yield gate
    gate.stop()


def metric(gate: Gate, name: str) -> float:
    """Return one metric of the gate."""
    port = re.search(r"\[metrics\]\nport = (\d+)", gate.settings.read_text())
    assert port is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(port[1]))
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(rf"^{name} ([\d.e+]+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def reason_of(body: bytes) -> str:
    """Return the reason in a refusal, or an empty string."""
    found = re.search(rb"\[([a-z-]+), ref", body)
    return "" if found is None else found[1].decode()


def test_the_largest_call_of_each_kind_is_handled_elsewhere(gate: Gate) -> None:
    """It is answered or refused as a small one is, and the event loop never had it."""
    for call in some([*all_calls(SERVER)]):
        before = metric(gate, "callgate_large_calls_total")
        headers = {"Content_Encoding": call.encoding} if call.encoding else {}
        reply = gate.ask(call.path, "worker", call.body, kind=call.content_type, **headers)
        assert reason_of(reply.body) == call.refused, (call.name, reply.body[:300])
        # That a gzip body would become too many times as long shows without inflating it.
        expected = 0 if call.refused == "malformed-call" and not call.encoding else 1
        elsewhere = metric(gate, "callgate_large_calls_total") - before
        assert elsewhere >= expected, call.name
    assert metric(gate, "callgate_failed_large_calls_total") == 0


def test_all_dependencies_arrive(gate: Gate, upstream: Upstream) -> None:
    """A hundred thousand of them, each as it was, and the worker's id has its suffix."""
    call = next(luigi_calls())
    assert gate.ask(call.path, "worker", call.body).status == 200
    args = json.loads(unquote_plus(upstream.last.removeprefix(b"data=").decode()))
    given = json.loads(unquote_plus(call.body.removeprefix(b"data=").decode()))
    assert len(args["deps"]) == DEPENDENCIES
    assert args == given | {"worker": "w1 [local:worker-1]"}
    decided = [record for record in gate.calls() if record["stage"] == "decided"][-1]
    assert decided["args"]["deps"]["length"] > 1_000_000
    assert "sha256" in decided["args"]["deps"]


def test_the_fork_server_ends_with_its_process(gate: Gate) -> None:
    """No process is left behind, however the gate ends."""
    serving = gate.serving()
    [guard] = children(serving)
    [server] = children(guard)
    gate.kill()
    gate.start()

    def has_ended(pid: str) -> bool:
        try:  # an init that reaps nothing leaves a zombie
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
        except FileNotFoundError:
            return True

    until(lambda: has_ended(guard) and has_ended(server), "guard and fork server have ended")


def children(pid: str | int) -> list[str]:
    """Return the process ids of the children of a process."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
