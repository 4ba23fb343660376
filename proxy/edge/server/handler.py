"""The interface between a server and what answers its requests."""

from collections.abc import Awaitable
from typing import Protocol

from proxy.errors import Rejected
from proxy.gate.ports import ReadBody
from proxy.model import Peer, Request, Response


class Handler(Protocol):
    """The recipient of requests: the gate, as a rule."""

    def handle(self, request: Request, read_body: ReadBody) -> Awaitable[Response]:
        """Return the response to `request`. Never raises.

        `read_body` returns the body if `request` came without it. The address of the client is
        charged for a body until that is called, or `request.on_claimed`, or the response is there.
        """

    def refuse(self, request_id: str, peer: Peer, error: Rejected) -> Response:
        """Record the rejection of bytes that are no request, and return the response."""
