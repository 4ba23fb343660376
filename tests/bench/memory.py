"""What a gate holds: memory under load and over many calls, idle TLS connections, and a large
answer.
"""

import contextlib
import json
import resource
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import gate, peers
from tests.bench.calls import MEDIUM, PING, Call, all_calls, form_body
from tests.bench.compare import CONNECTIONS
from tests.bench.credentials import Credentials, make_credentials
from tests.bench.process import Child, cores, rss_mb
from tests.bench.tools import Tools
from tests.bench.verify import UNVERIFIED
from tests.bench.wrk import run_wrk, script

_AT_ONCE = 16  # connections opened at the same time
_LIMITS = "[limits]\nconnections_per_address = 10000\nidle_seconds = 3600.0\n"


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of the serving process in MB: at the start, at rest after `early` calls
    (about a tenth) and after all, at most.

    `calls` is how many there were; `idle_kb` the memory of one idle TLS connection of `idle`;
    `answer_mb` what an answer of `answer_size_mb` costs at its peak while a slow reader takes it.
    """

    start_mb: float
    early_mb: float
    late_mb: float
    peak_mb: float
    early: int
    calls: int
    idle: int
    idle_kb: float
    answer_size_mb: float
    answer_mb: float

    @property
    def growth_mb_per_million(self) -> float:
        """Growth after the early calls, scaled to a million calls."""
        return (self.late_mb - self.early_mb) / (self.calls - self.early) * 1e6


def memory(
    tools: Tools, directory: Path, *, calls: int, idle: int, say: Callable[[str], None]
) -> Memory:
    """Measure all three on one TLS gate each."""
    credentials = make_credentials(directory)
    client, proxy = cores()
    _more_files()
    with peers.nginx(tools, directory, credentials, client) as upstream:
        given: dict[str, Any] = {"tls": True, "upstream": upstream.port, "more": _LIMITS}
        with gate.serving(directory, credentials, proxy, name="load", **given) as (port, child):
            start = serving_mb(child)
            (early, early_mb), (made, late_mb) = _under_load(
                tools, directory, credentials, port, child, calls
            )
            peak = max(map(_peak_mb, child.tree()))
            say(
                f"{made} calls: {start:.1f} MB at the start, {early_mb:.1f} after {early}, {late_mb:.1f} at the end, {peak:.1f} at most"
            )
        with gate.serving(directory, credentials, proxy, name="idle", **given) as (port, child):
            idle, idle_kb = _idle(port, child, idle, credentials)
            say(f"{idle} idle TLS connections: {idle_kb:.1f} kB each")
        with gate.serving(
            directory, credentials, proxy, name="large", **{**given, "tls": False}
        ) as (port, child):
            size, cost = _large(directory, port, child, credentials)
            say(f"an answer of {size:.0f} MB: {cost:.1f} MB at the peak")
    return Memory(start, early_mb, late_mb, peak, early, made, idle, idle_kb, size, cost)


def serving_mb(child: Child) -> float:
    """The resident memory of the largest process of the tree: the one that serves."""
    return max(map(rss_mb, child.tree()))


def _resting_mb(child: Child) -> float:
    """The same without load: the median over two seconds, since a sealed segment that is compressed
    takes 2 MB for a moment.
    """
    readings = []
    for _ in range(9):
        readings.append(serving_mb(child))
        time.sleep(0.2)
    return statistics.median(readings)


def _peak_mb(pid: int) -> float:
    """The most that a process ever held in memory, or since its ``clear_refs`` were written."""
    return next(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


def _under_load(
    tools: Tools, directory: Path, credentials: Credentials, port: int, child: Child, wanted: int
) -> tuple[tuple[int, float], tuple[int, float]]:
    """Send `wanted` calls, a share of each kind but the largest; calls and memory at rest after the
    first tenth, and at the end.
    """
    kinds = [call for call in all_calls() if call.name in (PING, MEDIUM)]
    made, early = 0, (0, 0.0)
    while made < wanted:
        for call in kinds:
            made += _burst(tools, directory, credentials, port, call)
        if not early[0] and made >= wanted / 10:  # each kind was there by then
            early = made, _resting_mb(child)
    return early, (made, _resting_mb(child))


def _burst(tools: Tools, directory: Path, credentials: Credentials, port: int, call: Call) -> int:
    lua = script(
        directory,
        f"{call.protocol}-{call.name}".replace(" ", "-"),
        call.body,
        call.content_type,
        credentials.token,
    )
    url = f"https://127.0.0.1:{port}{call.path}"
    return run_wrk(tools.wrk, url, lua, seconds=2, connections=CONNECTIONS, core=cores()[0]).calls


def _idle(port: int, child: Child, wanted: int, credentials: Credentials) -> tuple[int, float]:
    """Open `wanted` TLS connections that have made one call each, and let them rest."""
    body = form_body("ping", {"worker": "w"})
    head = f"POST /api/ping HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {credentials.token}\r\n"
    request = (
        f"{head}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(_AT_ONCE) as pool:
        stack.enter_context(_open(port, request))  # the first one pays for what all share
        before = serving_mb(child)
        for connection in pool.map(lambda _: _open(port, request), range(wanted)):
            stack.enter_context(connection)
        time.sleep(1.0)
        return wanted, (serving_mb(child) - before) * 1024 / wanted


def _open(port: int, request: bytes) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), 30)
    connection = UNVERIFIED.wrap_socket(raw, server_hostname="localhost")
    connection.sendall(request)
    if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
        raise OSError("the call on an idle connection was not answered")
    return connection


def _large(
    directory: Path, port: int, child: Child, credentials: Credentials
) -> tuple[float, float]:
    """The peak of the serving process while two readers, a fast and a slow one, take an answer of
    fifty megabytes.
    """
    rows = json.dumps(
        {
            f"etl.LoadOrders_{number:010d}": {"status": "PENDING", "params": {"n": "x" * 200}}
            for number in range(200_000)
        }
    )
    answer = f'{{"response": {rows}}}'.encode()[: 52 << 20]
    (directory / "big.json").write_bytes(answer)
    pid = max(child.tree(), key=rss_mb)
    body = form_body("task_list", {"status": "PENDING", "upstream_status": ""})
    head = f"POST /api/task_list HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {credentials.viewer}\r\nConnection: close\r\n"
    request = (
        f"{head}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    before = rss_mb(pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark begins anew
    taken = []
    start = b""

    def read(pause: float) -> None:
        nonlocal start
        size = 0
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(request)
            while part := connection.recv(1 << 18):
                start = start if size else part[:600]
                size += len(part)
                time.sleep(pause)
        taken.append(size)

    readers = [threading.Thread(target=read, args=(pause,)) for pause in (0.0, 0.005)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    if len(taken) != 2 or min(taken) < len(answer):
        raise RuntimeError(
            f"the large answer came cut short: {taken} of {len(answer)} bytes\n{start!r}"
        )
    return len(answer) / (1 << 20), (_peak_mb(pid) - before) / len(taken)


def _more_files() -> None:
    """Raise the limit of open files as far as is allowed, for us and for what we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
