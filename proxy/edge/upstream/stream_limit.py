"""Limits the long responses of one upstream that are on their way to their readers.

A long response is sent at its reader's pace, and holds its upstream connection until the reader has
all of it. A slow reader may take an hour for what others take in a second. As many of them as there
are connections would keep every worker waiting, so only some of the connections may carry streams
of reads. One response more waits a moment for a permit, which is long for readers that read, and is
then refused: at its first bytes, when its length shows. Writes and heartbeats are not limited,
since by then they have had their effect.

One principal has at most half of the permits, and half of the room to wait for one, so that its
slow readers keep no other principal from reading.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from proxy.edge.upstream.coalescing import Upstream
from proxy.edge.upstream.fair_semaphore import FairSemaphore
from proxy.edge.upstream.uncompiled import closing_on_error
from proxy.errors import Unavailable
from proxy.model import Reason, Receipt, Stream, UpstreamRequest, UpstreamResponse

# Seconds that a long response waits for a permit.
TIMEOUT = 2.0


class StreamLimit:
    """An upstream of which at most `max_streams` responses to reads are streams at any time.

    `max_waiters` more may wait to become one. One principal has half of both, or the only one.
    """

    def __init__(
        self, upstream: Upstream, max_streams: int, max_waiters: int, *, timeout: float = TIMEOUT
    ) -> None:
        self._upstream = upstream
        self._permits = FairSemaphore(
            max_streams,
            per_principal=max(1, max_streams // 2),
            max_waiters=max_waiters,
            timeout=timeout,
            refusal=_overloaded,
        )

    def forward(self, receipt: Receipt, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """Return the upstream's response.

        Raises:
            Unavailable: as the upstream does; ``overloaded`` for one long response too many.

        """
        if request.kind != "read":
            return self._upstream.forward(receipt, request)
        return self._read(receipt, request)

    async def _read(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        response = await self._upstream.forward(receipt, request)
        stream = response.stream
        if stream is None:
            return response
        holder = await closing_on_error(self._acquire(request.fairness_key), stream)
        limited = _LimitedStream(stream, partial(self._permits.release, holder))
        return UpstreamResponse(
            response.status, response.headers, response.body, limited, response.length
        )

    async def _acquire(self, principal: str) -> str:
        return await self._permits.acquire(self._permits.request(principal))


class _LimitedStream:
    """A stream that releases its permit when it ends, however it ends."""

    __slots__ = ("_release", "_stream")

    def __init__(self, stream: Stream, release: Callable[[], None]) -> None:
        self._stream = stream
        self._release: Callable[[], None] | None = release

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
        if self._release is not None:
            release, self._release = self._release, None
            release()


def _overloaded() -> Unavailable:
    return Unavailable(
        Reason.OVERLOADED, "too many long responses are being read", retry_after=1, sent=True
    )
