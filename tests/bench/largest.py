"""The pings of one caller while another sends the largest calls allowed, back to back.

The upstream is a stub that answers at once. The pinging client is a process of its own
(``python -m tests.bench.largest ping …``), and so is the stub; nothing is pinned, since each large
call has a process of its own too.
"""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import gate
from tests.bench.credentials import make_credentials
from tests.bench.peers import python_environ
from tests.bench.process import free_port, started
from tests.bench.schedulers import percentile
from tests.support.largest_calls import (
    XML,
    LargeCall,
    luigi_calls,
    xmlrpc_calls,
    zipped,
)

TARGET_MS = 50.0
_PAUSE = 0.002  # seconds between two pings
_PING = (
    b'<?xml version="1.0"?><methodCall><methodName>queue.ping</methodName>'
    b"<params><param><value><string>w</string></value></param></params></methodCall>"
)
_XML_ANSWER = (
    b'<?xml version="1.0"?><methodResponse><params><param>'
    b"<value><int>1</int></value></param></params></methodResponse>"
)
_LETTERS = 249  # of the slowest pattern
_SLOWEST = "".join(
    f'@id("slowest-{number}") permit (principal, action == Action::"queue.add_task", resource) '
    f'when {{ context.args has worker && context.args.worker like "*{"a" * _LETTERS}" }};\n'
    for number in range(5)
)
"""The slowest set that loads: its patterns search as many characters as they may."""


@dataclass(frozen=True, slots=True)
class Largest:
    """By what is sent: p50, p99.9 and the longest ping in milliseconds, pings and large calls."""

    rows: dict[str, tuple[float, float, float, int, int]]


def slowest_calls(server: str) -> list[LargeCall]:
    """Return the calls that take the slowest set longest: on the event loop, and elsewhere."""
    calls = []
    for letters in (4_700, 300_000):
        values = ["etl.Load_1", "a" * letters + "b", "etl.Load"]
        params = "".join(
            f"<param><value><string>{value}</string></value></param>" for value in values
        )
        body = f"<methodCall><methodName>queue.add_task</methodName><params>{params}</params></methodCall>"
        calls.append(LargeCall(f"slowest policy, {letters}", server, XML, body.encode()))
    return calls


def groups(server: str) -> Iterator[tuple[str, list[LargeCall]]]:
    """Yield what is sent together, under a name."""
    bridge, own = list(xmlrpc_calls("/RPC2")), list(xmlrpc_calls(server))
    yield "Luigi", list(luigi_calls())
    yield "XML-RPC to luigid", bridge
    yield "XML-RPC", own
    packed = [zipped(call) for call in (*bridge, *own)]
    yield "gzip", [call for call in packed if len(call.body) <= 16 << 20]
    yield "the slowest policy that loads", slowest_calls(server)


def largest(directory: Path, *, seconds: int, say: Callable[[str], None]) -> Largest:
    """Send each group for so many seconds, while another caller pings every few milliseconds."""
    credentials = make_credentials(directory)
    (gate.policies(directory) / "slowest.cedar").write_text(_SLOWEST)
    port, server = free_port(), "/rpc/RPC2"
    rows = {}
    stub = [sys.executable, "-m", "tests.bench.largest", "stub", str(port)]
    given = {"name": "largest", "tls": False, "upstream": port}
    with (
        started("stub", stub, directory, port=port, environ=python_environ()),
        gate.serving(directory, credentials, None, **given) as (front, _),  # type: ignore[arg-type]  # as named
    ):
        for name, calls in groups(server):
            with _pinging(front, credentials.ping, server) as latencies:
                sent = _send(front, credentials.token, calls, seconds)
            late = sorted(latencies)
            ms = [percentile(late, each) * 1000 for each in (50, 99.9, 100)]
            rows[name] = (ms[0], ms[1], ms[2], len(late), sent)
            say(
                f"{name}: {sent} large calls; ping p50 {ms[0]:.1f}, p99.9 {ms[1]:.1f}, longest {ms[2]:.1f} ms of {len(late)}"
            )
    return Largest(rows)


def _send(port: int, token: str, calls: Sequence[LargeCall], seconds: int) -> int:
    """Send calls back to back over one connection; return how many were answered."""
    ends, count = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        for call in calls:
            headers = {"Content-Type": call.content_type, "Authorization": f"Bearer {token}"}
            if call.encoding:
                headers["Content-Encoding"] = call.encoding
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.request("POST", call.path, call.body, headers)
                status = connection.getresponse().status
            if status not in (200, 400, 403):
                raise RuntimeError(f"{call.name}: {status}")
            count += 1
            if time.monotonic() > ends:
                break
    return count


@contextmanager
def _pinging(port: int, token: str, path: str) -> Iterator[list[float]]:
    """Ping until the block ends; the list has the latencies then."""
    command = [sys.executable, "-m", "tests.bench.largest", "ping", str(port), token, path]
    environ = {**os.environ, **python_environ()}
    latencies: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        time.sleep(1)
        yield latencies
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    latencies += json.loads(out)


def _ping(port: int, token: str, path: str) -> None:
    latencies: list[float] = []
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    headers = {"Content-Type": XML, "Authorization": f"Bearer {token}"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        while going:
            began = time.perf_counter()
            connection.request("POST", path, _PING, headers)
            response = connection.getresponse()
            response.read()
            latencies.append(time.perf_counter() - began)
            if response.status != 200:
                raise RuntimeError(f"ping: {response.status}")
            time.sleep(_PAUSE)
    sys.stdout.write(json.dumps(latencies[50:]))


class _Stub(asyncio.Protocol):
    """Answers each request as soon as all of it has come."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._head = b""
        self._missing = -1
        self._xml = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            head = head.lower()
            self._xml = b"content-type: text/xml" in head
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._missing = int(length) - len(body)
            self._head = b""
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._missing = -1
            body, kind = (
                (_XML_ANSWER, b"text/xml")
                if self._xml
                else (b'{"response": null}', b"application/json")
            )
            head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
            self.transport.write(head % (kind, len(body)) + body)


async def _serve_stub(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Stub, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "ping":
        _ping(int(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        asyncio.run(_serve_stub(int(sys.argv[2])))
