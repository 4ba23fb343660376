"""File descriptors run out: clients cannot take those that the gate needs, and a gate that has none
left neither spins, dies nor errs.
"""

import http.client
import json
import os
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.support.bystanders import bystanders
from tests.support.load import by_log, still_open, verify
from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate
from tests.support.stage import FORM, Process, until

FILES = 160  # that the gate may have open in the first test, of which clients may have 160 - 64 - 8
UPSTREAM_CONNECTIONS = 8
PLACES = FILES - 64 - UPSTREAM_CONNECTIONS
WATCHED_SECONDS = 2.0


@contextmanager
def gate_with(directory: Path, files: int) -> Iterator[tuple[Gate, RecordingLuigid]]:
    """A gate that may have so many open files, and its upstream. In the end every allowed call has
    to be completed.
    """
    upstream = RecordingLuigid()
    url = f"http://127.0.0.1:{upstream.port}"
    upstreams = [
        {"name": "luigi", "protocol": "luigi", "url": url, "max_connections": UPSTREAM_CONNECTIONS}
    ]
    # who says nothing is not closed for that here
    gate = Gate(directory, upstreams, limits={"header_seconds": 300}, tls=False)
    gate.settings.write_text(
        gate.settings.read_text().replace("[audit]\n", "[audit]\nsegment_bytes = 65536\n")
    )
    limited = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    gate.process = Process(
        [*limited, sys.executable, "-m", "proxy.cli.main", "serve", "--config", str(gate.settings)],
        directory,
        "gate",
    )
    gate.until_ready()
    try:
        yield gate, upstream
        assert gate.stop() == 0
    finally:
        if gate.process.running:
            gate.process.kill()
        upstream.end()
    for records in by_log(gate.audit).values():
        assert still_open(records) == set()
    verify(gate.audit)
    assert "internal error" not in gate.process.text()


def segments(gate: Gate) -> int:
    """How many segments the journal has begun; those that are over may be compressed by now."""
    return len({path.name.partition(".")[0] for path in gate.audit.rglob("[0-9]*.jsonl*")})


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_clients_cannot_take_what_the_gate_needs(tmp_path: Path) -> None:
    """Twice as many connections as there are descriptors: some are turned away, and for those
    inside nothing changes, though the journal begins new segments all the while.
    """
    with (
        gate_with(tmp_path / "gate", FILES) as (gate, upstream),
        ExitStack() as flood,
        bystanders(gate) as others,
    ):
        clients = [
            flood.enter_context(socket.create_connection(("127.0.0.1", gate.port)))
            for _ in range(2 * FILES)
        ]
        text = "clients are limited by the files"
        until(lambda: len(os.listdir(f"/proc/{gate.serving()}/fd")) >= PLACES, text)  # noqa: PTH208  (only counted)
        for client in clients:
            client.setblocking(False)

        def turned_away() -> int:
            return sum(closed(client) for client in clients)

        until(lambda: turned_away() >= 2 * FILES - PLACES, "the rest was turned away")
        begun = segments(gate)
        until(lambda: segments(gate) > begun, "the journal went on to another segment")
        others.until_served()
        assert turned_away() <= 2 * FILES - PLACES + len(others)
        assert {r["outcome"] for r in gate.records() if r["stage"] == "completed"} == {"ok"}
        assert "fewer client connections than limits.max_connections" in gate.process.text()
    assert len(upstream.seen) > 0


def closed(client: socket.socket) -> bool:
    """Whether the other side has closed a connection on which nothing was asked."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class Caller:
    """A client with one kept connection."""

    def __init__(self, gate: Gate) -> None:
        self._headers = {"Content-Type": FORM, "Authorization": f"Bearer {gate.token('worker')}"}
        self._connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=30)
        self._connection.connect()
        self._connection.auto_open = False
        self._count = 0

    def call(self) -> str:
        """One acting call, by its status and the reason if it was refused."""
        self._count += 1
        args = {"worker": "w", "task_id": f"T_{id(self)}_{self._count}"}
        self._connection.request(
            "POST", "/api/add_task", urlencode({"data": json.dumps(args)}), self._headers
        )
        answer = self._connection.getresponse()
        body = answer.read()
        return (
            "200"
            if answer.status == 200
            else f"{answer.status} {json.loads(body)['error']['reason']}"
        )


def test_a_gate_without_a_descriptor_left_refuses_waits_and_recovers(tmp_path: Path) -> None:
    """No file can be opened: calls on open connections are refused for the journal's sake, in order
    and with 503; new clients wait at the door while the gate rests; and once files can be opened
    all of them are served, with nothing lost.
    """
    with gate_with(tmp_path / "gate", 4096) as (gate, upstream):
        pid = gate.serving()
        inside = Caller(gate)
        assert inside.call() == "200"
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        seen: Counter[str] = Counter()

        def refused() -> bool:
            seen[inside.call()] += 1
            return seen["503 audit-unwritable"] > 0

        until(refused, "the journal could not go on")
        with ExitStack() as door:
            waiting = [
                door.enter_context(socket.create_connection(("127.0.0.1", gate.port)))
                for _ in range(10)
            ]
            spent, began, sent = cpu_seconds(pid), time.monotonic(), len(upstream.seen)
            while time.monotonic() < began + WATCHED_SECONDS:
                assert inside.call() == "503 audit-unwritable"
                time.sleep(0.1)
            assert cpu_seconds(pid) - spent < WATCHED_SECONDS / 2, "it spins"
            assert len(upstream.seen) == sent
            assert gate.serving() == pid
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            for client in waiting:
                client.settimeout(30)
                client.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: gate\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
        until(lambda: inside.call() == "200", "calls go through again")
        assert {Caller(gate).call() for _ in range(5)} == {"200"}
        assert set(seen) <= {"200", "503 audit-unwritable"}
        assert gate.serving() == pid
    gaps = [r for records in by_log(gate.audit).values() for r in records if r["stage"] == "gap"]
    assert any("Too many open files" in gap["error"] for gap in gaps)
