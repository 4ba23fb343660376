"""Prometheus metrics on a listener of their own, loopback only: numbers about calls, never about
who made them.

The hot path adds to plain dictionaries; the collector turns them into families when somebody
scrapes, which costs the scraper and not the calls.
"""

import asyncio
import itertools
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from proxy.edge.server.listener import Listener, bind
from proxy.edge.server.server import Limits, Server, new_request_id_source
from proxy.errors import Rejected
from proxy.model import Peer, Request, Response

_SCRAPERS = 16  # connections at once
_LAST_SECONDS = 1.0  # for a scrape in hand when the gate ends
_AGAIN_SECONDS = 0.5  # between two attempts to get the port
_TOLD_AFTER = 4  # attempts: the process that this one replaces gives it up sooner
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Metrics:
    """Counts for one process. `gauges` are read when somebody scrapes: name, help, value."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str, str], int] = {}
        self._rejected: dict[str, int] = {}
        self._outcomes: dict[str, int] = {}
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self.gauges: list[tuple[str, str, Callable[[], float]]] = []

    def call_decided(self, upstream: str, permission: str, reason: str) -> None:
        """One decided call."""
        key = (upstream, permission, reason)
        self._calls[key] = self._calls.get(key, 0) + 1

    def call_completed(self, seconds: float, outcome: str = "ok") -> None:
        """One allowed call answered, `seconds` after it was decided; `outcome` is ok, fault or the
        reason of a failure.
        """
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def request_rejected(self, reason: str) -> None:
        """One request of which no call was made."""
        self._rejected[reason] = self._rejected.get(reason, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks of a collector."""
        calls = CounterMetricFamily(
            "callgate_calls",
            "Decided calls by upstream, class and reason.",
            labels=["upstream", "class", "reason"],
        )
        for labels, count in self._calls.items():
            calls.add_metric(list(labels), count)
        yield calls
        rejected = CounterMetricFamily(
            "callgate_rejected_requests", "Requests that never became a call.", labels=["reason"]
        )
        for reason, count in self._rejected.items():
            rejected.add_metric([reason], count)
        yield rejected
        completed = CounterMetricFamily(
            "callgate_completed_calls", "Allowed calls by what became of them.", labels=["outcome"]
        )
        for outcome, count in self._outcomes.items():
            completed.add_metric([outcome], count)
        yield completed
        total, buckets = 0, []
        for bound, count in zip([*map(str, _BOUNDS), "+Inf"], self._buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        yield HistogramMetricFamily(
            "callgate_call_seconds",
            "From decision to the end of the answer.",
            buckets=buckets,
            sum_value=self._seconds,
        )
        for name, help_text, value in self.gauges:
            yield GaugeMetricFamily(name, help_text, value=value())


class MetricsListener:
    """The listener for scrapers: the gate's own HTTP server, with one page. Make it with
    `serve_metrics`.
    """

    def __init__(self, meter: Metrics, address: str, port: int) -> None:
        """Listen at once, or as soon as the port is free: nobody goes without the gate because
        somebody has the port of its numbers.
        """
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(meter)
        self._address = address
        self.port = port
        self._server: Server | None = None
        self._listener: Listener | None = None
        self._waiting: asyncio.Task[None] | None = None
        if self._listen() is not None:
            self._waiting = asyncio.get_running_loop().create_task(self._wait())

    def _listen(self) -> Exception | None:
        """Listen; why that is not possible now, or None.

        The port is not shared (SO_REUSEPORT), not even with the process that this one replaces: two
        gates with one port would each answer some of the scrapes, and nobody would see it.
        """
        try:
            listening = bind(self._address, self.port)
        except (OSError, OverflowError) as error:  # a port beyond 65535 overflows
            return error
        self.port = listening.getsockname()[1]
        self._server = Server(self, Limits(body_bytes=1024), new_request_id_source())
        self._listener = Listener(
            listening,
            self._server,
            None,
            connections=_SCRAPERS,
            per_address=_SCRAPERS,
            handshake_seconds=1.0,
            closed=lambda _: None,
        )
        return None

    async def _wait(self) -> None:
        """Try again until the port is free."""
        for attempt in itertools.count(1):
            await asyncio.sleep(_AGAIN_SECONDS)
            error = self._listen()
            if error is None:
                _log.info("metrics listen", address=self._address, port=self.port)
                return
            if attempt == _TOLD_AFTER:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                _log.warning(
                    "serving without metrics, until their port is free",
                    address=self._address,
                    port=self.port,
                    why=why,
                )

    async def handle(self, request: Request, read_body: Callable[[], Awaitable[bytes]]) -> Response:
        """The numbers, at ``GET /metrics`` only."""
        if request.path != "/metrics" or request.http_method not in ("GET", "HEAD"):
            return Response(404, b"not found\n", b"text/plain")
        return Response(200, generate_latest(self._registry), _TEXT)

    def refuse(self, request_id: str, origin: Peer, error: Rejected) -> Response:
        """Bytes that are no request get a short no."""
        return Response(error.status, b"refused\n", b"text/plain", close=True)

    async def cleanup(self) -> None:
        """Stop listening; a scrape in hand ends first. Safe to call twice."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._listener is not None and self._server is not None:
            self._listener.close()
            self._listener = None
            await self._server.drain(_LAST_SECONDS)


async def serve_metrics(meter: Metrics, address: str, port: int) -> MetricsListener:
    """Listen for scrapers on `address` and `port`, as soon as they are free; end with `cleanup`."""
    return MetricsListener(meter, address, port)
