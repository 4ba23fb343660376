"""One connection to an upstream, which carries one call after another.

Response content is trusted, framing is not: a truncated, malformed, over-long or stalled response
closes the connection, and its caller gets a reason (``upstream-closed``, ``-invalid``,
``-timeout``). The connection is used again only after a clean response to a request that it has
sent completely.

Bytes that no request asked for close the connection, since they would pass for the next response.
They are noticed behind a response (`response_parser`), on an idle connection, and in the kernel in
the moment of the next request (`unread_bytes`).

A response of up to `max_buffered` bytes is returned complete. A longer one is returned as a stream,
and the socket is read only as fast as the stream's reader takes. A negative `max_buffered` makes
any response a stream at its head, which may be silent for any time.

Phases::

    IDLE       no call. Data that arrives now is unsolicited and closes the connection.
    AWAITING   a request was sent, and no byte of the response has arrived.
    READING    the response arrives and is gathered.
    STREAMING  the response was returned as a stream, and its body arrives.
    COMPLETE   the body has arrived, and the stream's reader has not taken all of it.
    FAILED     the exchange ended with an error. The connection is closed.

IDLE leads to AWAITING, which leads to READING and back to IDLE. READING leads to STREAMING when the
body is long, that to COMPLETE, and that to IDLE. AWAITING, READING and STREAMING lead to FAILED.

One module because the phases share the state and the deadline.
"""

import asyncio
import enum
from typing import Final, Protocol, cast

from proxy.edge.upstream.request_writer import RequestWriter
from proxy.edge.upstream.response_head_cache import CachedHead, ResponseHeadCache
from proxy.edge.upstream.response_parser import ResponseParser
from proxy.edge.upstream.unread_bytes import UnreadBytes, has_ended
from proxy.errors import Unavailable
from proxy.model import Reason, UpstreamResponse

# Bytes up to which parts of a stream are joined. A stream begins with a megabyte, of which a second
# copy would cost more than it saves.
JOIN_PARTS_BELOW = 65_536
# Bytes of a stream that may wait for its reader before the socket is no longer read.
MAX_STREAM_BUFFER = 131_072


class Phase(enum.Enum):
    """What a connection does now."""

    IDLE = enum.auto()
    AWAITING = enum.auto()
    READING = enum.auto()
    STREAMING = enum.auto()
    COMPLETE = enum.auto()
    FAILED = enum.auto()


# PERF: module names instead of members of the enum save 0.2 us of 104 (Luigi add_task, 900 B).
_IDLE: Final = Phase.IDLE
_AWAITING: Final = Phase.AWAITING
_READING: Final = Phase.READING
_STREAMING: Final = Phase.STREAMING
_COMPLETE: Final = Phase.COMPLETE
_FAILED: Final = Phase.FAILED


class Pool(Protocol):
    """What a connection needs of its pool."""

    loop: asyncio.AbstractEventLoop
    response_heads: ResponseHeadCache
    # Connections that were closed because of bytes that no request asked for.
    unsolicited: int

    def on_idle(self, connection: "UpstreamConnection") -> None:
        """Take `connection` back: its exchange ended cleanly."""

    def on_closed(self, connection: "UpstreamConnection") -> None:
        """Forget `connection`, which is closed. May be called twice."""

    def count_buffered(self) -> None:
        """Charge the memory budget for the bodies that are gathered."""


