"""Liveness and readiness: two paths that need no credential and reveal no details.

They answer GET, HEAD and OPTIONS. OPTIONS of ``/`` and ``*`` is answered as readiness, too: that is
what HAProxy's ``option httpchk`` sends without further arguments.

``/-/healthz`` answers 200 while the event loop runs. ``/-/readyz`` answers 200 when calls can be
served: the journal is writable, the keys of at least one issuer are loaded, and the process is not
draining. Everything else goes to the gate.
"""

from collections.abc import Awaitable, Callable

from proxy.audit.writing.journal import Journal
from proxy.errors import Rejected
from proxy.gate.pipeline import Gate
from proxy.gate.ports import ReadBody
from proxy.identity.verifier import Verifier
from proxy.model import Peer, Request, Response

_PROBE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = ((b"cache-control", b"no-store"), (b"allow", b"GET, HEAD, OPTIONS"))


class HealthEndpoints:
    """A handler that answers the two paths and passes every other request to the gate."""

    def __init__(self, gate: Gate, journal: Journal, verifier: Verifier) -> None:
        self._gate = gate
        self._journal = journal
        self._verifier = verifier
        self.refuse: Callable[[str, Peer, Rejected], Response] = gate.refuse

    def handle(self, request: Request, read_body: ReadBody) -> Awaitable[Response]:
        """Return the response to `request`. Never raises.

        Not a coroutine: every call passes here, and would pay for one more.
        """
        if request.http_method == "OPTIONS" and request.path in ("/", "*"):
            return self._readiness()
        if request.path.startswith("/-/") and request.http_method in _PROBE_METHODS:
            if request.path == "/-/healthz":
                return _text(200, b"ok\n")
            if request.path == "/-/readyz":
                return self._readiness()
        return self._gate.handle(request, read_body)

    def _readiness(self) -> Awaitable[Response]:
        return _text(200, b"ready\n") if self.ready() else _text(503, b"not ready\n")

    def ready(self) -> bool:
        """Return whether a call could be served now."""
        keys = any(issuer.source.usable_keys for issuer in self._verifier.issuers)
        return keys and self._journal.writable and not self._gate.draining


async def _text(status: int, body: bytes) -> Response:
    return Response(status, body, b"text/plain", _HEADERS)
