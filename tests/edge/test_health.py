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


PROBES = {
    # HAProxy: `option httpchk`, with a path, and with `http-check send` of HTTP/1.1
    "HAProxy": b"OPTIONS / HTTP/1.0\r\n\r\n",
    "HAProxy with a path": b"OPTIONS /-/readyz HTTP/1.0\r\n\r\n",
    "HAProxy GET": b"GET /-/readyz HTTP/1.0\r\n\r\n",
    "HAProxy 1.1": b"GET /-/readyz HTTP/1.1\r\n\r\n",
    "HAProxy 1.1 with options": b"OPTIONS * HTTP/1.1\r\nhost: gate\r\n\r\n",
    # NGINX Plus `health_check uri=/-/readyz;`
    "nginx": b"GET /-/readyz HTTP/1.0\r\nHost: backend\r\nConnection: close\r\n\r\n",
    "Kubernetes": (
        b"GET /-/readyz HTTP/1.1\r\nHost: 10.1.2.3:8443\r\nUser-Agent: kube-probe/1.31\r\n"
        b"Accept: */*\r\nConnection: close\r\n\r\n"
    ),
    "AWS": (
        b"GET /-/readyz HTTP/1.1\r\nHost: 10.0.0.5:8443\r\nConnection: close\r\n"
        b"User-Agent: ELB-HealthChecker/2.0\r\nAccept-Encoding: gzip, compressed\r\n\r\n"
    ),
    "AWS, classic": (
        b"GET /-/readyz HTTP/1.1\r\nHost: 10.0.0.5:8443\r\nUser-Agent: ELB-HealthChecker/1.0\r\n"
        b"Accept: */*\r\nConnection: keep-alive\r\n\r\n"
    ),
    "GCP": (
        b"GET /-/readyz HTTP/1.1\r\nHost: 10.128.0.7\r\nUser-Agent: GoogleHC/1.0\r\n"
        b"Connection: Keep-alive\r\n\r\n"
    ),
    "wget of a container": (
        b"HEAD /-/readyz HTTP/1.1\r\nHost: localhost:8443\r\nConnection: close\r\n\r\n"
    ),
}


@pytest.mark.parametrize("probe", PROBES)
async def test_the_probes_of_balancers_are_answered(probe: str) -> None:
    """In any version of HTTP/1, with and without a Host, without a credential."""
    for state, status in (({}, 200), ({"draining": True}, 503)):
        seen, _, handler = await exchange(PROBES[probe].replace(b"HEAD", b"GET"), **state)
        assert seen == status
        assert not handler.requests
        assert not handler.rejections


async def test_a_head_probe_has_no_body() -> None:
    """Its length is that of the answer to a GET."""
    handler = RecordingHandler()
    async with edge(endpoints(handler)) as gate:
        answer = await gate.talk(PROBES["wget of a container"])
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Length: 6\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")


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
