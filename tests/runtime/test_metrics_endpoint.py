"""The endpoint that scrapers ask."""

import aiohttp
import pytest
from structlog.testing import capture_logs

from proxy.edge.server.listener import bind
from proxy.runtime.metrics_endpoint import serve_metrics
from proxy.telemetry.metrics import Metrics
from tests.support.edge_server import until
from tests.support.loops import check_loop

_check_loop = pytest.fixture(autouse=True)(check_loop)


async def get(port: int, path: str = "/metrics") -> tuple[int, str]:
    """Return status and body of one GET."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_a_scrape_shows_the_metrics() -> None:
    """``GET /metrics`` answers in the exposition format."""
    metrics = Metrics()
    metrics.call_decided("luigi", "view", "allowed")
    endpoint = await serve_metrics(metrics, "127.0.0.1", 0)
    status, text = await get(endpoint.port)
    await endpoint.close()
    assert status == 200
    assert (
        'callgate_calls_total{class="view",reason="allowed",upstream="luigi"} 1.0'
        in text.splitlines()
    )


@pytest.mark.parametrize("path", ["/", "/-/healthz", "/api/task_list"])
async def test_nothing_else_is_served(path: str) -> None:
    """The endpoint has one path."""
    endpoint = await serve_metrics(Metrics(), "127.0.0.1", 0)
    assert (await get(endpoint.port, path))[0] == 404
    await endpoint.close()


async def test_a_busy_port_is_retried() -> None:
    """The endpoint warns once and serves as soon as the port is free."""
    with bind("127.0.0.1", 0) as taken, capture_logs() as logs:
        port = taken.getsockname()[1]
        endpoint = await serve_metrics(Metrics(), "127.0.0.1", port, retry_seconds=0.02)
        await until(lambda: logs)
        assert [(line["log_level"], line["port"], line["why"]) for line in logs] == [
            ("warning", port, "Address already in use")
        ]
        taken.close()
        await until(lambda: len(logs) > 1)
        assert (logs[1]["event"], logs[1]["port"]) == ("metrics listen", port)
        assert (await get(port))[0] == 200
        await endpoint.close()
        await endpoint.close()


async def test_a_port_is_never_shared() -> None:
    """Two processes on one port would each answer some of the scrapes.

    An endpoint that is closed while it retries leaves the port alone.
    """
    first = await serve_metrics(Metrics(), "127.0.0.1", 0)
    second = await serve_metrics(Metrics(), "127.0.0.1", first.port)
    with pytest.raises(OSError):
        bind("127.0.0.1", first.port, reuse_port=True)
    await second.close()
    await first.close()
    with bind("127.0.0.1", first.port) as free:
        assert free.getsockname()[1] == first.port
