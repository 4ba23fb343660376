"""Long responses to slow readers: a limited number of them holds connections that workers need."""

import asyncio
import contextlib
import gc
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from proxy.edge.upstream.stream_limit import StreamLimit
from proxy.errors import Unavailable
from proxy.model import Reason, Receipt, UpstreamRequest, UpstreamResponse

RECEIPT = Receipt("id", 1, 0)
READ = UpstreamRequest("POST", b"/api/task_list", b"form", b"data={}", kind="read")
WRITE = UpstreamRequest("POST", b"/api/pause", b"form", b"data={}")
HEARTBEAT = UpstreamRequest("POST", b"/api/ping", b"form", b"data={}", kind="heartbeat")


class Parts:
    """A stream of two parts. After the first, ``failed`` raises and ``cancelled`` never ends."""

    def __init__(self, end: str = "") -> None:
        self.left = [b"b", b"a"]
        self.end = end
        self.closed = 0

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        if self.end == "failed" and len(self.left) == 1:
            raise Unavailable(Reason.UPSTREAM_CLOSED)
        if self.end == "cancelled" and len(self.left) == 1:
            await asyncio.get_running_loop().create_future()
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()

    async def aclose(self) -> None:
        self.closed += 1


class StreamingUpstream:
    """A upstream that answers with whatever it is given next."""

    def __init__(self, *answers: UpstreamResponse) -> None:
        self.answers = list(answers)

    def forward(self, receipt: Receipt, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        return self._answer()

    async def _answer(self) -> UpstreamResponse:
        return self.answers.pop(0)


def long(parts: Parts) -> UpstreamResponse:
    """A long response."""
    return UpstreamResponse(200, {b"x": b"y"}, stream=parts, length=2)


def read_by(name: str) -> UpstreamRequest:
    """A read by the principal `name`."""
    return replace(READ, fairness_key=name)


async def refused(limited: StreamLimit, request: UpstreamRequest = READ) -> None:
    """Hold that one more long response is refused."""
    with pytest.raises(Unavailable) as caught:
        await limited.forward(RECEIPT, request)
    assert (caught.value.reason, caught.value.retry_after) == (Reason.OVERLOADED, 1)


async def test_one_long_response_too_many_is_refused_and_its_stream_closed() -> None:
    """The refused stream is closed. The streams that are read go on, and short responses and writes
    pass as before.
    """
    first, second, third = Parts(), Parts(), Parts()
    short = UpstreamResponse(200, {}, b"short")
    limited = StreamLimit(
        StreamingUpstream(long(first), long(second), long(third), short, short, long(Parts())),
        2,
        1,
        timeout=0.0,
    )
    answers = [await limited.forward(RECEIPT, read_by(name)) for name in ("a", "b")]
    await refused(limited)
    assert (first.closed, second.closed, third.closed) == (0, 0, 1)
    for request in (READ, HEARTBEAT):
        assert await limited.forward(RECEIPT, request) is short
    assert (await limited.forward(RECEIPT, WRITE)).stream is not None
    for answer in answers:
        assert answer.stream is not None
        assert [part async for part in answer.stream] == [b"a", b"b"]
        assert (answer.status, answer.headers, answer.length) == (200, {b"x": b"y"}, 2)


async def test_a_long_response_waits_for_a_permit_within_bounds() -> None:
    """A released permit goes to the response that waits. One that finds the room full is refused at
    once.
    """
    waiting, third = Parts(), Parts()
    limited = StreamLimit(
        StreamingUpstream(long(Parts()), long(waiting), long(third)), 1, 1, timeout=60.0
    )
    reading = (await limited.forward(RECEIPT, READ)).stream
    assert reading is not None
    next_one = asyncio.ensure_future(limited.forward(RECEIPT, READ))
    await asyncio.sleep(0)
    await refused(limited)
    assert (third.closed, waiting.closed, next_one.done()) == (1, 0, False)
    await reading.aclose()
    stream = (await next_one).stream
    assert stream is not None
    assert [part async for part in stream] == [b"a", b"b"]


@pytest.mark.parametrize("seconds", [0.0, 60.0], ids=["after waiting", "at once"])
async def test_a_refused_response_leaves_nothing_behind(seconds: float) -> None:
    """What was gathered of it is freed without the garbage collector, which seldom runs."""
    first = Parts()
    limited = StreamLimit(
        StreamingUpstream(long(first), long(Parts())), 1, 0 if seconds else 1, timeout=seconds
    )
    assert (await limited.forward(RECEIPT, READ)).stream is not None
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Unavailable):  # pytest.raises would keep the error
            await limited.forward(RECEIPT, READ)
        assert [thing for thing in gc.get_objects() if isinstance(thing, Parts)] == [first]
    finally:
        gc.enable()


async def test_a_caller_that_leaves_while_waiting_closes_its_stream() -> None:
    """It takes no permit, and the connection of its response is not kept for it."""
    waiting = Parts()
    limited = StreamLimit(
        StreamingUpstream(long(Parts()), long(waiting), long(Parts())), 1, 1, timeout=60.0
    )
    reading = (await limited.forward(RECEIPT, READ)).stream
    assert reading is not None
    next_one = asyncio.ensure_future(limited.forward(RECEIPT, READ))
    await asyncio.sleep(0)
    next_one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await next_one
    assert waiting.closed == 1
    await reading.aclose()
    assert (await limited.forward(RECEIPT, READ)).stream is not None


@pytest.mark.parametrize("end", ["read", "closed", "closed twice", "failed", "cancelled"])
async def test_a_stream_releases_its_permit_once_when_it_ends(end: str) -> None:
    """However a long response ends, exactly one other gets its permit."""
    parts = Parts(end)
    limited = StreamLimit(
        StreamingUpstream(long(parts), long(Parts()), long(Parts())), 1, 1, timeout=0.0
    )
    stream = (await limited.forward(RECEIPT, READ)).stream
    assert stream is not None
    assert await anext(stream) == b"a"
    if end == "read":
        assert [part async for part in stream] == [b"b"]
    elif end == "failed":
        with pytest.raises(Unavailable):
            await anext(stream)
    elif end == "cancelled":
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    for _ in range(2 if end == "closed twice" else 1):
        await stream.aclose()
    assert parts.closed
    assert (await limited.forward(RECEIPT, READ)).stream is not None
    await refused(limited)


async def test_one_principal_has_half_of_the_permits_and_of_the_room() -> None:
    """Slow readers of one principal leave permits to others, which get them at once."""
    parts = [Parts() for _ in range(11)]
    limited = StreamLimit(StreamingUpstream(*map(long, parts)), 4, 4, timeout=60.0)
    mine = [await limited.forward(RECEIPT, read_by("loud")) for _ in range(2)]
    waiting = [asyncio.ensure_future(limited.forward(RECEIPT, read_by("loud"))) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.wait_for(refused(limited, read_by("loud")), 20)
    others = [await limited.forward(RECEIPT, read_by(name)) for name in ("quiet", "other")]
    assert all(answer.stream is not None for answer in mine + others)
    late = asyncio.ensure_future(limited.forward(RECEIPT, read_by("late")))
    await asyncio.sleep(0)
    assert not any(call.done() for call in [*waiting, late])
    assert others[0].stream is not None
    await others[0].stream.aclose()
    assert (await late).stream is not None
    assert not any(call.done() for call in waiting)
    assert mine[0].stream is not None
    await mine[0].stream.aclose()
    assert (await waiting[0]).stream is not None
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
