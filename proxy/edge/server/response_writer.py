"""Writes responses with back-pressure, and disconnects a client that does not read.

A response has a complete body or a stream. The next part of a stream is read only when the client
has taken the last one. A part is written in pieces, because TLS copies each write three times.

The connection is aborted if the client takes less than `MIN_PROGRESS_BYTES` in a write deadline, so
a client that reads a byte a minute cannot hold a response for long. A stream that fails ends in an
aborted connection, never in a response framed as complete.
"""

import asyncio
from collections.abc import Awaitable
from functools import lru_cache
from http import HTTPStatus

from proxy.edge.upstream.uncompiled import closing
from proxy.errors import Rejected
from proxy.model import Response, Stream

# Bytes that a slow client must move, in either direction, in the time of a deadline.
MIN_PROGRESS_BYTES = 65_536
# Bytes in the transport above which writing pauses. What is below is not counted as held.
_HIGH_WATER_BYTES = 16_384
# Bytes of a complete body in one write.
_SLICE_BYTES = 131_072
# Bytes of a stream in one write. Its first part can be long: the body buffered so far.
_PIECE_BYTES = 65_536
_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_BODILESS = frozenset({204, 304})  # RFC 9112 section 6.3


class ResponseWriter:
    """The writing half of a connection."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float
    ) -> None:
        """`seconds` is the write deadline."""
        self._transport = transport
        self._loop = loop
        self._seconds = seconds
        # Set while the transport has paused writing.
        self._drained: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._buffered = 0
        self.closed = False
        self.streaming = False
        # Whether the stream that is being written goes on for as long as the client stays.
        self.endless = False
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)

    # -- flow control

    def pause(self) -> None:
        """Start the write deadline: the client does not keep up."""
        self._drained = self._loop.create_future()
        self._start_deadline()

    def resume(self) -> None:
        """Go on writing: the client has caught up."""
        self._deadline = 0.0
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def close(self) -> None:
        """Stop writing: the connection is closed."""
        self.closed = True
        self.resume()

    def _start_deadline(self) -> None:
        self._deadline = self._loop.time() + self._seconds
        self._buffered = self._transport.get_write_buffer_size()

    def overdue(self, now: float) -> bool:
        """Return whether the client took too little in a write deadline; else start another."""
        if not self._deadline or now < self._deadline:
            return False
        if self._buffered - self._transport.get_write_buffer_size() < MIN_PROGRESS_BYTES:
            return True
        self._start_deadline()
        return False

    # -- responses

    def send(
        self,
        response: Response,
        date: bytes,
        *,
        head_only: bool,
        close: bool,
        chunks: bool = True,
    ) -> Awaitable[bool] | None:
        """Send `response`; return None, or an awaitable if that takes time.

        Without `chunks` a stream of unknown length ends with the connection (RFC 9112 section 6.3).

        The awaitable's result is whether another response can follow. `head_only` answers a HEAD.
        Nearly every response is one write, for which no coroutine is made.
        """
        if response.stream is not None:
            return self._send_stream(
                response, response.stream, date, head_only=head_only, close=close, chunks=chunks
            )
        if self.closed:
            return self._wait_writable()
        body = b"" if head_only or response.status in _BODILESS else response.body
        head = encode_head(response, date, head_only=head_only, close=close)
        if len(body) <= _SLICE_BYTES:
            self._transport.write(head + body)
            return None if self._drained is None else self._wait_writable()
        self._transport.write(head)
        return self._send_slices(body)

    async def _send_slices(self, body: bytes) -> bool:
        rest = memoryview(body)
        while rest and await self._write(rest[:_SLICE_BYTES]):
            rest = rest[_SLICE_BYTES:]
        return not self.closed

    async def _wait_writable(self) -> bool:
        """Wait until the client has taken enough; return False if it is gone."""
        if self._drained is not None:
            await self._drained
        return not self.closed

    async def _send_stream(
        self,
        response: Response,
        stream: Stream,
        date: bytes,
        *,
        head_only: bool,
        close: bool,
        chunks: bool,
    ) -> bool:
        head = encode_head(response, date, head_only=head_only, close=close, chunks=chunks)
        chunked = chunks and response.length is None
        self.endless = response.endless
        return await closing(
            self._stream(head, stream, head_only=head_only, chunked=chunked), stream
        )

    async def _stream(self, head: bytes, stream: Stream, *, head_only: bool, chunked: bool) -> bool:
        complete = False
        self.streaming = True
        try:
            if not self.closed:
                self._transport.write(head)
                complete = head_only or await self._relay(stream, chunked=chunked)
        except Rejected:
            pass  # the upstream failed; its audit record has the reason
        finally:
            self.streaming = self.endless = False
            if not complete:
                self._transport.abort()
        return complete

    async def _relay(self, stream: Stream, *, chunked: bool) -> bool:
        async for part in stream:
            # An empty part is skipped: an empty chunk would end the body.
            for begin in range(0, len(part), _PIECE_BYTES):
                piece = part[begin : begin + _PIECE_BYTES]
                if not await self._write(
                    b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                ):
                    return False
        return not chunked or await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes | memoryview) -> bool:
        """Write, and wait until the client has taken enough; return False if it is gone."""
        if self.closed:
            return False
        self._transport.write(data)
        return await self._wait_writable()


def encode_head(
    response: Response, date: bytes, *, head_only: bool, close: bool, chunks: bool = True
) -> bytes:
    """Return the status line and headers of `response`.

    `head_only` is for responses to HEAD, whose length may be unknown. Without `chunks` the end of
    the connection is that of an unknown length.
    """
    before, content_type, after = _head_parts(
        response.status, response.phrase, response.content_type, response.headers, close
    )
    if response.status in _BODILESS:
        framing = b""
    elif response.stream is None and (response.body or not head_only):
        framing = b"Content-Length: %d\r\n" % len(response.body)
    elif response.length is not None:
        framing = b"Content-Length: %d\r\n" % response.length
    else:
        framing = b"" if head_only or not chunks else b"Transfer-Encoding: chunked\r\n"
    return b"%b%b%b%b%b" % (before, date, content_type, framing, after)


# PERF: caching all parts but date and length saves 0.5 us of 104 (Luigi add_task, 900 B).
@lru_cache(maxsize=256)
def _head_parts(
    status: int,
    phrase: bytes,
    content_type: bytes,
    headers: tuple[tuple[bytes, bytes], ...],
    close: bool,
) -> tuple[bytes, bytes, bytes]:
    """Return the parts of a head before the date, between date and length, and after the length."""
    before = b"HTTP/1.1 %d %b\r\nDate: " % (status, phrase or _PHRASES.get(status, b""))
    type_line = b"\r\n" if status in _BODILESS else b"\r\nContent-Type: %b\r\n" % content_type
    lines = [b"%b: %b\r\n" % header for header in headers]
    return before, type_line, b"".join(lines) + (b"Connection: close\r\n\r\n" if close else b"\r\n")
