"""Liveness and readiness, for whoever runs the gate: two paths that need no credential and say
nothing about the inside.

``/-/healthz`` answers 200 while the process turns; ``/-/readyz`` 200 when calls can be served: the
journal can be written, at least one issuer's keys are there, and the gate is not shutting down.
Everything else goes to the gate.
"""

from collections.abc import Awaitable, Callable

from proxy.audit.writing.journal import Journal
from proxy.errors import Rejected
from proxy.gate.pipeline import Gate
from proxy.identity.verifier import Verifier
from proxy.model import Peer, Request, Response

_HEADERS = ((b"cache-control", b"no-store"),)


class Probes:
    """Answers the probes itself and passes every other request to the gate."""

    def __init__(self, gate: Gate, journal: Journal, verifier: Verifier) -> None:
        self._gate = gate
        self._journal = journal
        self._verifier = verifier
        self.refuse: Callable[[str, Peer, Rejected], Response] = gate.refuse

    def handle(
        self, request: Request, read_body: Callable[[], Awaitable[bytes]]
    ) -> Awaitable[Response]:
        """The reply to `request`. Never raises. Not a coroutine of its own: calls pass through here
        too.
        """
        if request.path.startswith("/-/") and request.http_method in ("GET", "HEAD"):
            if request.path == "/-/healthz":
                return _said(200, b"ok\n")
            if request.path == "/-/readyz":
                return _said(200, b"ready\n") if self.ready() else _said(503, b"not ready\n")
        return self._gate.handle(request, read_body)

    def ready(self) -> bool:
        """Whether a call could be served now."""
        keys = any(issuer.source.keys is not None for issuer in self._verifier.issuers)
        return keys and self._journal.writable and not self._gate.draining


async def _said(status: int, body: bytes) -> Response:
    return Response(status, body, b"text/plain", _HEADERS)
