"""A streamed answer whose end is recorded, however it ends: the last thing that the gate sees of a
call.

A part of the gate's layer, below the pipeline (`proxy.gate.pipeline`).
"""

from collections.abc import Callable

from proxy.errors import Unavailable
from proxy.model import Reason, Stream


class AuditedStream:
    """A streamed body that closes its call's record when it ends: whole, cut short by the upstream,
    or left by the caller.

    `close` is told the outcome and how many bytes were taken, once. `last` is called after it: what
    is held for as long as the stream.
    """

    def __init__(self, stream: Stream, close: Callable[[str, int], None]) -> None:
        self._stream = stream
        self._close: Callable[[str, int], None] | None = close
        self._sent = 0
        self.last: Callable[[], object] = _nothing

    def __aiter__(self) -> "AuditedStream":
        return self

    async def __anext__(self) -> bytes:
        try:
            part = await self._stream.__anext__()
        except StopAsyncIteration:
            self._end("ok")
            raise
        except Unavailable as error:
            self._end(error.reason)
            raise
        self._sent += len(part)
        return part

    async def aclose(self) -> None:
        """Read no further, since the caller has left. May be called at any time, also twice."""
        await self.abort(Reason.CLIENT_GONE)

    async def abort(self, reason: Reason) -> None:
        """Read no further, for `reason`."""
        self._end(reason)
        await self._stream.aclose()

    def _end(self, outcome: str) -> None:
        if self._close is not None:
            close, self._close = self._close, None
            try:
                close(outcome, self._sent)
            finally:
                self.last()


def _nothing() -> None:
    """Nothing is held."""
