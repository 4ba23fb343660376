"""The keys of a catalog in front of a real XML-RPC server, with the scope that the guide shows.

Tasks, related tasks, the worker, its heartbeat and sharing mean what they mean for luigid.
"""

import shutil
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xmlrpc.server import SimpleXMLRPCServer

import pytest

from tests.support.stack import Gate
from tests.support.stage import POLICIES

CATALOG = """
name = "jobs"
protocol = "xmlrpc"
[methods.begin]
permission = "work"
help = "Begin a job after others."
task = ["job"]
related_tasks = ["after"]
worker = "runner"
must_start_with = { job = "family" }
arguments = [
  { name = "runner", type = "worker-id", required = true },
  { name = "family", type = "string", required = true },
  { name = "job", type = "string" },
  { name = "after", type = "task-ids" },
]
[methods.beat]
permission = "work"
help = "Keep the runner alive."
worker = "runner"
heartbeat = true
arguments = [{ name = "runner", type = "worker-id", required = true }]
[methods.own]
permission = "view"
help = "Count the calls."
[methods.common]
permission = "view"
shared = true
help = "Count the calls."
"""
SCOPE = """
@id("etl-workers-tasks") permit (principal in Role::"etl-worker", action in Action::"work", resource)
when { context has task && context.task like "etl.*" };
@id("etl-workers-alive") permit (principal in Role::"etl-worker", action == Action::"beat", resource);
"""
ROLES = '\n[[roles.etl-worker]]\nissuer = "local"\ngroup = "etl-worker"\n'


class Server(SimpleXMLRPCServer):
    """CPython's server, a thread for each connection. A view waits until two have come."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), logRequests=False, allow_none=True)
        self.ran: list[tuple[Any, ...]] = []
        self.views = 0
        self.barrier = threading.Barrier(2)
        self.register_function(lambda *args: self.ran.append(args), "begin")
        self.register_function(lambda *args: self.ran.append(args), "beat")
        self.register_function(self._own, "own")
        self.register_function(self._common, "common")
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def _own(self) -> int:
        """Answer only when both callers' calls have arrived: a shared flight never would."""
        return self.barrier.wait(timeout=20)

    def _common(self) -> int:
        self.views += 1
        return self.views

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve each client in a thread of its own."""
        threading.Thread(target=self._serve, args=(request, client_address), daemon=True).start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has left
        finally:
            self.shutdown_request(request)

    def end(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests here."""
    running = Server()
    yield running
    running.end()


@pytest.fixture(scope="module")
def gate(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate with default settings before `server`."""
    policies = tmp_path_factory.mktemp("jobs") / "policies"
    shutil.copytree(POLICIES, policies)
    (policies / "catalogs" / "jobs.toml").write_text(CATALOG)
    (policies / "scope.cedar").write_text(SCOPE)
    with (policies / "roles.toml").open("a") as file:
        file.write(ROLES)
    upstream = {
        "name": "jobs",
        "protocol": "xmlrpc",
        "catalog": "jobs",
        "url": f"http://127.0.0.1:{server.server_address[1]}",
        "path_prefix": "/",
    }
    directory = tmp_path_factory.mktemp("gate")
    running = Gate(directory, [upstream], policies=policies, tls=False).start()
    yield running
    assert running.stop() == 0


def proxy(gate: Gate, subject: str, role: str) -> Any:
    """Return CPython's client with a token of its own."""
    token = gate.issuer.issue(subject, [role], 3600, time.time())
    headers = [("Authorization", f"Bearer {token}")]
    return xmlrpc.client.ServerProxy(f"{gate.url}/RPC2", headers=headers, allow_none=True)


def test_a_family_scope_holds(gate: Gate, server: Server) -> None:
    """It holds for the task, for each related one, and for a call that names none."""
    alice = proxy(gate, "alice", "etl-worker")
    refused = [
        ("me", "prod.B", "prod.B_1", []),
        ("me", "etl.A", "etl.A_1", ["etl.B_1", "prod.B_1"]),
        ("me", "etl.A"),
        ("me", "etl.A", None, None),
    ]
    for args in refused:
        with pytest.raises(xmlrpc.client.Fault, match="no-policy-allows"):
            alice.begin(*args)
    for job in ("etl.B_1", ""):
        with pytest.raises(xmlrpc.client.Fault, match="job must start with family"):
            alice.begin("me", "etl.A", job, [])
    assert server.ran == []
    alice.begin("me", "etl.A", "etl.A_1", ["etl.B_1"])
    assert server.ran == [("me [local:alice]", "etl.A", "etl.A_1", ["etl.B_1"])]


def test_no_identity_speaks_as_anothers_worker(gate: Gate, server: Server) -> None:
    """The server sees whose runner it is; heartbeats share their records."""
    server.ran.clear()
    since = gate.mark()
    alice, bob = proxy(gate, "alice", "etl-worker"), proxy(gate, "bob", "etl-worker")
    for _ in range(3):
        alice.beat("me")
    bob.beat("me")
    assert server.ran == [("me [local:alice]",)] * 3 + [("me [local:bob]",)]
    with pytest.raises(xmlrpc.client.Fault, match="not-your-worker"):
        bob.beat("me [local:alice]")
    assert len(server.ran) == 4
    records = [r for r in gate.records()[since:] if r.get("method") == "beat"]
    assert len(records) == 2, "one window each"


def test_views_share_what_the_catalog_says_and_nothing_else(gate: Gate, server: Server) -> None:
    """Two identities ask at once: by default the server gets both calls."""
    clients = [proxy(gate, name, "viewer") for name in ("carol", "dave")]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda client: client.own(), clients))
    assert sorted(answers) == [0, 1], "each got an answer of its own"
    first = clients[0].common()
    assert clients[1].common() == first == server.views, "it was kept, as the catalog asks"
