"""The interface between a server and what answers its requests."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy.errors import Rejected
from proxy.model import Peer, Request, Response


class Handler(Protocol):
    """The recipient of requests: the gate, as a rule."""

    def handle(
        self, request: Request, read_body: Callable[[], Awaitable[bytes]]
    ) -> Awaitable[Response]:
        """Return the response to `request`. Never raises.

        `read_body` returns the body if `request` came without it. It raises `Rejected` when the
        body is too large, malformed or late, or when its client is gone.
        """

    def refuse(self, request_id: str, peer: Peer, error: Rejected) -> Response:
        """Record the rejection of bytes that are no request, and return the response."""
