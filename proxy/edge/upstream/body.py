"""The streamed body of one answer, as its reader has it (`proxy.model.Stream`)."""

from typing import Protocol

from proxy.errors import Unavailable
from proxy.model import Reason


class Source(Protocol):
    """Where the body comes from: the exchange."""

    async def next_part(self) -> bytes:
        """What has arrived since the last call; raises `StopAsyncIteration` at the end, or
        `Unavailable`.
        """

    def abort(self, reason: Reason, detail: str) -> None:
        """Close the connection."""


class ResponseBody:
    """Bound to its exchange: once that is over, the connection serves others."""

    def __init__(self, source: Source) -> None:
        self._source: Source | None = source

    def __aiter__(self) -> "ResponseBody":
        return self

    async def __anext__(self) -> bytes:
        if self._source is None:
            raise StopAsyncIteration
        try:
            return await self._source.next_part()
        except (StopAsyncIteration, Unavailable):
            self._source = None
            raise

    async def aclose(self) -> None:
        """Read no further; the connection cannot be used again."""
        if self._source is not None:
            source, self._source = self._source, None
            source.abort(Reason.CLIENT_GONE, "")
