"""Which upstream a request is for, and how its caller speaks: found by the raw path, which is read
once and in one way.

A part of the gate's layer, below the pipeline (`proxy.gate.pipeline`).
"""

import secrets
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from proxy.catalog.loading import Catalog
from proxy.errors import Rejected
from proxy.model import Reason, Receipt, UpstreamRequest, UpstreamResponse
from proxy.protocol.luigi.api import LuigiApi
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.luigi.pages import LuigiPages
from proxy.protocol.xmlrpc.server import LuigiBridge, XmlRpcCodec, XmlRpcServer

Codec: TypeAlias = LuigiApi | LuigiPages | XmlRpcCodec

# paths whose route is remembered: a catalog has some thirty methods. At this many all are forgotten
_KEPT = 256
_PATH_LENGTH = 128  # characters of a path that is remembered


class Upstream(Protocol):
    """The way to one upstream (`proxy.edge.upstream.pool`). It takes a receipt: no record, no call."""

    def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """Send the call; the upstream's answer. Raises `Unavailable`."""


@dataclass(frozen=True, slots=True)
class Route:
    """One upstream as clients see it: a path prefix (``/`` or ``/team-a``), a protocol, a catalog,
    and the leg behind.
    """

    name: str
    prefix: str
    protocol: str
    catalog: Catalog
    leg: Upstream
    dialects: Mapping[str, Codec]

    def dialect(self, path: str) -> Codec | None:
        """How a caller of `path` (without the prefix) speaks; None when nobody answers there."""
        if self.protocol == "luigi":
            if path.startswith("/api"):
                return self.dialects["api"]
            return (
                self.dialects["xmlrpc"] if path in ("/RPC2", "/RPC2/") else self.dialects["pages"]
            )
        return self.dialects["xmlrpc"] if path in ("/", "/RPC2", "/RPC2/") else None


def make_route(
    name: str,
    prefix: str,
    catalog: Catalog,
    leg: Upstream,
    *,
    batch_calls: int,
    body_bytes: int,
    path: str = "",
    batch_key: bytes | None = None,
) -> Route:
    """The route to one upstream, with the dialects of its protocol. `path` is where the upstream
    itself listens.

    `batch_key` binds luigid's batch ids to identities, in all processes alike; without one they
    hold for this route alone.
    """
    dialects: dict[str, Codec]
    if catalog.protocol == "luigi":
        batches = BatchIdSigner(batch_key or secrets.token_bytes(32), name)
        dialects = {
            "api": LuigiApi(name, catalog, path, batches=batches),
            "pages": LuigiPages(name, catalog, path, prefix),
            "xmlrpc": LuigiBridge(
                name, catalog, path, batch_calls=batch_calls, body_bytes=body_bytes, batches=batches
            ),
        }
    else:
        dialects = {
            "xmlrpc": XmlRpcServer(
                name, catalog, path or "/RPC2", batch_calls=batch_calls, body_bytes=body_bytes
            )
        }
    return Route(name, prefix.rstrip("/"), catalog.protocol, catalog, leg, dialects)


class Routes:
    """All routes of a gate. What a path leads to is remembered: a few dozen paths make up nearly
    all requests.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        """The route with the longest prefix that fits has a request."""
        self.routes = sorted(routes, key=lambda route: len(route.prefix), reverse=True)
        self._known: dict[str, tuple[Route, str, Codec | None]] = {}

    def find(self, path: str) -> tuple[Route, str, Codec | None]:
        """The upstream that `path` names, the rest of the path, and how its caller speaks. Raises
        `Rejected` when there is none.
        """
        found = self._known.get(path)
        return self._look(path) if found is None else found

    def _look(self, path: str) -> tuple[Route, str, Codec | None]:
        """Look for what `find` gives, and remember it. The paths are the callers' to choose, so
        that is bounded.
        """
        for route in self.routes:
            prefix = route.prefix
            if path.startswith(prefix):
                rest = path[len(prefix) :] or "/"
                if rest[0] == "/":
                    found = (route, rest, route.dialect(rest))
                    if len(path) <= _PATH_LENGTH:
                        if len(self._known) >= _KEPT:
                            self._known.clear()
                        self._known[path] = found
                    return found
        raise Rejected(Reason.NOT_FOUND)
