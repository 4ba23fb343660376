"""How calls travel: huge answers in little memory, dead connections, an upstream that is gone, a
client that leaves.
"""

import json
import socket
import threading
import xml.parsers.expat
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode

import pytest

from tests.support.stack import Gate, only
from tests.support.stage import FORM, Response

TASKS = 120_000  # of some 440 bytes each: more than 50 MB
GROWTH = 16 << 20


def task(number: int) -> str:
    """One task as luigid lists it, with the number in it."""
    return (
        f'"Load_2026_01_02_{number:08d}": {{"status": "PENDING", "name": "Load", "display_name": "Load(date=2026-01-02, part={number})", '
        '"priority": 0, "resources": {"database": 1}, "tracking_url": null, "status_message": "Z\\u00fcrich \\u2192 \\"done\\"", '
        '"progress_percentage": null, "params": {"date": "2026-01-02", "part": "1"}, "worker_running": null, "time_running": null, '
        '"start_time": 1760000000.125, "last_updated": 1760000000.125, "re_enable_able": false, "deps": ["Extract_1", "Extract_2"]}'
    )


Script: TypeAlias = Callable[["Luigid", socket.socket, str, int], bool]


class Luigid:
    """A scripted upstream on raw sockets: `script` is given each request's path and its connection,
    and answers or does not.
    """

    def __init__(self, script: Script) -> None:
        """`script` gets the connection, the path and the number of the request on it; True keeps
        the connection open.
        """
        self.script = script
        self.read = read_request  # how much of a request is read before `script` is asked
        self.seen: list[str] = []
        self.heads: list[str] = []
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            number = 0
            while (head := self.read(client)) is not None:
                number += 1
                path = head.split()[1]
                self.heads.append(head)
                self.seen.append(path)
                if not self.script(self, client, path, number):
                    return

    def end(self) -> None:
        """Stop listening."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


def read_head(client: socket.socket) -> str | None:
    """Read no more than the head of a request; the head, None when there is no more."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = client.recv(1)
        if not part:
            return None
        data += part
    return data.decode()


def read_request(client: socket.socket) -> str | None:
    """Read one request to its end; its head, None when there is no more."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(65536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    length = next(
        int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")
    )
    while len(body) < length:
        body += client.recv(65536)
    return head.decode()


def answer(client: socket.socket, body: bytes = b'{"response": null}') -> bool:
    """Answer one call well; True, to keep the connection open."""
    client.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
    )
    return True


def stream_tasks(client: socket.socket, count: int = TASKS, *, chunked: bool = False) -> None:
    """Answer with a task list, as long as it is, made while it is sent."""
    parts = [b'{"response": {'] + [b""] * (count // 100) + [b"}}"]
    for group in range(count // 100):
        first = group * 100
        parts[group + 1] = (
            (", " if group else "") + ", ".join(map(task, range(first, first + 100)))
        ).encode()
    framing = (
        b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % sum(map(len, parts))
    )
    client.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\n"
        + framing
        + b"\r\n\r\n"
    )
    for part in parts:
        client.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
    if chunked:
        client.sendall(b"0\r\n\r\n")


def gate_before(directory: Path, port: int, **settings: object) -> Gate:
    """A gate with one luigid-like upstream."""
    upstream = {"name": "luigi", "protocol": "luigi", "url": f"http://127.0.0.1:{port}", **settings}
    return Gate(directory, [upstream], tls=False).start()


def post(
    gate: Gate, role: str, path: str, body: bytes, kind: str = FORM
) -> tuple[HTTPConnection, Any]:
    """Send a call and read the head of its answer alone."""
    connection = HTTPConnection("127.0.0.1", gate.port, timeout=60)
    connection.request(
        "POST", path, body, {"Content-Type": kind, "Authorization": f"Bearer {gate.token(role)}"}
    )
    return connection, connection.getresponse()


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate before a luigid with a task list of more than 50 MB; `chunked` in the family asks for
    it without a length.
    """

    def script(luigid: Luigid, client: socket.socket, path: str, number: int) -> bool:
        if path == "/api/task_list":
            stream_tasks(client)
        elif path == "/api/task_search":
            stream_tasks(client, chunked=True)
        else:
            answer(client, json.dumps({"response": "x" * 300_000}).encode())
        return True

    luigid = Luigid(script)
    gate = gate_before(tmp_path_factory.mktemp("huge"), luigid.port)
    for path in ("/api/worker_list", "/api/resource_list"):
        assert gate.ask(path, "viewer", b"data={}").status == 200  # what any call loads is loaded
    call = b"<?xml version='1.0'?><methodCall><methodName>worker_list</methodName></methodCall>"
    assert gate.ask("/RPC2", "viewer", call, kind="text/xml").status == 200
    yield gate
    assert gate.stop() == 0
    luigid.end()


