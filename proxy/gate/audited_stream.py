"""A streamed response whose end is recorded, however it ends: the last step of a call.

Below the pipeline (`proxy.gate.pipeline`).
"""

from collections.abc import Callable

from proxy.errors import Unavailable
from proxy.model import Outcome, Reason, Stream


class AuditedStream:
    """A streamed body that completes its call's record when it ends.

    It ends complete, cut short by the upstream, or abandoned by the caller. `on_complete` is called
    once, with the outcome and the number of bytes read. `on_end` is called after it, to release
    what is held for as long as the stream.
    """

    def __init__(self, stream: Stream, on_complete: Callable[[Outcome, int], None]) -> None:
        self._stream = stream
        self._on_complete: Callable[[Outcome, int], None] | None = on_complete
        self._sent = 0
        self.on_end: Callable[[], object] = _nothing

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

    def _end(self, outcome: Outcome) -> None:
        if self._on_complete is not None:
            on_complete, self._on_complete = self._on_complete, None
            try:
                on_complete(outcome, self._sent)
            finally:
                self.on_end()


def _nothing() -> None:
    """Hold nothing."""
