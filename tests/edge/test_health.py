"""Liveness and readiness, asked over a real connection, with doubles for what they look at."""

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.edge.health import Probes
from tests.support.edge_server import Double, edge, get, parse_replies, post, run


def probes(
    gate: Double, *, keys: object = "keys", writable: bool = True, draining: bool = False
) -> Any:
    """Probes over a gate that echoes, with as much of journal and verifier as they read."""
    journal = SimpleNamespace(writable=writable)
    verifier = SimpleNamespace(
        issuers=[
            SimpleNamespace(source=SimpleNamespace(keys=None)),
            SimpleNamespace(source=SimpleNamespace(keys=keys)),
        ]
    )
    return Probes(_Gate(gate, draining), journal, verifier)  # type: ignore[arg-type]  # doubles for what the probes read


class _Gate:
    def __init__(self, double: Double, draining: bool) -> None:
        self.draining = draining
        self.handle = double.handle
        self.refuse = double.refuse


def asked(request: bytes, **state: Any) -> tuple[int, bytes, Double]:
    """Ask one thing; status, body, and what reached the gate."""

    async def main() -> tuple[int, bytes, Double]:
        double = Double()
        async with edge(probes(double, **state)) as gate:
            [reply] = parse_replies(await gate.talk(request))
            return reply.status, reply.body, double

    return run(main())


@pytest.mark.parametrize(
    "state", [{}, {"keys": None}, {"writable": False}, {"draining": True}], ids=str
)
def test_a_process_that_turns_is_alive(state: dict[str, Any]) -> None:
    """Whatever else is wrong, restarting would not help: healthz says ok without a credential."""
    status, body, double = asked(get("/-/healthz"), **state)
    assert (status, body) == (200, b"ok\n")
    assert not double.requests


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        ({}, True),
        ({"keys": None}, False),
        ({"writable": False}, False),
        ({"draining": True}, False),
    ],
    ids=["all well", "no keys", "journal", "draining"],
)
def test_readiness_is_whether_a_call_could_be_served(state: dict[str, Any], ready: bool) -> None:
    """Keys of one issuer, a journal that can be written, no shutdown; and not a word about which is
    missing.
    """
    status, body, double = asked(get("/-/readyz"), **state)
    assert (status, body) == ((200, b"ready\n") if ready else (503, b"not ready\n"))
    assert not double.requests


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"", path="/-/healthz"),
        get("/-/"),
        get("/-/healthz/"),
        get("/-/metrics"),
        get("/x/-/healthz"),
        get("/-/%68ealthz"),
    ],
    ids=["POST", "directory", "slash", "metrics", "below", "encoded"],
)
def test_everything_else_goes_to_the_gate(request_bytes: bytes) -> None:
    """No other path or verb gets past authentication: one reading of the raw path."""
    status, _, double = asked(request_bytes)
    assert status == 200
    assert len(double.requests) == 1


def test_a_head_probe_has_no_body() -> None:
    """Load balancers that ask with HEAD get the status alone."""

    async def main() -> None:
        async with edge(probes(Double())) as gate:
            data = await gate.talk(b"HEAD /-/readyz HTTP/1.1\r\nHost: gate\r\n\r\n")
            assert data.startswith(b"HTTP/1.1 200 OK\r\n")
            assert data.endswith(b"\r\n\r\n")

    run(main())