@pytest.mark.parametrize(
    "path", ["/api/task_list", "/api/task_search"], ids=["with a length", "chunked"]
)
def test_fifty_megabytes_of_json_in_little_memory(huge: Gate, path: str) -> None:
    """A 50 MB answer passes unchanged, at the pace of its reader, and the gate's memory grows by
    less than 16 MB.
    """
    since, before = huge.mark(), huge.peak_memory()
    data = (
        {"status": "PENDING", "upstream_status": ""}
        if path.endswith("list")
        else {"task_str": "Load"}
    )
    connection, response = post(
        huge, "viewer", path, urlencode({"data": json.dumps(data)}).encode()
    )
    assert response.status == 200
    size = 0
    tail = b""
    while part := response.read(1 << 20):
        size += len(part)
        tail = (tail + part)[-2000:]
    connection.close()
    assert size > 50_000_000
    assert tail.endswith(task(TASKS - 1).encode() + b"}}")
    assert huge.peak_memory() - before < GROWTH
    completed = only(huge.calls(since), stage="completed")
    assert (completed["outcome"], completed["bytes"]) == ("ok", size)


@pytest.mark.exhaustive
def test_fifty_megabytes_as_xml_rpc_in_little_memory(huge: Gate) -> None:
    """The same list through /RPC2 becomes one well-formed methodResponse of every task, written
    while it arrives.
    """
    since, before = huge.mark(), huge.peak_memory()
    values = "<param><value>PENDING</value></param><param><value></value></param>"
    body = f"<?xml version='1.0'?><methodCall><methodName>task_list</methodName><params>{values}</params></methodCall>".encode()
    connection, response = post(huge, "viewer", "/RPC2", body, "text/xml")
    assert (response.status, response.getheader("content-type")) == (200, "text/xml")
    parser = xml.parsers.expat.ParserCreate()
    counts = {b"<methodResponse>": 0, b"<struct>": 0, b"<array>": 0}
    size = 0
    tail = b""
    while part := response.read(1 << 20):
        size += len(part)
        parser.Parse(part, False)
        text = tail + part
        tail = text[-len(b"<methodResponse>") + 1 :]
        for tag in counts:
            counts[tag] += text.count(tag) - tail.count(tag)
    parser.Parse(b"", True)
    connection.close()
    assert counts == {b"<methodResponse>": 1, b"<struct>": 1 + 3 * TASKS, b"<array>": TASKS}
    assert size > 50_000_000
    assert huge.peak_memory() - before < GROWTH
    completed = only(huge.calls(since), stage="completed")
    assert (completed["outcome"], completed["bytes"]) == ("ok", size)


