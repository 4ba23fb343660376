"""Three times as many calls as the gate carries, before a slow upstream: the rest is told at once,
and those that are taken go through.

Nothing here looks at the clock. How long a call waits is counted in calls: those that, by the
journal, are completed meanwhile.
"""

import http.client
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.load import by_log, still_open, verify
from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate, Record
from tests.support.stage import FORM, Client, free_port, until

CONNECTIONS = 4  # to the upstream
IN_FLIGHT = 12
CALLERS = 3 * IN_FLIGHT
PINGERS = 4
CALL_SECONDS = 0.05
CALLS = 300  # that the upstream has answered before the load ends


class SlowLuigid(RecordingLuigid):
    """Counts the calls that it answers, and how many of them it has had at once."""

    def __init__(self) -> None:
        self.counting = threading.Lock()
        self.at_once = self.most = self.answered = 0
        super().__init__(self._answer)

    def note(self, seen: tuple[str, dict[str, Any]]) -> None:
        """As the base class, and take a while."""
        with self.counting:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        super().note(seen)
        threading.Event().wait(CALL_SECONDS)
        with self.counting:
            self.at_once -= 1
            self.answered += 1

    def _answer(self, method: str, args: dict[str, Any]) -> None:
        return None


class Caller(threading.Thread):
    """Makes one call after the other over a kept connection, refused or not, and notes what became
    of each.
    """

    def __init__(self, gate: Gate, method: str, number: int) -> None:
        super().__init__(name=f"{method}-{number}")
        token = gate.issuer.issue("load", ["worker"], 3600, gate.now())
        self._headers = {"Content-Type": FORM, "Authorization": f"Bearer {token}"}
        self._port = gate.port
        self._method = method
        self._end = threading.Event()
        self.answered: list[str] = []
        self.refused: Counter[tuple[int, str, str | None]] = Counter()
        self.broken = ""
        self.start()

    def run(self) -> None:
        """Call until told to end. A refused caller calls again after a moment, far sooner than it
        is told to.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.connect()
            connection.auto_open = False
            while not self._end.is_set():
                self._call(connection)
        except (OSError, http.client.HTTPException) as error:
            self.broken = repr(error)
        finally:
            connection.close()

    def _call(self, connection: http.client.HTTPConnection) -> None:
        task = f"T_{self.name}_{len(self.answered) + self.refused.total()}"
        args = {"worker": self.name} | ({"task_id": task} if self._method == "add_task" else {})
        connection.request(
            "POST", f"/api/{self._method}", urlencode({"data": json.dumps(args)}), self._headers
        )
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 200:
            self.answered.append(task)
        else:
            self.refused[
                answer.status, json.loads(body)["error"]["reason"], answer.getheader("Retry-After")
            ] += 1
            self._end.wait(0.02)

    def end(self) -> None:
        """Finish the call in hand."""
        self._end.set()
        self.join(60)
        assert not self.is_alive()


def end_all(callers: list[Caller]) -> None:
    """End them all, and hold that no connection was cut."""
    for caller in callers:
        caller._end.set()
    for caller in callers:
        caller.end()
    assert [caller.broken for caller in callers if caller.broken] == []


class Measured(Gate):
    """A gate that shows its numbers."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.metrics = Client(free_port())
        self.settings.write_text(
            self.settings.read_text().replace(
                "[metrics]\nport = 0", f"[metrics]\nport = {self.metrics.port}"
            )
        )

    def gauge(self, name: str) -> float:
        """What it says of itself."""
        found = re.search(
            rf"^{name} (\S+)$", self.metrics.get("/metrics").body.decode(), re.MULTILINE
        )
        assert found is not None
        return float(found[1])


@pytest.fixture
def upstream() -> Iterator[SlowLuigid]:
    """A slow scheduler."""
    running = SlowLuigid()
    yield running
    running.end()


@pytest.fixture
def gate(upstream: SlowLuigid, tmp_path: Path) -> Iterator["Measured"]:
    """A gate that carries little, and shows its numbers."""
    url = f"http://127.0.0.1:{upstream.port}"
    settings = {"name": "luigi", "protocol": "luigi", "url": url, "max_connections": CONNECTIONS}
    gate = Measured(tmp_path / "gate", [settings], tls=False, limits={"max_in_flight": IN_FLIGHT})
    gate.start()
    yield gate
    if gate.process.running:
        gate.stop()


def most_waited(records: list[Record]) -> int:
    """The most calls that were completed between a call's decision and its completion."""
    completed = 0
    since: dict[int, int] = {}
    most = 0
    for record in records:
        if record.get("decision") == "allow":
            since[record["seq"]] = completed
        elif record["stage"] == "completed" and "window" not in record:
            most = max(most, completed - since[record["decided_seq"]])
            completed += 1
    return most


def test_three_times_what_the_gate_carries(gate: Measured, upstream: SlowLuigid) -> None:
    """Calls that are taken wait behind no more calls than may be in hand; the rest is refused with
    Retry-After, at no cost to the upstream and with no connection cut; heartbeats are taken all the
    while; and then all is as before.
    """
    callers = [Caller(gate, "add_task", number) for number in range(CALLERS)]
    pingers = [Caller(gate, "ping", number) for number in range(PINGERS)]
    try:
        until(
            lambda: (
                upstream.answered >= CALLS and sum(len(pinger.answered) for pinger in pingers) >= 20
            ),
            "the load was carried",
        )
        assert gate.gauge("callgate_in_flight_requests") <= 2 * IN_FLIGHT
    finally:
        end_all(callers + pingers)

    refused = sum((caller.refused for caller in callers), Counter[tuple[int, str, str | None]]())
    assert set(refused) == {(503, "overloaded", "1")}
    assert refused.total() > CALLERS - IN_FLIGHT
    assert [pinger.refused for pinger in pingers if pinger.refused] == [], (
        "heartbeats are refused last of all"
    )
    assert all(len(caller.answered) > 0 for caller in callers if not caller.refused)
    assert upstream.most <= CONNECTIONS

    assert gate.gauge("callgate_in_flight_requests") == 0
    until(lambda: gate.gauge("callgate_connections") <= 1, "no connection is left behind")
    again = [Caller(gate, "add_task", number) for number in range(100, 100 + IN_FLIGHT // 2)]
    until(
        lambda: all(len(caller.answered) >= 3 or caller.refused for caller in again),
        "calls go through again",
    )
    end_all(again)
    assert [caller.refused for caller in again if caller.refused] == []

    assert gate.stop() == 0
    sent = Counter(args["task_id"] for method, args in upstream.seen if method == "add_task")
    assert set(sent.values()) == {1}
    assert set(sent) == {task for caller in callers + again for task in caller.answered}
    for records in by_log(gate.audit).values():
        assert still_open(records) == set()
        assert most_waited(records) <= 2 * IN_FLIGHT, (
            "a short queue, whatever moment the upstream takes for itself"
        )
        assert {
            r["task"] for r in records if r["stage"] == "decided" and r["method"] == "add_task"
        } == set(sent)
    verify(gate.audit)
