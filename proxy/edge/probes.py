"""Liveness and readiness, for whoever runs the gate: two paths that need no credential and say nothing about the inside.

``/-/healthz`` answers 200 while the process turns; ``/-/readyz`` 200 when calls can be served: the journal can be written,
at least one issuer's keys are there, and the gate is not shutting down. Everything else goes to the gate.
"""

from collections.abc import Awaitable, Callable

from proxy.audit.journal import Journal
from proxy.errors import Rejected
from proxy.gate import Gate
from proxy.identity.verifier import Verifier
from proxy.model import Origin, Reply, Request

_HEADERS = ((b"cache-control", b"no-store"),)


class Probes:
    """Answers the probes itself and passes every other request to the gate."""

    def __init__(self, gate: Gate, journal: Journal, verifier: Verifier) -> None:
        self._gate = gate
        self._journal = journal
        self._verifier = verifier
        self.refuse: Callable[[str, Origin, Rejected], Reply] = gate.refuse

    async def handle(self, request: Request, read_body: Callable[[], Awaitable[bytes]]) -> Reply:
        """The reply to `request`. Never raises."""
        if request.path.startswith("/-/") and request.verb in ("GET", "HEAD"):
            if request.path == "/-/healthz":
                return Reply(200, b"ok\n", b"text/plain", _HEADERS)
            if request.path == "/-/readyz":
                ready = self.ready()
                return Reply(200 if ready else 503, b"ready\n" if ready else b"not ready\n", b"text/plain", _HEADERS)
        return await self._gate.handle(request, read_body)

    def ready(self) -> bool:
        """Whether a call could be served now."""
        keys = any(issuer.source.keys is not None for issuer in self._verifier.issuers)
        return keys and self._journal.writable and not self._gate.draining