@pytest.mark.parametrize("path", ["/api/task_list", "/RPC2"])
def test_a_client_that_leaves_in_the_middle(huge: Gate, path: str) -> None:
    """The upstream's answer is given up, and the record says that the client was gone and how much
    it got.
    """
    since = huge.mark()
    call = b"<methodCall><methodName>task_list</methodName></methodCall>"
    connection, response = post(
        huge,
        "viewer",
        path,
        b"data={}" if path != "/RPC2" else call,
        FORM if path != "/RPC2" else "text/xml",
    )
    assert len(response.read(100_000)) == 100_000
    assert connection.sock is not None
    connection.close()
    response.close()
    completed = only(huge.calls(since), stage="completed")
    assert (completed["outcome"], completed["reason"]) == ("failed", "client-gone")
    assert 100_000 <= completed["bytes"] < 50_000_000


def test_a_client_that_does_not_read_holds_no_answer(huge: Gate) -> None:
    """While one client takes nothing of its 50 MB, memory stays where it is and others are served."""
    since, before = huge.mark(), huge.peak_memory()
    slow = [
        post(huge, "viewer", "/api/task_list", b'data={"search":"%d"}' % number)
        for number in (1, 2)
    ]
    assert [response.status for _, response in slow] == [200, 200]
    for _ in range(5):
        assert huge.ask("/api/worker_list", "viewer", b"data={}").status == 200
    assert huge.peak_memory() - before < GROWTH
    for connection, response in slow:
        connection.close()
        response.close()
    reasons = [r.get("reason") for r in huge.calls(since) if r["stage"] == "completed"]
    assert sorted(reasons, key=str) == [None] * 5 + ["client-gone"] * 2


# -- upstreams that fail


class Wires:
    """One gate with many upstreams, each under a prefix of its own; a test takes the next and says
    what it does.

    The gate soon loses patience with the last one; `down` is a port that nobody listens on, and
    that nobody else gets.
    """

    COUNT = 32

    def __init__(self, directory: Path) -> None:
        self.luigids = [
            Luigid(lambda self, client, path, number: answer(client)) for _ in range(self.COUNT)
        ]
        upstreams: list[dict[str, object]] = [
            {
                "name": f"luigi-{number}",
                "protocol": "luigi",
                "url": f"http://127.0.0.1:{luigid.port}",
                "path_prefix": f"/w{number}",
            }
            for number, luigid in enumerate(self.luigids)
        ]
        upstreams[-1]["response_timeout_seconds"] = 1.0
        self.down = socket.socket()
        self.down.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{self.down.getsockname()[1]}"
        upstreams.append({"name": "down", "protocol": "luigi", "url": url, "path_prefix": "/down"})
        self.gate = Gate(directory, upstreams, tls=False).start()
        self._next = iter(range(self.COUNT - 1))

    def take(self, script: Script, *, impatient: bool = False) -> "Wire":
        """An upstream that nobody has used; the only one that the gate waits no more than a second
        for, if `impatient`.
        """
        number = self.COUNT - 1 if impatient else next(self._next)
        self.luigids[number].script = script
        return Wire(self.gate, self.luigids[number], f"/w{number}")


class Wire:
    """One upstream of a test, and calls to it through the gate."""

    def __init__(self, gate: Gate, luigid: Luigid, prefix: str) -> None:
        self.gate = gate
        self.luigid = luigid
        self.prefix = prefix
        self.since = gate.mark()

    def call(self, method: str, role: str, **args: object) -> Response:
        """Call a method as a stock worker does."""
        return self.gate.ask(
            f"{self.prefix}/api/{method}", role, urlencode({"data": json.dumps(args)}).encode()
        )

    @property
    def seen(self) -> list[str]:
        """The methods that the upstream was sent."""
        return [path.removeprefix("/api/") for path in self.luigid.seen]

    def outcomes(self) -> list[str]:
        """How the calls ended, by the journal: ok, or the reason."""
        return [
            str(r.get("reason", r["outcome"]))
            for r in self.gate.calls(self.since)
            if r["stage"] == "completed"
        ]


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    """One gate for all tests below."""
    wires = Wires(tmp_path_factory.mktemp("wires"))
    yield wires
    assert wires.gate.stop() == 0
    wires.down.close()
    for luigid in wires.luigids:
        luigid.end()


