"""The numbers a scraper gets."""

import re

import aiohttp
import pytest
from structlog.testing import capture_logs

from proxy.edge.server.listener import bind
from proxy.telemetry.metrics import Metrics, serve_metrics
from tests.support.edge_server import run, until


async def scraped(meter: Metrics, path: str = "/metrics") -> tuple[int, str]:
    """Ask the real listener, as a scraper does."""
    runner = await serve_metrics(meter, "127.0.0.1", 0)
    try:
        port = runner.port
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status, await answer.text()
    finally:
        await runner.cleanup()


def test_calls_are_counted_by_upstream_class_and_reason() -> None:
    """Every decided call stands in exactly one series, and every rejected request in one."""

    async def main() -> None:
        meter = Metrics()
        for _ in range(3):
            meter.call_decided("luigi", "view", "allowed")
        meter.call_decided("luigi", "admin", "no-policy-allows")
        meter.request_rejected("no-credential")
        meter.request_rejected("no-credential")
        status, text = await scraped(meter)
        assert status == 200
        lines = text.splitlines()
        assert 'callgate_calls_total{class="view",reason="allowed",upstream="luigi"} 3.0' in lines
        assert (
            'callgate_calls_total{class="admin",reason="no-policy-allows",upstream="luigi"} 1.0'
            in lines
        )
        assert 'callgate_rejected_requests_total{reason="no-credential"} 2.0' in lines

    run(main())


def test_what_became_of_calls_is_counted_by_reason() -> None:
    """An upstream that fails shows in a series of its own, under the code that its callers were
    given.
    """

    async def main() -> None:
        meter = Metrics()
        meter.call_completed(0.1)
        meter.call_completed(0.1, "upstream-unreachable")
        _, text = await scraped(meter)
        assert (
            'callgate_completed_calls_total{outcome="upstream-unreachable"} 1.0'
            in text.splitlines()
        )
        assert 'callgate_completed_calls_total{outcome="ok"} 1.0' in text.splitlines()

    run(main())


@pytest.mark.parametrize(
    ("seconds", "first"),
    [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (10.0, "10.0"), (11.0, "+Inf")],
)
def test_durations_fall_into_every_bucket_that_holds_them(seconds: float, first: str) -> None:
    """Buckets are cumulative, as Prometheus reads them: a bound holds all that took no longer."""

    async def main() -> None:
        meter = Metrics()
        meter.call_completed(seconds)
        _, text = await scraped(meter)
        buckets = dict(re.findall(r'callgate_call_seconds_bucket\{le="([^"]+)"\} (\S+)', text))
        bounds = list(buckets)
        assert bounds[-1] == "+Inf"
        assert [buckets[bound] == "1.0" for bound in bounds] == [
            index >= bounds.index(first) for index in range(len(bounds))
        ]
        assert f"callgate_call_seconds_sum {seconds}" in text
        assert "callgate_call_seconds_count 1.0" in text

    run(main())


def test_gauges_are_read_when_somebody_asks() -> None:
    """A gauge shows its value at the time of the scrape."""

    async def main() -> None:
        meter = Metrics()
        values = iter([1.0, 2.0])
        meter.gauges.append(("callgate_thing", "A thing.", lambda: next(values)))
        assert "callgate_thing 1.0" in (await scraped(meter))[1]
        assert "callgate_thing 2.0" in (await scraped(meter))[1]

    run(main())


def test_nothing_else_is_served() -> None:
    """The listener of the metrics knows one path."""

    async def main() -> None:
        for path in ("/", "/-/healthz", "/api/task_list"):
            assert (await scraped(Metrics(), path))[0] == 404

    run(main())


def test_a_port_that_is_taken_is_waited_for() -> None:
    """The gate serves without its numbers, says so once, and shows them as soon as whoever has the
    port leaves.
    """

    async def main() -> None:
        with bind("127.0.0.1", 0) as taken, capture_logs() as logs:
            port = taken.getsockname()[1]
            listener = await serve_metrics(Metrics(), "127.0.0.1", port)
            await until(lambda: logs)
            assert [(line["log_level"], line["port"], line["why"]) for line in logs] == [
                ("warning", port, "Address already in use")
            ]
            taken.close()
            await until(lambda: len(logs) > 1)
            assert (logs[1]["event"], logs[1]["port"]) == ("metrics listen", port)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/metrics") as answer,
            ):
                assert answer.status == 200
            await listener.cleanup()
            await listener.cleanup()

    run(main())


def test_a_port_is_never_shared() -> None:
    """Two gates with one port would each answer some of the scrapes; and who gives up waiting
    leaves nothing behind.
    """

    async def main() -> None:
        first = await serve_metrics(Metrics(), "127.0.0.1", 0)
        second = await serve_metrics(Metrics(), "127.0.0.1", first.port)
        with pytest.raises(OSError):
            bind("127.0.0.1", first.port, reuse_port=True)
        await second.cleanup()
        await first.cleanup()
        with bind("127.0.0.1", first.port) as free:
            assert free.getsockname()[1] == first.port

    run(main())
