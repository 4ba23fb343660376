"""Writing replies to one client: never faster than it reads, and never longer than it deserves.

A reply is whole, or a stream that is asked for its next part only when the client has taken the
last ones. Of a part no more is written at once than a piece: TLS holds what is written at once
three times over. A client that takes less than `PROGRESS` bytes in the write deadline is cut off:
who reads one byte a minute holds no answer for long. A stream that fails in the middle ends in a
cut connection, never in something that looks complete.
"""

import asyncio
from collections.abc import Awaitable
from functools import lru_cache
from http import HTTPStatus

from proxy.edge.upstream.uncompiled import closing
from proxy.errors import Rejected
from proxy.model import Response, Stream

PROGRESS = 65_536  # bytes in the time of a deadline
_HIGH_WATER = 262_144  # bytes of answer that may wait in the transport
_SLICE = 131_072  # bytes of a long answer written at once
# bytes of a stream written at once; its first part is all that was gathered before it became one
_PIECE = 65_536
_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_BODILESS = frozenset({204, 304})  # RFC 9112 section 6.3


class ReplyWriter:
    """The writing half of a connection."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float
    ) -> None:
        """`seconds` is the write deadline."""
        self._transport = transport
        self._loop = loop
        self._seconds = seconds
        self._drained: asyncio.Future[None] | None = None  # while the client does not keep up
        self._deadline = 0.0
        self._unsent = 0
        self.closed = False
        self.streaming = False
        transport.set_write_buffer_limits(high=_HIGH_WATER)

    # -- told by the connection

    def pause(self) -> None:
        """The client does not keep up."""
        self._drained = self._loop.create_future()
        self._watch()

    def resume(self) -> None:
        """The client has caught up."""
        self._deadline = 0.0
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def close(self) -> None:
        """The connection is gone."""
        self.closed = True
        self.resume()

    def _watch(self) -> None:
        self._deadline = self._loop.time() + self._seconds
        self._unsent = self._transport.get_write_buffer_size()

    def overdue(self, now: float) -> bool:
        """Whether the client has had its time and taken too little."""
        if not self._deadline or now < self._deadline:
            return False
        if self._unsent - self._transport.get_write_buffer_size() < PROGRESS:
            return True
        self._watch()
        return False

    # -- replies

    def send(
        self, reply: Response, date: bytes, *, head_only: bool, close: bool
    ) -> Awaitable[bool] | None:
        """Send `reply`. None when that is done; else what is to be awaited, which says whether
        another reply can follow.

        Nearly every reply is one write that waits for nobody, and so no coroutine. `head_only`
        answers a HEAD.
        """
        if reply.stream is not None:
            return self._send_stream(reply, reply.stream, date, head_only=head_only, close=close)
        if self.closed:
            return self._taken()
        body = b"" if head_only or reply.status in _BODILESS else reply.body
        head = encode_head(reply, date, head_only=head_only, close=close)
        if len(body) <= _SLICE:
            self._transport.write(head + body)
            return None if self._drained is None else self._taken()
        self._transport.write(head)
        return self._send_slices(body)

    async def _send_slices(self, body: bytes) -> bool:
        rest = memoryview(body)
        while rest and await self._write(rest[:_SLICE]):
            rest = rest[_SLICE:]
        return not self.closed

    async def _taken(self) -> bool:
        """Wait until the client has taken enough; False when it has gone."""
        if self._drained is not None:
            await self._drained
        return not self.closed

    async def _send_stream(
        self, reply: Response, stream: Stream, date: bytes, *, head_only: bool, close: bool
    ) -> bool:
        return await closing(
            self._stream(reply, stream, date, head_only=head_only, close=close), stream
        )

    async def _stream(
        self, reply: Response, stream: Stream, date: bytes, *, head_only: bool, close: bool
    ) -> bool:
        chunked = reply.length is None
        complete = False
        self.streaming = True
        try:
            if not self.closed:
                self._transport.write(encode_head(reply, date, head_only=head_only, close=close))
                complete = head_only or await self._relay(stream, chunked=chunked)
        except Rejected:
            pass  # the upstream failed in the middle; its record says so
        finally:
            self.streaming = False
            if not complete:
                self._transport.abort()
        return complete

    async def _relay(self, stream: Stream, *, chunked: bool) -> bool:
        async for part in stream:
            # an empty part has none: an empty chunk would end the body
            for begin in range(0, len(part), _PIECE):
                piece = part[begin : begin + _PIECE]
                if not await self._write(
                    b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                ):
                    return False
        return not chunked or await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes | memoryview) -> bool:
        """Write, and wait until the client has taken enough; False when it has gone."""
        if self.closed:
            return False
        self._transport.write(data)
        return await self._taken()


def encode_head(reply: Response, date: bytes, *, head_only: bool, close: bool) -> bytes:
    """The status line and headers of `reply`. `head_only` is for answers to HEAD, whose length may
    be unknown.
    """
    before, kind, behind = _around(
        reply.status, reply.phrase, reply.content_type, reply.headers, close
    )
    if reply.status in _BODILESS:
        framing = b""
    elif reply.stream is None and (reply.body or not head_only):
        framing = b"Content-Length: %d\r\n" % len(reply.body)
    elif reply.length is not None:
        framing = b"Content-Length: %d\r\n" % reply.length
    else:
        framing = b"" if head_only else b"Transfer-Encoding: chunked\r\n"
    return b"%b%b%b%b%b" % (before, date, kind, framing, behind)


# what differs between replies of one kind is their date and length; putting the rest together takes
# 2 us
@lru_cache(maxsize=256)
def _around(
    status: int,
    phrase: bytes,
    content_type: bytes,
    headers: tuple[tuple[bytes, bytes], ...],
    close: bool,
) -> tuple[bytes, bytes, bytes]:
    """What stands in a head before the date, between date and length, and behind."""
    before = b"HTTP/1.1 %d %b\r\nDate: " % (status, phrase or _PHRASES.get(status, b""))
    kind = b"\r\n" if status in _BODILESS else b"\r\nContent-Type: %b\r\n" % content_type
    lines = [b"%b: %b\r\n" % header for header in headers]
    return before, kind, b"".join(lines) + (b"Connection: close\r\n\r\n" if close else b"\r\n")