@pytest.mark.parametrize("method", ["is_paused", "pause"])
def test_an_upstream_that_is_down_is_said_and_recorded(wires: Wires, method: str) -> None:
    """Nobody listens: 502 with Retry-After and the reason in the status line, and a completed
    record with the reason.
    """
    gate, since = wires.gate, wires.gate.mark()
    response = gate.ask(f"/down/api/{method}", "admin", b"data={}")
    assert (response.status, response.refused) == (502, "upstream-unreachable")
    assert int(response.headers["retry-after"]) >= 1
    completed = only(gate.calls(since), stage="completed")
    assert (completed["outcome"], completed["reason"], completed["status"]) == (
        "failed",
        "upstream-unreachable",
        502,
    )


def test_an_upstream_that_says_nothing_is_given_up(wires: Wires) -> None:
    """Without a first byte in time: 504, and neither a view nor an acting call is sent again."""
    wire = wires.take(lambda luigid, client, path, number: bool(client.recv(1)), impatient=True)
    for method in ("is_paused", "pause"):
        response = wire.call(method, "admin")
        assert (response.status, response.refused) == (504, "upstream-timeout")
    assert wire.seen == ["is_paused", "pause"]
    assert wire.outcomes() == ["upstream-timeout"] * 2


def test_an_answer_cut_short_is_never_passed_as_whole(wires: Wires) -> None:
    """An upstream that dies in the middle: a small answer becomes a 502, a large one a cut
    connection; both are recorded so.
    """

    def script(luigid: Luigid, client: socket.socket, path: str, number: int) -> bool:
        body = b'{"response": "' + b"x" * (3_000_000 if path == "/api/task_list" else 1000)
        client.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % (len(body) + 2)
            + body
        )
        return False

    wire = wires.take(script)
    response = wire.call("worker_list", "viewer")
    assert (response.status, response.refused) == (502, "upstream-closed")
    connection, large = post(wire.gate, "viewer", f"{wire.prefix}/api/task_list", b"data={}")
    assert large.status == 200
    with pytest.raises((IncompleteRead, ConnectionError)):
        large.read()
    connection.close()
    assert wire.outcomes() == ["upstream-closed"] * 2


