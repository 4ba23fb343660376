"""The writing half of a connection, with a transport and a clock under control of the test."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from proxy.edge.server.response_writer import (
    MIN_PROGRESS_BYTES,
    ResponseWriter,
    _head_parts,
    encode_head,
)
from proxy.model import Response


class ManualTransport:
    """A transport, and the clock of a loop, under control of the test."""

    def __init__(self) -> None:
        self.unsent = 0
        self.now = 0.0
        self.aborted = False
        self.written: list[bytes] = []
        self.wrote: Callable[[], object] = lambda: None

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes | memoryview) -> None:
        self.written.append(bytes(data))
        self.wrote()

    def abort(self) -> None:
        self.aborted = True

    def time(self) -> float:
        return self.now

    def create_future(self) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()


def free_writer() -> tuple[ResponseWriter, ManualTransport]:
    """Return a writer whose client keeps up."""
    transport = ManualTransport()
    return ResponseWriter(
        cast(asyncio.Transport, transport), cast(asyncio.AbstractEventLoop, transport), 30.0
    ), transport


def paused_writer() -> tuple[ResponseWriter, ManualTransport]:
    """Return a writer whose client stopped reading at time 0; the write deadline is 30 s."""
    writer, transport = free_writer()
    transport.unsent = 10 * MIN_PROGRESS_BYTES
    writer.pause()
    return writer, transport


def at(transport: ManualTransport, now: float) -> float:
    """Set the clock."""
    transport.now = now
    return now


async def test_a_client_without_progress_is_overdue_after_the_deadline() -> None:
    """It is not overdue before, and less than `MIN_PROGRESS_BYTES` is no progress."""
    writer, transport = paused_writer()
    assert not writer.overdue(at(transport, 29.9))
    transport.unsent -= MIN_PROGRESS_BYTES - 1
    assert writer.overdue(at(transport, 30.1))


async def test_a_slow_client_may_take_as_long_as_it_progresses() -> None:
    """A deadline with progress starts another; one without ends the connection."""
    writer, transport = paused_writer()
    for period in range(1, 9):
        transport.unsent -= MIN_PROGRESS_BYTES
        assert not writer.overdue(at(transport, period * 31.0))
    assert writer.overdue(at(transport, 9 * 31.0))


async def test_a_client_that_has_caught_up_has_no_deadline() -> None:
    """An empty buffer has no write deadline."""
    writer, transport = paused_writer()
    writer.resume()
    assert not writer.overdue(at(transport, 1e9))


SMALL = Response(200, b"abc", b"a/b")


def test_a_small_response_is_one_write_and_no_coroutine() -> None:
    """Head and body leave together, in one TLS record."""
    writer, transport = free_writer()
    assert writer.send(SMALL, b"D", head_only=False, close=False) is None
    assert transport.written == [
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: a/b\r\nContent-Length: 3\r\n\r\nabc"
    ]


@pytest.mark.parametrize("gone", [False, True], ids=["catches up", "leaves"])
async def test_a_response_waits_for_its_client(gone: bool) -> None:
    """It is written once. Another can follow when the client has caught up, but not if it left."""
    writer, transport = free_writer()
    transport.wrote = writer.pause
    sending = writer.send(SMALL, b"D", head_only=False, close=False)
    assert sending is not None
    waiting = asyncio.ensure_future(sending)
    await asyncio.sleep(0)
    assert not waiting.done()
    (writer.close if gone else writer.resume)()
    assert await waiting is not gone
    assert len(transport.written) == 1


@pytest.mark.parametrize("size", [3, 500_000])
async def test_nothing_is_written_to_a_client_that_has_left(size: int) -> None:
    """No other response can follow either."""
    writer, transport = free_writer()
    writer.close()
    sending = writer.send(Response(200, b"a" * size), b"D", head_only=False, close=False)
    assert sending is not None
    assert not await sending
    assert not transport.written


class Parts:
    """A stream of given parts."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.closed = False

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        if not self.parts:
            raise StopAsyncIteration
        return self.parts.pop(0)

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_stream_is_written_in_pieces_as_the_client_takes_them(chunked: bool) -> None:
    """Each piece waits for the client, however long the part.

    No byte is lost, and an empty part does not end the body.
    """
    writer, transport = free_writer()
    long = bytes(range(256)) * 1000
    parts = Parts(b"ab", b"", long, b"end")
    response = Response(200, stream=parts, length=None if chunked else len(long) + 5)
    sending = writer.send(response, b"D", head_only=False, close=False)
    assert sending is not None
    transport.wrote = writer.pause
    waiting = asyncio.ensure_future(sending)
    for _ in range(20):
        await asyncio.sleep(0)
        before = len(transport.written)
        assert max(map(len, transport.written), default=0) <= 65_536 + len(b"10000\r\n\r\n")
        writer.resume()
        if waiting.done():
            break
        await asyncio.sleep(0)
        assert len(transport.written) <= before + 2  # the head goes with the first piece
    assert await waiting
    assert parts.closed
    _, _, body = b"".join(transport.written).partition(b"\r\n\r\n")
    if chunked:
        framed, body = body, b""
        while framed != b"0\r\n\r\n":
            size, _, framed = framed.partition(b"\r\n")
            body, framed = body + framed[: int(size, 16)], framed[int(size, 16) + 2 :]
    assert body == b"ab" + long + b"end"


