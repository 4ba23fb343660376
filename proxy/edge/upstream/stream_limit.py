"""A bound on the long answers of one upstream that are on their way to their readers.

A long answer is passed on at its reader's pace, and holds its upstream connection until the reader
has all of it. The deadlines of a slow reader let it take an hour for what others take in a second,
so as many of them as there are connections would keep every worker waiting. Hence only some of the
connections may carry streams of views. Who asks for one more waits a moment for a place, which is
long for readers that read, and is then refused: at the answer's first bytes, when its length shows.
Calls that act pass straight through: by then they have acted.

One principal has at most half of the places, and of the room to wait for one: whoever reads slowly,
or does not read at all, keeps others from nothing.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from proxy.edge.upstream.coalescing import Upstream
from proxy.edge.upstream.fair_semaphore import FairSemaphore
from proxy.errors import Unavailable
from proxy.model import Reason, Receipt, Stream, UpstreamRequest, UpstreamResponse

_PATIENCE = 2.0  # seconds to wait for a place


class StreamLimit:
    """A leg of whose answers at most `streams` are streams of views at any time; `waiting` more may
    wait to become one.

    Half of both are for one principal, or the only one there is.
    """

    def __init__(
        self, leg: Upstream, streams: int, waiting: int, *, patience: float = _PATIENCE
    ) -> None:
        self._leg = leg
        self._places = FairSemaphore(
            streams, each=max(1, streams // 2), room=waiting, patience=patience, refusal=_overloaded
        )

    def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """The upstream's answer. Raises `Unavailable`, with ``overloaded`` for a long answer that
        is one too many.
        """
        if outbound.kind != "read":
            return self._leg.forward(receipt, outbound)
        return self._view(receipt, outbound)

    async def _view(self, receipt: Receipt, outbound: UpstreamRequest) -> UpstreamResponse:
        answer = await self._leg.forward(receipt, outbound)
        if answer.stream is None:
            return answer
        try:
            holder = await self._places.wait(self._places.ask(outbound.fairness_key))
        except BaseException:
            await answer.stream.aclose()
            raise
        counted = _LimitedStream(answer.stream, partial(self._places.give_back, holder))
        return UpstreamResponse(answer.status, answer.headers, answer.body, counted, answer.length)


class _LimitedStream:
    """A stream that gives its place back when it ends, however it ends."""

    __slots__ = ("_give_back", "_stream")

    def __init__(self, stream: Stream, give_back: Callable[[], None]) -> None:
        self._stream = stream
        self._give_back: Callable[[], None] | None = give_back

    def __aiter__(self) -> "_LimitedStream":
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
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()


def _overloaded() -> Unavailable:
    return Unavailable(
        Reason.OVERLOADED, "too many long answers are being read", retry_after=1, sent=True
    )