JSON_200 = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
NULL = b'{"response": null}'
BROKEN: dict[str, tuple[bytes, int, str]] = {
    "garbage": (bytes(range(256)), 502, "upstream-invalid"),
    "HTML without HTTP": (b"<html><h1>It works!</h1></html>", 502, "upstream-invalid"),
    "HTML": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        502,
        "upstream-invalid",
    ),
    "an error page": (
        b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        502,
        "upstream-error",
    ),
    "another's page": (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        502,
        "upstream-invalid",
    ),
    "a redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
        502,
        "upstream-invalid",
    ),
    "a length too long": (JSON_200 + b"Content-Length: 100\r\n\r\n" + NULL, 502, "upstream-closed"),
    "a length too short": (JSON_200 + b"Content-Length: 5\r\n\r\n" + NULL, 502, "upstream-invalid"),
    "two lengths": (
        JSON_200 + b"Content-Length: 18\r\nContent-Length: 19\r\n\r\n" + NULL,
        502,
        "upstream-invalid",
    ),
    "a length and chunks": (
        JSON_200
        + b"Content-Length: 18\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n"
        + NULL
        + b"\r\n0\r\n\r\n",
        502,
        "upstream-invalid",
    ),
    "endless headers": (JSON_200 + b"X: y\r\n" * 20_000, 502, "upstream-invalid"),
    "half a head": (JSON_200, 502, "upstream-closed"),
    "nothing": (b"", 502, "upstream-closed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_one_clear_refusal_and_one_record(wires: Wires, name: str) -> None:
    """Whatever the upstream says, and whether the call looks or acts: it is sent once, refused
    once, and its record has the same reason.
    """
    said, status, reason = BROKEN[name]

    def script(luigid: Luigid, client: socket.socket, path: str, number: int) -> bool:
        client.sendall(said)
        return False

    wire = wires.take(script)
    for method in ("worker_list", "pause"):
        response = wire.call(method, "admin")
        assert (response.status, response.refused) == (status, reason)
    assert wire.seen == ["worker_list", "pause"]
    completed = [record for record in wire.gate.calls(wire.since) if record["stage"] == "completed"]
    assert [(record["outcome"], record["reason"], record["status"]) for record in completed] == [
        ("failed", reason, status)
    ] * 2


def test_an_upstream_that_closes_its_half_is_not_waited_for(wires: Wires) -> None:
    """It says that it will not answer, but goes on reading: refused at once, long before the first
    byte is overdue.
    """

    def script(luigid: Luigid, client: socket.socket, path: str, number: int) -> bool:
        client.shutdown(socket.SHUT_WR)
        return client.recv(1) != b""  # until the gate closes too

    wire = wires.take(script)
    for method in ("worker_list", "pause"):
        response = wire.call(method, "admin")
        assert (response.status, response.refused) == (502, "upstream-closed")
    assert wire.seen == ["worker_list", "pause"]
    assert wire.outcomes() == ["upstream-closed"] * 2


def test_an_endless_answer_that_has_to_be_whole_is_refused(wires: Wires) -> None:
    """An answer that the gate rewrites is read up to a bound, then refused and its connection cut,
    though the upstream would go on.
    """
    cut = threading.Event()

    def script(luigid: Luigid, client: socket.socket, path: str, number: int) -> bool:
        client.sendall(JSON_200 + b'\r\n{"response": "')
        try:
            while True:
                client.sendall(b"x" * 65_536)
        except OSError:
            cut.set()
        return False

    wire = wires.take(script)
    response = wire.call("get_work", "worker", worker="w", host="h")
    assert (response.status, response.refused) == (502, "upstream-invalid")
    assert cut.wait(20)
    assert wire.seen == ["get_work"]
    assert wire.outcomes() == ["upstream-invalid"]


@pytest.mark.parametrize(
    ("said", "status", "outcome"),
    [
        (JSON_200 + b"Content-Length: 18\r\n\r\n" + NULL, 200, "ok"),
        (b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n", 502, "upstream-invalid"),
    ],
    ids=["good", "bad"],
)
def test_an_answer_before_the_end_of_the_call_counts_and_ends_the_connection(
    wires: Wires, said: bytes, status: int, outcome: str
) -> None:
    """The upstream has answered without reading it all: that is the answer, and no other call is
    sent behind half a call.
    """
    ended = threading.Event()

    def script(luigid: Luigid, client: socket.socket, path: str, number: int) -> bool:
        client.sendall(said)
        ended.wait(20)
        return False

    wire = wires.take(script)
    wire.luigid.read = read_head
    assert (
        wire.call(
            "add_task", "worker", worker="w", task_id="T_1", params={"text": "x" * 10_000_000}
        ).status
        == status
    )
    wire.luigid.read = read_request
    assert wire.call("pause", "admin").status == status
    ended.set()
    assert wire.seen == ["add_task", "pause"]
    assert wire.luigid.connections == 2
    assert wire.outcomes() == [outcome] * 2


# -- kept-alive connections that are dead


def hang_up_on_reuse(luigid: Luigid, client: socket.socket, path: str, number: int) -> bool:
    """Answer the first request of a connection; take the second and hang up without a word."""
    return number == 1 and answer(client)


def test_a_view_is_sent_again_on_a_dead_connection(wires: Wires) -> None:
    """A kept-alive connection that ends on its second request costs a view nothing: it is sent once
    more, on a new one.
    """
    wire = wires.take(hang_up_on_reuse)
    assert [
        wire.call(method, "viewer").status
        for method in ("is_paused", "worker_list", "resource_list")
    ] == [200] * 3
    assert wire.seen == [
        "is_paused",
        "worker_list",
        "worker_list",
        "resource_list",
        "resource_list",
    ]
    assert wire.luigid.connections == 3
    assert wire.outcomes() == ["ok"] * 3


@pytest.mark.parametrize(
    ("method", "role", "args"),
    [
        ("pause", "admin", {}),
        ("get_work", "worker", {"worker": "w", "host": "h"}),
        ("add_task", "worker", {"worker": "w", "task_id": "T_1"}),
        ("add_worker", "worker", {"worker": "w", "info": []}),
        ("forgive_failures", "operator", {"task_id": "T_1"}),
    ],
)
def test_an_acting_call_is_never_sent_twice(
    wires: Wires, method: str, role: str, args: dict[str, object]
) -> None:
    """On the same dead connection an acting call fails: the upstream has seen it once, and may have
    acted on it.
    """
    wire = wires.take(hang_up_on_reuse)
    assert wire.call("is_paused", "viewer").status == 200
    response = wire.call(method, role, **args)
    assert (response.status, response.refused) == (502, "upstream-closed")
    assert wire.seen == ["is_paused", method]
    assert wire.call(method, role, **args).status == 200
    assert wire.outcomes() == ["ok", "upstream-closed", "ok"]


def test_a_view_is_sent_again_once_and_no_more(wires: Wires) -> None:
    """An upstream that hangs up on everything is a 502, after one attempt on a new connection, not
    an endless one.
    """
    wire = wires.take(
        lambda luigid, client, path, number: path == "/api/is_paused" and answer(client)
    )
    assert wire.call("is_paused", "viewer").status == 200
    response = wire.call("worker_list", "viewer")
    assert (response.status, response.refused) == (502, "upstream-closed")
    assert wire.seen == ["is_paused", "worker_list", "worker_list"]
    assert wire.call("resource_list", "viewer").status == 502
    assert wire.seen[3:] == ["resource_list"]


def test_connections_are_kept(wires: Wires) -> None:
    """Fifty calls, each of a client of its own, need one connection to the upstream."""
    wire = wires.take(lambda luigid, client, path, number: answer(client))
    for number in range(50):
        assert wire.call("forgive_failures", "operator", task_id=f"T_{number}").status == 200
    assert (wire.luigid.connections, len(wire.seen)) == (1, 50)


def test_connections_that_ended_in_peace_cost_no_call(wires: Wires) -> None:
    """Kept connections that ended while nobody called, as when luigid is restarted, are not used:
    not even an acting call fails.
    """
    wire = wires.take(lambda luigid, client, path, number: not answer(client))
    for number in range(3):
        assert wire.call("forgive_failures", "operator", task_id=f"T_{number}").status == 200
        assert wire.luigid.connections == number + 1
        # takes a few requests of its own, long enough for the end of the connection to arrive
        wire.gate.mark()


def test_nothing_of_the_client_but_the_call_reaches_the_upstream(wires: Wires) -> None:
    """Law 4: no header, cookie or credential of the caller's, and no identity header that it made
    up.
    """
    wire = wires.take(lambda luigid, client, path, number: answer(client))
    own = {
        "X_Forwarded_User": "root",
        "X_Remote_User": "root",
        "Forwarded": "for=1.2.3.4",
        "Accept_Language": "de",
        "User_Agent": "me",
    }
    assert wire.gate.ask(f"{wire.prefix}/api/pause", "admin", b"data={}", **own).status == 200
    [head] = wire.luigid.heads
    lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    assert lines == {
        "host": f"127.0.0.1:{wire.luigid.port}",
        "content-type": FORM,
        "content-length": "7",
    }
    assert wire.gate.token("admin").encode() not in wire.gate.written()