async def test_a_client_that_leaves_gets_no_further_piece() -> None:
    """The rest of a long part is not written to a closed connection."""
    writer, transport = free_writer()
    parts = Parts(b"a" * 1_000_000)
    sending = writer.send(
        Response(200, stream=parts, length=1_000_000), b"D", head_only=False, close=False
    )
    assert sending is not None
    transport.wrote = lambda: writer.pause() if len(transport.written) == 3 else None
    waiting = asyncio.ensure_future(sending)
    await asyncio.sleep(0)
    assert not waiting.done()
    writer.close()
    assert not await waiting
    assert [len(data) for data in transport.written[1:]] == [65_536] * 2
    assert (transport.aborted, parts.closed) == (True, True)


HEADS: dict[str, tuple[Response, bool, bool, bytes]] = {
    "complete": (
        Response(200, b"abc", b"text/plain"),
        False,
        False,
        b"200 OK|Date: D|Content-Type: text/plain|Content-Length: 3",
    ),
    "empty": (
        Response(200, b"", b"a/b"),
        False,
        False,
        b"200 OK|Date: D|Content-Type: a/b|Content-Length: 0",
    ),
    "closing": (
        Response(400, b"", b"a/b"),
        False,
        True,
        b"400 Bad Request|Date: D|Content-Type: a/b|Content-Length: 0|Connection: close",
    ),
    "phrase": (
        Response(403, b"", b"a/b", phrase=b"why"),
        False,
        False,
        b"403 why|Date: D|Content-Type: a/b|Content-Length: 0",
    ),
    "odd status": (
        Response(499, b"", b"a/b"),
        False,
        False,
        b"499 |Date: D|Content-Type: a/b|Content-Length: 0",
    ),
    "headers": (
        Response(204, headers=((b"X", b"1"), (b"Y", b"2"))),
        False,
        False,
        b"204 No Content|Date: D|X: 1|Y: 2",
    ),
    "HEAD of a body": (
        Response(200, b"abc", b"a/b"),
        True,
        False,
        b"200 OK|Date: D|Content-Type: a/b|Content-Length: 3",
    ),
    "HEAD with a length": (
        Response(200, b"", b"a/b", length=9),
        True,
        False,
        b"200 OK|Date: D|Content-Type: a/b|Content-Length: 9",
    ),
    "HEAD without": (Response(200, b"", b"a/b"), True, False, b"200 OK|Date: D|Content-Type: a/b"),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_frame_the_body(name: str) -> None:
    """A head has one length, or none without a body; our reason phrase takes precedence."""
    response, head_only, close, lines = HEADS[name]
    expected = b"HTTP/1.1 " + lines.replace(b"|", b"\r\n") + b"\r\n\r\n"
    assert encode_head(response, b"D", head_only=head_only, close=close) == expected


def test_the_cache_of_head_parts_is_bounded() -> None:
    """Constant parts are made once; refusals, whose phrases all differ, do not accumulate."""
    for number in range(1000):
        encode_head(Response(403, b"", phrase=b"%d" % number), b"D", head_only=False, close=False)
    info = _head_parts.cache_info()
    assert info.currsize == info.maxsize == 256
    dated = [encode_head(SMALL, date, head_only=False, close=False) for date in (b"1", b"2")]
    assert dated[0].replace(b"Date: 1", b"Date: 2") == dated[1] != dated[0]
    assert _head_parts.cache_info().misses == info.misses + 1
