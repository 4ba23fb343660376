"""Hundreds of callers hold all they may: the process stays under its budget, and workers notice
nothing.

The settings are the shipped ones, but for the plain listener of most cases: without TLS a test of a
gigabyte takes seconds. The attack comes from 127.0.0.1, the workers from another address.
"""

import contextlib
import json
import re
import selectors
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.bystanders import bystanders
from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate, table
from tests.support.stage import FORM, free_port, until

pytestmark = pytest.mark.process  # starts the command, or another program

MIB = 1 << 20
BUDGET = 256 * MIB
CONNECTIONS = 512
BODY = 16 * MIB
# A part of a body that leaves it incomplete.
MOST = 15 * MIB
TEXT = "x" * MIB


class Measured(Gate):
    """A gate with metrics."""

    def __init__(self, directory: Path, url: str, *, tls: bool, **limits: object) -> None:
        upstream = {"name": "luigi", "protocol": "luigi", "url": url}
        super().__init__(directory, [upstream], tls=tls, limits=limits)
        self.metrics_port = free_port()
        text = self.settings.read_text().replace(
            table("[metrics]", {"port": 0}), table("[metrics]", {"port": self.metrics_port})
        )
        self.settings.write_text(text)

    def memory(self) -> int:
        """Return the resident memory of the serving process, in bytes."""
        status = Path(f"/proc/{self.serving()}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        """Begin to measure the peak anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.serving()}/clear_refs").write_text("5", encoding="ascii")

    def metric(self, name: str) -> float:
        """Return a metric without labels."""
        with socket.create_connection(("127.0.0.1", self.metrics_port), 20) as scrape:
            scrape.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            text = b""
            while part := scrape.recv(65_536):
                text += part
        found = re.search(rf"^{name} (\S+)$", text.decode(), re.MULTILINE)
        assert found is not None, name
        return float(found[1])


