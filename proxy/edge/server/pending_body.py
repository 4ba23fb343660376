"""The body of a request that was handed over before all of it had arrived.

Its bytes are charged to the address of the client until the handler asks for it on behalf of a
principal (`proxy.common.memory_budget`).
"""

import asyncio
from collections.abc import Callable

from proxy.common.memory_budget import Reservation
from proxy.errors import Rejected

# A body that arrives is gathered in a buffer, which grows by such a part of its size at a time.
_SLACK = 8


class PendingBody:
    """A large body, which stays in the socket until the handler asks for it."""

    __slots__ = ("_body", "_length", "_memory", "_on_claimed", "_on_requested", "requested")

    def __init__(
        self,
        body: "asyncio.Future[bytes | Rejected]",
        on_requested: Callable[[], None],
        *,
        length: int = 0,
        on_claimed: Callable[[], None] | None = None,
    ) -> None:
        """`on_requested` is called once, when the body is asked for and has not arrived yet.

        `length` is the announced one in bytes, 0 if none is. `on_claimed` is called once, when the
        handler is charged for the body.
        """
        self._body = body
        self._on_requested = on_requested
        self._length = length
        self._on_claimed = on_claimed
        self._memory: Reservation | None = None
        self.requested = False

    async def read(self, memory: Reservation | None = None) -> bytes:
        """Return the body, whose bytes are charged to `memory` from here on.

        Raises:
            Rejected: the body is too large, malformed or late, its client is gone, or there is no
                memory for it.

        """
        if not self.requested:
            self.requested = True
            self._memory = memory
            self.charge(self._length if not self._body.done() else self._arrived_bytes)
            if self._on_claimed is not None:
                self._on_claimed()
            if not self._body.done():
                self._on_requested()
        body = await self._body
        if isinstance(body, Rejected):
            raise body
        return body

    def charge(self, size: int) -> None:
        """Charge the handler for `size` bytes in all. Raises `Unavailable` (OVERLOADED)."""
        if self._memory is not None:
            needed = size + size // _SLACK
            if needed > self._memory.size:
                self._memory.resize(needed)

    @property
    def unclaimed_bytes(self) -> int:
        """Bytes of a body that has arrived and that the handler has not claimed."""
        return 0 if self.requested else self._arrived_bytes

    @property
    def _arrived_bytes(self) -> int:
        body = self._body.result() if self._body.done() else b""
        return 0 if isinstance(body, Rejected) else len(body)

    @property
    def complete(self) -> bool:
        """Whether all of it has arrived."""
        return self._body.done() and not isinstance(self._body.result(), Rejected)

    def resolve(self, body: bytes | Rejected) -> None:
        """Set the result of `read`; only the first call has an effect."""
        if not self._body.done():
            self._body.set_result(body)
