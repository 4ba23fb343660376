"""The endpoint for scrapers: ``GET /metrics`` on a listener of its own, loopback only.

A busy port must not keep the proxy from starting: the endpoint retries until the port is free.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import CollectorRegistry, generate_latest

from proxy.edge.server.connection_limit import ConnectionLimit
from proxy.edge.server.limits import Limits
from proxy.edge.server.listener import Listener, bind
from proxy.edge.server.request_ids import new_request_id_source
from proxy.edge.server.server import Server
from proxy.errors import Rejected
from proxy.model import Peer, Request, Response
from proxy.telemetry.metrics import Metrics

# Open connections of scrapers.
_MAX_CONNECTIONS = 16
# Seconds that a scrape in hand has to end when the process stops.
_DRAIN_SECONDS = 1.0
# Seconds between two attempts to listen.
RETRY_SECONDS = 0.5
# Failed attempts before the warning: a process that this one replaces frees the port sooner.
WARN_AFTER_ATTEMPTS = 4
_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class MetricsEndpoint:
    """An HTTP server with one page, the metrics. Make it with `serve_metrics`."""

    def __init__(
        self, metrics: Metrics, address: str, port: int, *, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        """Listen at once, or as soon as the port is free."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(metrics)
        self._address = address
        self._retry_seconds = retry_seconds
        self.port = port
        self._server: Server | None = None
        self._listener: Listener | None = None
        self._retry: asyncio.Task[None] | None = None
        if self._listen() is not None:
            self._retry = asyncio.get_running_loop().create_task(self._retry_listen())

    @property
    def bound(self) -> bool:
        """Whether it listens."""
        return self._listener is not None

    def _listen(self) -> Exception | None:
        """Listen; return the error if the port cannot be bound now.

        The port is not shared (SO_REUSEPORT), not even with the process that this one replaces:
        each of two processes would answer some of the scrapes, unnoticed.
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
            limit=ConnectionLimit(_MAX_CONNECTIONS, _MAX_CONNECTIONS),
            handshake_seconds=1.0,
            on_rejected=lambda _: None,
        )
        return None

    async def _retry_listen(self) -> None:
        """Retry until the port is free."""
        for attempt in itertools.count(1):
            await asyncio.sleep(self._retry_seconds)
            error = self._listen()
            if error is None:
                _log.info("metrics listen", address=self._address, port=self.port)
                return
            if attempt == WARN_AFTER_ATTEMPTS:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                _log.warning(
                    "serving without metrics, until their port is free",
                    address=self._address,
                    port=self.port,
                    why=why,
                )

    async def handle(self, request: Request, read_body: Callable[[], Awaitable[bytes]]) -> Response:
        """Return the metrics for ``GET /metrics``, and 404 for everything else."""
        if request.path != "/metrics" or request.http_method not in ("GET", "HEAD"):
            return Response(404, b"not found\n", b"text/plain")
        return Response(200, generate_latest(self._registry), _CONTENT_TYPE)

    def refuse(self, request_id: str, origin: Peer, error: Rejected) -> Response:
        """Answer bytes that are no request."""
        return Response(error.status, b"refused\n", b"text/plain", close=True)

    async def close(self) -> None:
        """Stop listening; a scrape in hand ends first. Safe to call twice."""
        if self._retry is not None:
            self._retry.cancel()
        if self._listener is not None and self._server is not None:
            self._listener.close()
            self._listener = None
            await self._server.drain(_DRAIN_SECONDS)


async def serve_metrics(
    metrics: Metrics, address: str, port: int, *, retry_seconds: float = RETRY_SECONDS
) -> MetricsEndpoint:
    """Serve `metrics` on `address` and `port`, as soon as they are free, until `close`."""
    return MetricsEndpoint(metrics, address, port, retry_seconds=retry_seconds)
