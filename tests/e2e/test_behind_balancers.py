"""Real balancers as the guide configures them, with their bare defaults, and a stock worker."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.stage import Client, Gate, Luigid, Process, Worker, free_port

NGINX, HAPROXY = (
    shutil.which("nginx", path="/usr/sbin:/usr/bin"),
    shutil.which("haproxy", path="/usr/sbin:/usr/bin"),
)
pytestmark = pytest.mark.skipif(
    NGINX is None or HAPROXY is None,
    reason="no nginx or haproxy here: apt-get install nginx-light haproxy",
)

LISTENER = """
[[listeners]]
address = "127.0.0.1"
port = {port}
certificate = "tls.crt"
key = {{ file = "tls.key" }}
proxy_protocol_from = ["127.0.0.1"]
"""
PAGE = ROOT / "deploy" / "guide" / "balancers.md"
# Where a Debian package would put the guide's block, with directories of the test.
NGINX_CONF = """\
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {server}
}}
"""


def block(language: str, number: int, *places: tuple[str, int]) -> str:
    """Return a configuration of the guide, with ports of this machine in the place of its own."""
    page = PAGE.read_text(encoding="utf-8")
    text: str = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[number]
    for place, port in places:
        assert place in text
        text = text.replace(place, f"127.0.0.1:{port}")
    return text


class Balancers:
    """An nginx and a HAProxy, and the ports of the gate behind them."""

    def __init__(self, directory: Path, gate: int, behind: int) -> None:
        """Start both. `behind` is the port that wants a PROXY header."""
        self.nginx, self.http, self.v1, self.v2 = (free_port() for _ in range(4))
        directory.mkdir()
        server = block("nginx", 0, ("10.0.0.7:80", self.nginx), ("10.0.0.9:8443", gate))
        (directory / "nginx.conf").write_text(NGINX_CONF.format(directory=directory, server=server))
        v2 = block("haproxy", 0, ("10.0.0.7:443", self.v2), ("10.0.0.9:8444", behind))
        v1 = v2.replace("send-proxy-v2", "send-proxy").replace(str(self.v2), str(self.v1))
        http = block("haproxy", 1, ("10.0.0.7:443", self.http), ("10.0.0.9:8443", gate))
        assert NGINX is not None
        assert HAPROXY is not None
        command = [NGINX, "-c", str(directory / "nginx.conf"), "-p", str(directory)]
        self.processes = [Process(command, directory, "nginx")]
        for name, text in (("http", http), ("v1", v1), ("v2", v2)):
            (directory / f"{name}.cfg").write_text(text)
            command = [HAPROXY, "-db", "-f", str(directory / f"{name}.cfg")]
            self.processes.append(Process(command, directory, name))
        for process, port in zip(self.processes, (self.nginx, self.http), strict=False):
            process.until_ready(lambda: Client(port).send("GET", "/-/readyz").status == 200)  # noqa: B023  (called here)

    def stop(self) -> None:
        """End both."""
        for process in self.processes:
            process.stop()


@pytest.fixture(scope="module")
def luigid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A luigid behind the gate."""
    luigid = Luigid(tmp_path_factory.mktemp("luigid"))
    yield luigid
    luigid.stop()


@pytest.fixture(scope="module")
def behind() -> int:
    """The port that wants a PROXY header."""
    return free_port()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, luigid: Luigid, behind: int) -> Iterator[Gate]:
    """A gate with two listeners."""
    gate = Gate(
        tmp_path_factory.mktemp("gate"), {"/": luigid}, settings=LISTENER.format(port=behind)
    )
    yield gate
    gate.stop()


@pytest.fixture(scope="module")
def balancers(
    tmp_path_factory: pytest.TempPathFactory, gate: Gate, behind: int
) -> Iterator[Balancers]:
    """Both, in front of the gate."""
    balancers = Balancers(tmp_path_factory.mktemp("balancers") / "run", gate.port, behind)
    yield balancers
    balancers.stop()


@pytest.mark.parametrize("front", ["nginx", "http"])
def test_a_stock_worker_runs_through_a_bare_proxy(
    tmp_path: Path, gate: Gate, balancers: Balancers, luigid: Luigid, front: str
) -> None:
    """nginx speaks HTTP/1.0 to what is behind it and closes; HAProxy keeps connections."""
    url = f"http://jwt:{gate.token('worker')}@127.0.0.1:{getattr(balancers, front)}"
    task = ["Leaf", "--run-name", front, "--directory", str(tmp_path / "out"), "--number", "1"]
    worker = Worker(tmp_path / "worker", url, ["--module", "graph", *task])
    assert worker.wait() == 0, worker.text()
    assert [
        status
        for name, status in ((task, luigid.status(task)) for task in luigid.tasks())
        if front in name
    ] == ["DONE"]


@pytest.mark.parametrize("front", ["v1", "v2"])
def test_the_record_has_the_client_and_the_balancer(
    gate: Gate, balancers: Balancers, front: str
) -> None:
    """Of a call by another loopback address, over TLS that the balancer only passes on."""
    client = Client(getattr(balancers, front), gate.context)
    answer = client.call("task_list", gate.token("viewer"), status="", upstream_status="")
    assert answer.status == 200
    record = gate.recorded(stage="decided", method="task_list")
    assert record["peer"]["address"] == answer.source
    assert record["peer"]["hop"] == "127.0.0.1"


def test_a_client_cannot_speak_for_itself(gate: Gate, behind: int) -> None:
    """Past the balancer, without a PROXY header, no call is read."""
    client = Client(behind, gate.context)
    with pytest.raises(OSError):
        client.call("task_list", gate.token("viewer"))
    assert gate.recorded(stage="rejected", reason="bad-client-address")["peer"]["port"] > 0