class UpstreamConnection(asyncio.Protocol):
    """A connection, and the exchange that it carries now."""

    def __init__(
        self, pool: Pool, response_timeout: float, read_timeout: float, keepalive_timeout: float
    ) -> None:
        """Belong to `pool`.

        Timeouts, in seconds: to the first byte of a response, between two pieces, without a call.
        """
        self._pool = pool
        self._cached_heads: dict[int, CachedHead] = pool.response_heads.entries
        self._timeouts = (response_timeout, read_timeout, keepalive_timeout)
        self._transport: asyncio.Transport
        self._unread: UnreadBytes
        self._writer: RequestWriter
        self._unsolicited = False  # bytes have come that no request asked for
        self.closed = False
        # The connection has carried a call before the present one.
        self.reused = False
        # A byte of the present response has arrived. Not set for a cached head: its exchange cannot
        # fail any more.
        self.response_started = False
        self._phase = _IDLE
        # Set from the request until all of the response was taken.
        self._response: asyncio.Future[UpstreamResponse] | None = None
        self._parser: ResponseParser | None = None
        self._head_only = False
        self._max_buffered = 0
        # Loop time after which the connection is closed; 0 until the next sweep sets it.
        self._deadline = 0.0
        # Of a stream: whether the connection is clean after it, whether reading is paused, the
        # error that its reader is to see, and what its reader waits for.
        self._reusable = False
        self._paused = False
        self._error: Unavailable | None = None
        self._reader_waiter: asyncio.Future[None] | None = None

    @property
    def buffered(self) -> int:
        """Bytes of a body that have arrived and were not taken."""
        return 0 if self._parser is None else self._parser.size

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._unread = UnreadBytes(transport)
        self._writer = RequestWriter(self._transport, self._pool.loop)

    def pause_writing(self) -> None:
        self._writer.pause()

    def resume_writing(self) -> None:
        self._writer.resume()

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is _AWAITING:
            cached = self._cached_heads.get(len(data))
            if cached is None or not data.startswith(cached[0]) or self._head_only:
                self._phase = _READING
                self.response_started = True
                self._parser = parser = ResponseParser(self._head_only)
                self._read(parser, data, first=True)
                return
            # PERF: a cached head instead of a parser saves 2 us of 104 (Luigi add_task, 900 B).
            head, status, headers = cached
            response = self._response
            if response is not None and not response.done():  # its caller may have left
                response.set_result(UpstreamResponse(status, headers, data[len(head) :]))
            # After an early response a part of the request may still be unsent.
            self._return_to_pool(reusable=not self._writer.unsent)
        elif (phase is _READING or phase is _STREAMING) and self._parser is not None:
            self._read(self._parser, data)
        else:
            self._note_unsolicited()
            self.fail(Reason.UPSTREAM_INVALID, "")

    def _read(self, parser: ResponseParser, data: bytes, *, first: bool = False) -> None:
        """Parse more of a response, or the `first` piece of it."""
        self._deadline = 0.0
        try:
            parser.feed(data)
        except Unavailable as error:
            self.fail(error.reason, error.detail)
            return
        if parser.complete:
            if first and parser.keep_alive and not parser.extra_data and not self._head_only:
                heads = self._pool.response_heads
                heads.add(data, parser.status, parser.headers, parser.size)
            self._finish(parser)
        elif parser.in_body:
            self._deliver_body(parser)

    def connection_lost(self, exc: Exception | None) -> None:
        parser = self._parser
        if parser is not None and parser.ends_with_connection and exc is None and self._incomplete:
            self._finish(parser)
        elif self._incomplete:
            self._fail(Unavailable(Reason.UPSTREAM_CLOSED, sent=True))
        self.closed = True
        if parser is not None:
            parser.close()
        self._pool.on_closed(self)

    # -- one exchange

    @property
    def _incomplete(self) -> bool:
        """Whether more of a response has to arrive."""
        phase = self._phase
        return phase is _AWAITING or phase is _READING or phase is _STREAMING

    def send(
        self, request: bytes, body: bytes, max_buffered: int, head_only: bool
    ) -> asyncio.Future[UpstreamResponse]:
        """Send a request, in two parts if it is long; return its response to come.

        A caller that stops waiting calls `cancel`. The future may fail with `Unavailable`.

        Raises:
            Unavailable: the connection is closed, or has unsolicited bytes. Nothing was sent.

        """
        if self.closed or self._transport.is_closing() or self._has_unread():
            self.abort()
            if self.reused or not self._unsolicited:
                raise Unavailable(Reason.UPSTREAM_CLOSED)
            raise Unavailable(Reason.UPSTREAM_INVALID, "bytes came before the first request")
        self._response = response = self._pool.loop.create_future()
        self._phase = _AWAITING
        self._max_buffered = max_buffered
        self._head_only = head_only
        self._deadline = 0.0
        self._writer.write(request, body)
        return response

    def _has_unread(self) -> bool:
        """Return whether bytes came since the last response, or the end of the connection."""
        events = self._unread.find(reused=self.reused)
        if events and not has_ended(events):
            self._note_unsolicited()
        return events != 0

    def _note_unsolicited(self) -> None:
        if not self._unsolicited and not self.closed:
            self._unsolicited = True
            self._pool.unsolicited += 1

    def cancel(self, response: asyncio.Future[UpstreamResponse]) -> None:
        """Close the connection, unless the exchange of `response` is over: its caller has left."""
        if self._response is response:
            self.fail(Reason.CLIENT_GONE, "")

    def fail(self, reason: Reason, detail: str) -> None:
        """End the exchange with an error and close the connection."""
        if self._incomplete:
            self._fail(Unavailable(reason, detail, sent=True))
        self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        if not self.closed:
            self.closed = True
            self._transport.abort()
            self._pool.on_closed(self)

    def timed_out(self, now: float) -> bool:
        """Return whether the present phase has taken too long at `now`, the time of a sweep.

        The deadline counts from the first sweep after an event: no connection is closed early, and
        no call reads the clock. A reader that does not take its stream is not the upstream's fault.
        """
        phase = self._phase
        if self._deadline == 0.0:
            response_timeout, read_timeout, keepalive_timeout = self._timeouts
            if phase is _IDLE:
                self._deadline = now + keepalive_timeout
            else:
                self._deadline = now + (response_timeout if phase is _AWAITING else read_timeout)
        endless = phase is _STREAMING and self._max_buffered < 0
        return now > self._deadline and not self._paused and phase is not _COMPLETE and not endless

    def _deliver_body(self, parser: ResponseParser) -> None:
        """Pass on that more of a body has arrived; a body that is long becomes a stream."""
        if self._phase is _READING:
            if parser.size <= self._max_buffered:
                if parser.size > MAX_STREAM_BUFFER:
                    self._pool.count_buffered()
                return
            self._phase = _STREAMING
            self._resolve(parser, b"", ResponseBody(self), parser.content_length)
        if parser.size > MAX_STREAM_BUFFER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._notify_reader()

    def _finish(self, parser: ResponseParser) -> None:
        """End a response that has arrived completely."""
        reusable = (
            parser.keep_alive
            and not parser.extra_data
            and not self._head_only
            and not self.closed
            and not self._writer.unsent  # as in `data_received`
        )
        if parser.extra_data:
            self._note_unsolicited()
        if self._phase is _STREAMING:
            self._phase = _COMPLETE
            self._reusable = reusable  # returned once the reader has taken the last part
            self._notify_reader()
            return
        length = parser.content_length if self._head_only else None
        self._resolve(parser, b"".join(parser.parts), None, length)
        self._return_to_pool(reusable=reusable)

    def _return_to_pool(self, *, reusable: bool) -> None:
        """End the exchange and let other calls use the connection, or close it."""
        if self._parser is not None:
            self._parser.close()
            self._parser = None
        self._response = None
        self._phase = _IDLE
        self.response_started = False
        self.reused = True
        self._deadline = 0.0
        if self.closed:
            return  # the pool knows already
        if reusable:
            self._pool.on_idle(self)
        else:
            self.abort()

    def _resolve(
        self, parser: ResponseParser, body: bytes, stream: "ResponseBody | None", length: int | None
    ) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_result(
                UpstreamResponse(parser.status, parser.headers, body, stream, length)
            )

    def _fail(self, error: Unavailable) -> None:
        response, self._response = self._response, None
        streaming = self._phase is _STREAMING
        self._phase = _FAILED
        if streaming:
            self._error = error
            self._notify_reader()
        elif response is not None and not response.done():
            response.set_exception(error)

    # -- the stream

    def _notify_reader(self) -> None:
        if self._reader_waiter is not None and not self._reader_waiter.done():
            self._reader_waiter.set_result(None)

    async def next_part(self) -> bytes:
        """Return what has arrived of a streamed body since the last call.

        Raises:
            StopAsyncIteration: the body has ended.
            Unavailable: it will not end.

        """
        parser = self._parser
        if parser is None:
            raise StopAsyncIteration
        while not parser.parts:
            if self._error is not None:
                try:
                    raise self._error
                finally:
                    self._error = None  # its traceback leads back here
            if self._phase is _COMPLETE:
                self._return_to_pool(reusable=self._reusable)
                raise StopAsyncIteration
            self._reader_waiter = self._pool.loop.create_future()
            await self._reader_waiter
        parts = parser.parts
        count, size = 1, len(parts[0])
        while size < JOIN_PARTS_BELOW and count < len(parts):
            size += len(parts[count])
            count += 1
        part = parts[0] if count == 1 else b"".join(parts[:count])
        del parts[:count]
        parser.size -= size
        if self._paused and not parts and not self.closed:
            self._paused = False
            self._deadline = 0.0
            self._transport.resume_reading()
        return part


class ResponseBody:
    """The streamed body of one response, as its reader has it (`proxy.model.Stream`).

    It is bound to its connection until the exchange is over; the connection then serves others.
    """

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection: UpstreamConnection | None = connection

    def __aiter__(self) -> "ResponseBody":
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        try:
            return await self._connection.next_part()
        except (StopAsyncIteration, Unavailable):
            self._connection = None
            raise

    async def aclose(self) -> None:
        """Read no further, and close the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.fail(Reason.CLIENT_GONE, "")