@dataclass
class Holder:
    """A client that sends a head and a body, and reads the head of an answer."""

    client: socket.socket
    head: bytes
    body: memoryview
    received: bytes = b""

    def step(self, events: int) -> None:
        """Send and receive what is possible now."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if events & selectors.EVENT_READ:
                part = self.client.recv(65_536)
                self.received += part
                if not part or b"\r\n\r\n" in self.received:
                    raise ConnectionAbortedError  # answered: it sends no more
            if self.head:
                self.head = self.head[self.client.send(self.head) :]
            elif self.body:
                self.body = self.body[self.client.send(self.body[:262_144]) :]

    @property
    def left(self) -> int:
        """The number of bytes that it has not sent."""
        return len(self.head) + len(self.body)


class Crowd:
    """Many holders, served by one selector so that all of them hold at once."""

    def __init__(self, gate: Gate, heads: list[bytes], body: bytes) -> None:
        self._selector = selectors.DefaultSelector()
        self._context = gate.context
        self.holders: list[Holder] = []
        self.answers: Counter[str] = Counter()
        for head in heads:
            holder = Holder(self._connect(gate.port), head, memoryview(body))
            self.holders.append(holder)
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.register(holder.client, both, holder)

    def _connect(self, port: int) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", port), 60)
        client = plain
        if self._context is not None:
            client = self._context.wrap_socket(plain, server_hostname="localhost")
        client.setblocking(False)
        return client

    def run(self, patience: int) -> None:
        """Send until each has sent all it has, or is answered, and nothing moves any more.

        Nothing moves if that is so in `patience` looks, of 0.05 seconds each.
        """
        quiet = 0
        while quiet < patience and self._selector.get_map():
            moved = False
            for key, events in self._selector.select(0.05):
                holder: Holder = key.data
                before = (holder.left, len(holder.received))
                try:
                    holder.step(events)
                except OSError:
                    self._selector.unregister(holder.client)
                    self._end(holder)
                    moved = True
                    continue
                if not holder.left:
                    self._selector.modify(holder.client, selectors.EVENT_READ, holder)
                moved |= before != (holder.left, len(holder.received))
            quiet = 0 if moved else quiet + 1

    def _end(self, holder: Holder) -> None:
        found = re.match(rb"HTTP/1.1 (\d+).*?(?: \[([a-z-]+),[^\r]*)?\r", holder.received)
        answer = b" ".join(part for part in found.groups() if part) if found else b"reset"
        self.answers[answer.decode()] += 1
        holder.client.close()

    @property
    def holding(self) -> int:
        """The number of clients that have sent all they have and were not answered."""
        return sum(not one.left and not one.received for one in self.holders)

    def close(self) -> None:
        """Close all."""
        for holder in self.holders:
            holder.client.close()


@contextlib.contextmanager
def crowd(gate: Gate, heads: list[bytes], body: bytes, *, patience: int = 20) -> Iterator[Crowd]:
    """A crowd that has sent what it could."""
    found = Crowd(gate, heads, body)
    try:
        found.run(patience)
        yield found
    finally:
        found.close()


def head(gate: Gate, identity: int | None, length: int) -> bytes:
    """Return the head of an add_task with a body of `length` bytes."""
    lines = [
        "POST /api/add_task HTTP/1.1",
        "Host: x",
        f"Content-Type: {FORM}",
        f"Content-Length: {length}",
    ]
    if identity is not None:
        token = gate.issuer.issue(f"holder-{identity}", ["worker"], 3600, gate.now())
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode()


@contextlib.contextmanager
def served(
    directory: Path, *, tls: bool = False, seconds: float = 0.0, **limits: object
) -> Iterator[Measured]:
    """A gate before an upstream that takes `seconds` for each call of a worker that is large."""
    luigid = RecordingLuigid(
        lambda method, args: TEXT if method == "task_list" else None, seconds=seconds
    )
    gate = Measured(directory / "gate", f"http://127.0.0.1:{luigid.port}", tls=tls, **limits)
    try:
        gate.start()
        yield gate
        assert gate.stop() == 0
        assert "internal error" not in gate.process.text()
    finally:
        if gate.process.running:
            gate.stop()
        luigid.end()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("identities", [1, CONNECTIONS], ids=["one identity", "many identities"])
def test_the_largest_bodies_of_512_connections_stay_under_the_budget(
    tmp_path: Path, identities: int, tls: bool
) -> None:
    """Each would hold 15 of 16 MiB, 8 GiB in all. What does not fit is refused at once, and a
    worker pings, announces tasks and looks, without a failure.
    """
    with served(tmp_path, tls=tls) as gate, bystanders(gate) as others:
        others.until_served()
        before = gate.memory()
        gate.forget_peak()
        heads = [head(gate, number % identities, BODY) for number in range(CONNECTIONS)]
        with crowd(gate, heads, bytes(MOST)) as held:
            others.until_served(20)
            share = 4 if identities == 1 else 14
            assert 2 <= held.holding <= share
            assert held.answers == {"503 overloaded": CONNECTIONS - held.holding}
            assert gate.metric("callgate_memory_bytes") >= held.holding * BODY
            assert gate.metric("callgate_memory_refused_total") >= CONNECTIONS - held.holding
            assert gate.peak_memory() - before < BUDGET
        until(lambda: gate.metric("callgate_memory_bytes") == 0, "all of it was given back")
        assert gate.peak_memory() - before < BUDGET


def test_the_old_behaviour_held_all_of_it(tmp_path: Path) -> None:
    """40 callers, 15 of 16 MiB each, before a budget that is none: 600 MiB in one process."""
    with served(tmp_path, memory_bytes=1 << 40) as gate:
        before = gate.memory()
        heads = [head(gate, number, BODY) for number in range(40)]
        with crowd(gate, heads, bytes(MOST)) as held:
            assert held.holding == 40
            assert gate.memory() - before > 2 * BUDGET


def test_what_512_connections_hold_before_they_are_identified_stays_under_the_share(
    tmp_path: Path,
) -> None:
    """Bodies that are read before the identity, all but the last byte, without any credential."""
    with served(tmp_path) as gate, bystanders(gate) as others:
        before = gate.memory()
        heads = [head(gate, None, 65_536)] * CONNECTIONS
        with crowd(gate, heads, bytes(65_535)) as held:
            others.until_served(20)
            assert gate.metric("callgate_memory_bytes") <= BUDGET // 8
            assert gate.memory() - before < BUDGET // 2
            assert held.holding > CONNECTIONS // 4
        until(lambda: gate.metric("callgate_memory_bytes") == 0, "all of it was given back")


def test_complete_calls_before_a_slow_upstream_stay_under_the_budget(tmp_path: Path) -> None:
    """What decoding takes is reserved before: the largest calls go through one at a time, the rest
    is refused, and nothing is forgotten.
    """
    with served(tmp_path, seconds=1.0) as gate:
        before = gate.memory()
        gate.forget_peak()
        args = json.dumps({"worker": "w", "task_id": "T_1", "params": {"p": "x" * (MOST - 200)}})
        body = b"data=" + args.replace(" ", "+").encode()
        heads = [head(gate, number, len(body)) for number in range(40)]
        with crowd(gate, heads, body, patience=400) as held:
            assert held.answers["200"] >= 1, held.answers
            assert set(held.answers) == {"200", "503 overloaded"}
            assert held.answers.total() == 40
            assert gate.peak_memory() - before < BUDGET
        until(lambda: gate.metric("callgate_memory_bytes") == 0, "all of it was given back")


def test_answers_that_nobody_reads_stay_under_the_budget(tmp_path: Path) -> None:
    """A viewer on 400 connections asks for a megabyte each and reads none of it."""
    with served(tmp_path) as gate, bystanders(gate) as others:
        before = gate.memory()
        gate.forget_peak()
        token = gate.issuer.issue("reader", ["viewer"], 3600, gate.now())
        request = (
            "GET /api/task_list?data={}%s HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        )
        heads = [(request % ("%20" * (number % 7))).encode() for number in range(400)]
        readers = []
        for sent in heads:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gate.port))
            client.sendall(sent)
            readers.append(client)
        others.until_served(20)
        assert gate.metric("callgate_memory_refused_total") > 0
        assert gate.metric("callgate_memory_bytes") <= BUDGET // 4
        assert gate.peak_memory() - before < BUDGET
        for client in readers:
            client.close()
        until(lambda: gate.metric("callgate_memory_bytes") == 0, "all of it was given back")
