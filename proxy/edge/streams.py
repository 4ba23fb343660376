"""A bound on the long answers of one upstream that are on their way to their readers.

A long answer is passed on at its reader's pace, and holds its upstream connection until the reader has all of it. The
deadlines of a slow reader let it take an hour for what others take in a second, so as many of them as there are connections
would keep every worker waiting. Hence only some of the connections may carry streams of views; who asks for one more is
refused, at the answer's first bytes, when its length shows. Calls that act pass straight through: by then they have acted.
"""

from collections.abc import Awaitable

from proxy.edge.sharing import Leg
from proxy.errors import Unavailable
from proxy.model import Answer, Outbound, Reason, Receipt, Stream


class BoundedStreams:
    """A leg of whose answers at most `streams` are streams of views at any time."""

    def __init__(self, leg: Leg, streams: int) -> None:
        self._leg = leg
        self._streams = streams
        self.open = 0  # streams that are neither read to their end nor given up

    def forward(self, receipt: Receipt, outbound: Outbound) -> Awaitable[Answer]:
        """The upstream's answer. Raises `Unavailable`, with ``overloaded`` for a long answer that is one too many."""
        if outbound.effect != "view":
            return self._leg.forward(receipt, outbound)
        return self._view(receipt, outbound)

    async def _view(self, receipt: Receipt, outbound: Outbound) -> Answer:
        answer = await self._leg.forward(receipt, outbound)
        if answer.stream is None:
            return answer
        if self.open >= self._streams:
            await answer.stream.aclose()
            raise Unavailable(Reason.OVERLOADED, "too many long answers are being read", retry_after=1, sent=True)
        self.open += 1
        return Answer(answer.status, answer.headers, answer.body, _Counted(answer.stream, self), answer.length)


class _Counted:
    """A stream that counts until it ends, however it ends."""

    __slots__ = ("_bound", "_stream")

    def __init__(self, stream: Stream, bound: BoundedStreams) -> None:
        self._stream = stream
        self._bound: BoundedStreams | None = bound

    def __aiter__(self) -> "_Counted":
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        self._end()
        await self._stream.aclose()

    def _end(self) -> None:
        if self._bound is not None:
            self._bound.open -= 1
            self._bound = None
