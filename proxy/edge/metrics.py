"""Prometheus metrics on a listener of their own, loopback only: numbers about calls, never about who made them.

The hot path adds to plain dictionaries; the collector turns them into families when somebody scrapes, which costs the
scraper and not the calls.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Meter:
    """Counts for one process. `gauges` are read when somebody scrapes: name, help, value."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str, str], int] = {}
        self._rejected: dict[str, int] = {}
        self._outcomes: dict[str, int] = {}
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self.gauges: list[tuple[str, str, Callable[[], float]]] = []

    def called(self, upstream: str, permission: str, reason: str) -> None:
        """One decided call."""
        key = (upstream, permission, reason)
        self._calls[key] = self._calls.get(key, 0) + 1

    def completed(self, seconds: float, outcome: str = "ok") -> None:
        """One allowed call answered, `seconds` after it was decided; `outcome` is ok, fault or the reason of a failure."""
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def rejected(self, reason: str) -> None:
        """One request of which no call was made."""
        self._rejected[reason] = self._rejected.get(reason, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks of a collector."""
        calls = CounterMetricFamily(
            "callgate_calls", "Decided calls by upstream, class and reason.", labels=["upstream", "class", "reason"]
        )
        for labels, count in self._calls.items():
            calls.add_metric(list(labels), count)
        yield calls
        rejected = CounterMetricFamily("callgate_rejected_requests", "Requests that never became a call.", labels=["reason"])
        for reason, count in self._rejected.items():
            rejected.add_metric([reason], count)
        yield rejected
        completed = CounterMetricFamily("callgate_completed_calls", "Allowed calls by what became of them.", labels=["outcome"])
        for outcome, count in self._outcomes.items():
            completed.add_metric([outcome], count)
        yield completed
        total, buckets = 0, []
        for bound, count in zip([*map(str, _BOUNDS), "+Inf"], self._buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        yield HistogramMetricFamily(
            "callgate_call_seconds", "From decision to the end of the answer.", buckets=buckets, sum_value=self._seconds
        )
        for name, help_text, value in self.gauges:
            yield GaugeMetricFamily(name, help_text, value=value())


async def serve_metrics(meter: Meter, address: str, port: int) -> web.AppRunner:
    """Listen for scrapers on `address` and `port`. Raises `OSError` when they are taken; end with the runner's `cleanup`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(meter)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, address, port, reuse_port=True).start()  # beside the process it replaces
    return runner
