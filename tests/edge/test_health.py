"""Liveness and readiness over a real connection, with doubles for journal and verifier."""

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.edge.health import HealthEndpoints
from tests.support.edge_server import RecordingHandler, edge
from tests.support.raw_client import get, parse_responses, post


class _Gate:
    def __init__(self, handler: RecordingHandler, draining: bool) -> None:
        self.draining = draining
        self.handle = handler.handle
        self.refuse = handler.refuse


def endpoints(
    gate: RecordingHandler, *, keys: int = 1, writable: bool = True, draining: bool = False
) -> Any:
    """Return the endpoints of a gate that echoes, with what they read of journal and verifier."""
    journal = SimpleNamespace(writable=writable)
    verifier = SimpleNamespace(
        issuers=[
            SimpleNamespace(source=SimpleNamespace(usable_keys=0)),
            SimpleNamespace(source=SimpleNamespace(usable_keys=keys)),
        ]
    )
    return HealthEndpoints(_Gate(gate, draining), journal, verifier)  # type: ignore[arg-type]  # doubles with the attributes that are read


async def exchange(request: bytes, **state: Any) -> tuple[int, bytes, RecordingHandler]:
    """Send one request; return status, body, and what reached the gate."""
    handler = RecordingHandler()
    async with edge(endpoints(handler, **state)) as gate:
        [response] = parse_responses(await gate.talk(request))
        return response.status, response.body, handler


@pytest.mark.parametrize(
    "state", [{}, {"keys": 0}, {"writable": False}, {"draining": True}], ids=str
)
async def test_a_running_process_is_alive(state: dict[str, Any]) -> None:
    """healthz answers ok without a credential, whatever else is wrong: a restart would not help."""
    status, body, handler = await exchange(get("/-/healthz"), **state)
    assert (status, body) == (200, b"ok\n")
    assert not handler.requests


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        ({}, True),
        ({"keys": 0}, False),
        ({"writable": False}, False),
        ({"draining": True}, False),
    ],
    ids=["all well", "no keys", "journal", "draining"],
)
async def test_a_process_is_ready_when_a_call_could_be_served(
    state: dict[str, Any], ready: bool
) -> None:
    """Readiness needs keys of one issuer, a writable journal and no shutdown.

    The response does not reveal which one is missing.
    """
    status, body, handler = await exchange(get("/-/readyz"), **state)
    assert (status, body) == ((200, b"ready\n") if ready else (503, b"not ready\n"))
    assert not handler.requests


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
async def test_everything_else_goes_to_the_gate(request_bytes: bytes) -> None:
    """No other path or HTTP method bypasses authentication: the raw path is compared."""
    status, _, handler = await exchange(request_bytes)
    assert status == 200
    assert len(handler.requests) == 1


async def test_the_response_to_head_has_no_body() -> None:
    """Load balancers that send HEAD get the status alone."""
    async with edge(endpoints(RecordingHandler())) as gate:
        data = await gate.talk(b"HEAD /-/readyz HTTP/1.1\r\nHost: gate\r\n\r\n")
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert data.endswith(b"\r\n\r\n")
