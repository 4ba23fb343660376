"""The writing half of a connection, with a transport and a clock that do as they are told."""

import asyncio
from typing import cast

import pytest

from proxy.edge.writer import PROGRESS, ReplyWriter, encode_head
from proxy.model import Reply


class Clogged:
    """A transport, and a loop's clock, under the test's control."""

    def __init__(self) -> None:
        self.unsent = 0
        self.now = 0.0

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def time(self) -> float:
        return self.now

    def create_future(self) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()


def clogged_writer() -> tuple[ReplyWriter, Clogged]:
    """A writer with a write deadline of 30 seconds, whose client has stopped to keep up at time 0."""
    clog = Clogged()
    writer = ReplyWriter(cast(asyncio.Transport, clog), cast(asyncio.AbstractEventLoop, clog), 30.0)
    clog.unsent = 10 * PROGRESS
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
    clog.unsent -= PROGRESS - 1
    assert writer.overdue(at(clog, 30.1))


async def test_a_slow_reader_may_take_as_long_as_it_moves_on() -> None:
    """Each deadline that finds progress starts another; one that finds none ends it."""
    writer, clog = clogged_writer()
    for period in range(1, 9):
        clog.unsent -= PROGRESS
        assert not writer.overdue(at(clog, period * 31.0))
    assert writer.overdue(at(clog, 9 * 31.0))


async def test_a_reader_that_has_caught_up_has_no_deadline() -> None:
    """Nothing is owed once the buffer has drained."""
    writer, clog = clogged_writer()
    writer.resume()
    assert not writer.overdue(at(clog, 1e9))


HEADS: dict[str, tuple[Reply, bool, bool, bytes]] = {
    "whole": (Reply(200, b"abc", b"text/plain"), False, False, b"200 OK|Date: D|Content-Type: text/plain|Content-Length: 3"),
    "empty": (Reply(200, b"", b"a/b"), False, False, b"200 OK|Date: D|Content-Type: a/b|Content-Length: 0"),
    "closing": (Reply(400, b"", b"a/b"), False, True, b"400 Bad Request|Date: D|Content-Type: a/b|Content-Length: 0|Connection: close"),
    "phrase": (Reply(403, b"", b"a/b", phrase=b"why"), False, False, b"403 why|Date: D|Content-Type: a/b|Content-Length: 0"),
    "odd status": (Reply(499, b"", b"a/b"), False, False, b"499 |Date: D|Content-Type: a/b|Content-Length: 0"),
    "headers": (Reply(204, headers=((b"X", b"1"), (b"Y", b"2"))), False, False, b"204 No Content|Date: D|X: 1|Y: 2"),
    "HEAD of a body": (Reply(200, b"abc", b"a/b"), True, False, b"200 OK|Date: D|Content-Type: a/b|Content-Length: 3"),
    "HEAD with a length": (Reply(200, b"", b"a/b", length=9), True, False, b"200 OK|Date: D|Content-Type: a/b|Content-Length: 9"),
    "HEAD without": (Reply(200, b"", b"a/b"), True, False, b"200 OK|Date: D|Content-Type: a/b"),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_say_how_the_body_ends(name: str) -> None:
    """One length, or none where there is no body; the reason phrase is ours when there is one."""
    reply, head_only, close, lines = HEADS[name]
    expected = b"HTTP/1.1 " + lines.replace(b"|", b"\r\n") + b"\r\n\r\n"
    assert encode_head(reply, b"D", head_only=head_only, close=close) == expected
