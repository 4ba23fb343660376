"""The body of a request that was handed over before all of it had arrived."""

import asyncio
from collections.abc import Callable

from proxy.errors import Rejected


class PendingBody:
    """A large body, which stays in the socket until the handler asks for it."""

    __slots__ = ("_body", "_on_requested", "requested")

    def __init__(
        self, body: "asyncio.Future[bytes | Rejected]", on_requested: Callable[[], None]
    ) -> None:
        """`on_requested` is called once, when the body is asked for and has not arrived yet."""
        self._body = body
        self._on_requested = on_requested
        self.requested = False

    async def read(self) -> bytes:
        """Return the body.

        Raises:
            Rejected: the body is too large, malformed or late, or its client is gone.

        """
        if not self.requested:
            self.requested = True
            if not self._body.done():
                self._on_requested()
        body = await self._body
        if isinstance(body, Rejected):
            raise body
        return body

    @property
    def complete(self) -> bool:
        """Whether all of it has arrived."""
        return self._body.done() and not isinstance(self._body.result(), Rejected)

    def resolve(self, body: bytes | Rejected) -> None:
        """Set the result of `read`; only the first call has an effect."""
        if not self._body.done():
            self._body.set_result(body)
