"""The writing half of a connection, with a transport and a clock that do as they are told."""

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


class Clogged:
    """A transport, and a loop's clock, under the test's control."""

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


def free_writer() -> tuple[ResponseWriter, Clogged]:
    """A writer whose client keeps up."""
    clog = Clogged()
    return ResponseWriter(
        cast(asyncio.Transport, clog), cast(asyncio.AbstractEventLoop, clog), 30.0
    ), clog


def clogged_writer() -> tuple[ResponseWriter, Clogged]:
    """A writer with a write deadline of 30 seconds, whose client has stopped to keep up at time 0."""
    writer, clog = free_writer()
    clog.unsent = 10 * MIN_PROGRESS_BYTES
    writer.pause()
    return writer, clog


def at(clog: Clogged, now: float) -> float:
    """Set the clock."""
    clog.now = now
    return now


async def test_a_reader_that_takes_nothing_is_overdue_after_the_deadline() -> None:
    """Not before it, and not by a little that it took."""
    writer, clog = clogged_writer()
    assert not writer.overdue(at(clog, 29.9))
    clog.unsent -= MIN_PROGRESS_BYTES - 1
    assert writer.overdue(at(clog, 30.1))


async def test_a_slow_reader_may_take_as_long_as_it_moves_on() -> None:
    """Each deadline that finds progress starts another; one that finds none ends it."""
    writer, clog = clogged_writer()
    for period in range(1, 9):
        clog.unsent -= MIN_PROGRESS_BYTES
        assert not writer.overdue(at(clog, period * 31.0))
    assert writer.overdue(at(clog, 9 * 31.0))


async def test_a_reader_that_has_caught_up_has_no_deadline() -> None:
    """Nothing is owed once the buffer has drained."""
    writer, clog = clogged_writer()
    writer.resume()
    assert not writer.overdue(at(clog, 1e9))


SMALL = Response(200, b"abc", b"a/b")


def test_a_small_reply_is_one_write_and_no_coroutine() -> None:
    """Head and body go out together, in one record of TLS, and there is nothing to wait for."""
    writer, clog = free_writer()
    assert writer.send(SMALL, b"D", head_only=False, close=False) is None
    assert clog.written == [
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: a/b\r\nContent-Length: 3\r\n\r\nabc"
    ]


@pytest.mark.parametrize("gone", [False, True], ids=["catches up", "leaves"])
async def test_a_reply_that_the_client_does_not_take_is_waited_for(gone: bool) -> None:
    """It is written once; another follows when the client has caught up, and none when it has left
    instead.
    """
    writer, clog = free_writer()
    clog.wrote = writer.pause
    sending = writer.send(SMALL, b"D", head_only=False, close=False)
    assert sending is not None
    waiting = asyncio.ensure_future(sending)
    await asyncio.sleep(0)
    assert not waiting.done()
    (writer.close if gone else writer.resume)()
    assert await waiting is not gone
    assert len(clog.written) == 1


@pytest.mark.parametrize("size", [3, 500_000])
async def test_nothing_is_written_to_a_client_that_has_left(size: int) -> None:
    """Nor does another response follow."""
    writer, clog = free_writer()
    writer.close()
    sending = writer.send(Response(200, b"a" * size), b"D", head_only=False, close=False)
    assert sending is not None
    assert not await sending
    assert not clog.written


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
async def test_a_stream_is_written_in_small_pieces_as_the_client_takes_them(chunked: bool) -> None:
    """However long its parts: one piece, then a wait for the client, then the next; nothing is
    lost, and an empty part is no end.
    """
    writer, clog = free_writer()
    whole = bytes(range(256)) * 1000
    parts = Parts(b"ab", b"", whole, b"end")
    response = Response(200, stream=parts, length=None if chunked else len(whole) + 5)
    sending = writer.send(response, b"D", head_only=False, close=False)
    assert sending is not None
    clog.wrote = writer.pause
    waiting = asyncio.ensure_future(sending)
    for _ in range(20):
        await asyncio.sleep(0)
        before = len(clog.written)
        assert max(map(len, clog.written), default=0) <= 65_536 + len(b"10000\r\n\r\n")
        writer.resume()
        if waiting.done():
            break
        await asyncio.sleep(0)
        assert len(clog.written) <= before + 2  # the head goes with the first piece
    assert await waiting
    assert parts.closed
    _, _, body = b"".join(clog.written).partition(b"\r\n\r\n")
    if chunked:
        framed, body = body, b""
        while framed != b"0\r\n\r\n":
            size, _, framed = framed.partition(b"\r\n")
            body, framed = body + framed[: int(size, 16)], framed[int(size, 16) + 2 :]
    assert body == b"ab" + whole + b"end"


async def test_a_client_that_leaves_gets_no_further_piece() -> None:
    """What is left of a long part is not written into a closed connection."""
    writer, clog = free_writer()
    parts = Parts(b"a" * 1_000_000)
    sending = writer.send(
        Response(200, stream=parts, length=1_000_000), b"D", head_only=False, close=False
    )
    assert sending is not None
    clog.wrote = lambda: writer.pause() if len(clog.written) == 3 else None
    waiting = asyncio.ensure_future(sending)
    await asyncio.sleep(0)
    assert not waiting.done()
    writer.close()
    assert not await waiting
    assert [len(data) for data in clog.written[1:]] == [65_536] * 2
    assert (clog.aborted, parts.closed) == (True, True)


HEADS: dict[str, tuple[Response, bool, bool, bytes]] = {
    "whole": (
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
def test_heads_say_how_the_body_ends(name: str) -> None:
    """One length, or none where there is no body; the reason phrase is ours when there is one."""
    response, head_only, close, lines = HEADS[name]
    expected = b"HTTP/1.1 " + lines.replace(b"|", b"\r\n") + b"\r\n\r\n"
    assert encode_head(response, b"D", head_only=head_only, close=close) == expected


def test_what_heads_have_in_common_is_remembered_in_bounds() -> None:
    """The constant part of a head is put together once; refusals, whose phrases all differ, do not
    pile up.
    """
    for number in range(1000):
        encode_head(Response(403, b"", phrase=b"%d" % number), b"D", head_only=False, close=False)
    info = _head_parts.cache_info()
    assert info.currsize == info.maxsize == 256
    dated = [encode_head(SMALL, date, head_only=False, close=False) for date in (b"1", b"2")]
    assert dated[0].replace(b"Date: 1", b"Date: 2") == dated[1] != dated[0]
    assert _head_parts.cache_info().misses == info.misses + 1
