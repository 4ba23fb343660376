"""One client's connection: requests in, one at a time to the handler, replies out, and a deadline
for every phase.

=====================  ==================================================
======================================= phase                  ends
when its time is up =====================  ==================================================
======================================= first bytes, silence   with the first byte of a request
closed without a word head                   with the empty line
408, closed body                   with its last byte; unwatched until it is wanted    408, closed,
unless it moves on answer                 when the handler is done                            (the
handler has deadlines of its own) write                  when the client has taken enough
cut, unless it moves on lingering              with the client's end
cut, unless it moves on =====================  ==================================================
=======================================

"Moves on" is `PROGRESS` bytes in the phase's time: neither a body on a slow line nor a slow reader
is cut off, and neither can a trickle hold a connection for long.

A large body is left in the socket until the handler asks for it, which it does once it knows the
caller. While a request is in hand, the next one is read and then the socket is left alone. Bytes
that are no request are refused once, after what came before them has been answered, and nothing
behind them is read. A client that is still sending when it is refused is listened to for a while
(RFC 9112 section 9.6), since closing at once would reset the connection and take the answer away
with it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from proxy.edge.server.arrival import Arrival
from proxy.edge.server.request_parser import BETWEEN, BODY, Limits, RequestReader
from proxy.edge.server.response_writer import PROGRESS, ReplyWriter
from proxy.errors import Rejected
from proxy.model import Peer, Reason, Request, Response

_AHEAD = 64  # requests that a client may send before it has read the answer to the first
_LINGER_SECONDS = 2.0
# of rest, after which a client's heads are forgotten: a worker says every second that it lives
_FORGET_SECONDS = 10.0
_CLOSE_SECONDS = 2.0  # for the peer's half of a TLS goodbye
# for the first bytes of a client that came just before the gate began to shut down
_FIRST_SECONDS = 1.0


class Handler(Protocol):
    """What answers requests: the gate."""

    def handle(
        self, request: Request, read_body: Callable[[], Awaitable[bytes]]
    ) -> Awaitable[Response]:
        """The reply to `request`; `read_body` gives the body when `request` is not `whole`. Never
        raises.
        """

    def refuse(self, request_id: str, origin: Peer, error: Rejected) -> Response:
        """The reply to bytes that are no request; records the rejection."""


class Host(Protocol):
    """What connections share: the server."""

    handler: Handler
    limits: Limits
    loop: asyncio.AbstractEventLoop
    draining: bool
    rest_seconds: float
    date: bytes
    next_id: Callable[[], str]

    def now(self) -> float:
        """The loop's time."""

    def opened(self, connection: "Connection") -> None:
        """`connection` is to be watched."""

    def gone(self, connection: "Connection") -> None:
        """`connection` is closed."""


class _Incoming:
    """The body of a request that was handed over before all of it had arrived."""

    __slots__ = ("_connection", "_expects", "rest", "wanted")

    def __init__(
        self, connection: "Connection", rest: "asyncio.Future[bytes | Rejected]", *, expects: bool
    ) -> None:
        self._connection = connection
        self._expects = expects
        self.rest = rest
        self.wanted = False

    async def read(self) -> bytes:
        """The body. Raises `Rejected` when it is too large, malformed, late, or its sender has
        left.
        """
        if not self.wanted:
            self.wanted = True
            if not self.rest.done():
                self._connection.want_body(expects=self._expects)
        rest = await self.rest
        if isinstance(rest, Rejected):
            raise rest
        return rest

    @property
    def complete(self) -> bool:
        return self.rest.done() and not isinstance(self.rest.result(), Rejected)

    def settle(self, rest: bytes | Rejected) -> None:
        if not self.rest.done():
            self.rest.set_result(rest)


async def _no_body() -> bytes:
    return b""


class Connection(asyncio.Protocol):
    """One client connection and the task that serves it."""

    def __init__(
        self,
        host: Host,
        address: str,
        port: int,
        *,
        tls: bool,
        released: Callable[[], None] = lambda: None,
    ) -> None:
        """`released` is called once, when the connection no longer counts."""
        self._host = host
        self._limits = host.limits
        self._address = address
        self._port = port
        self._tls: str | None = "TLS" if tls else None
        self._released: Callable[[], None] | None = released
        self._transport: asyncio.Transport
        self._reader: RequestReader
        self._writer: ReplyWriter
        self._task: asyncio.Task[None] | None = None
        self._origin: tuple[bytes, Peer] | None = None
        self._queue: deque[tuple[Request, _Incoming | None] | Rejected] = deque()
        self._arrival = Arrival(host.loop)
        # the body that is arriving, if its request is in the queue or in hand
        self._incoming: _Incoming | None = None
        self._phase = BETWEEN
        self._fresh = True  # no request has come yet
        self._busy = False  # a request is in hand
        self._paused = False
        self._refused = False  # no request can follow
        self._ended = False  # the client has sent all it will
        self._lingering = False
        self._closed = False
        self._deadline = 0.0  # of what is awaited from the client; 0 for none
        self._moved = 0  # bytes, in or out, at the time the deadline was set
        self._discarded = 0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by inheritance
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self._tls = ssl_object.version()
        self.next_id = self._host.next_id
        self._writer = ReplyWriter(transport, self._host.loop, self._limits.write_seconds)
        self._reader = RequestReader(self, self._limits)
        self._deadline = self._host.now() + self._limits.header_seconds
        self._host.opened(self)
        self._task = self._host.loop.create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._host.loop.call_soon(self._arrival.fire)
        self._writer.close()
        if self._incoming is not None:
            self._incoming.settle(Rejected(Reason.CLIENT_GONE))
        if self._writer.streaming and self._task is not None:
            self._task.cancel()  # nobody is left to read: let the upstream go
        self._host.gone(self)
        self.release()
        self._reader.close()

    def release(self) -> None:
        """Give the place among the counted connections back."""
        if self._released is not None:
            released, self._released = self._released, None
            released()

    def eof_received(self) -> bool:
        """A client that has said all may still be waiting for its answer; TLS has no such
        half-closed state.
        """
        self._ended = True
        if self._incoming is not None:
            self._incoming.settle(Rejected(Reason.CLIENT_GONE))
        return self._tls is None and not self._lingering and (self._busy or bool(self._queue))

    def pause_writing(self) -> None:
        self._writer.pause()

    def resume_writing(self) -> None:
        self._writer.resume()

    def data_received(self, data: bytes) -> None:
        if self._refused or self._lingering:
            self._discarded += len(data)
            return
        reader = self._reader
        try:
            reader.feed(data)
        except Rejected as error:
            self._refuse(error)
        else:
            if reader.phase != self._phase:
                self._phase = reader.phase
                self._watch_read()
        if self._queue and not self._busy:
            self._arrival.fire()

    # -- told by the reader

    def origin(self, user_agent: bytes) -> Peer:
        """Where this connection comes from; made once, since a client seldom changes its name."""
        if self._origin is None or self._origin[0] != user_agent:
            self._origin = (
                user_agent,
                Peer(self._address, self._port, self._tls, user_agent[:256].decode("latin-1")),
            )
        return self._origin[1]

    def on_request(self, request: Request, *, expects: bool) -> None:
        """Queue `request`."""
        if len(self._queue) >= _AHEAD:
            raise Rejected(Reason.BAD_REQUEST, "too many requests were sent ahead of their answers")
        if request.body_complete:
            self._enqueue((request, None))
        else:
            self._incoming = _Incoming(self, self._host.loop.create_future(), expects=expects)
            self._enqueue((request, self._incoming))
            if not expects:
                self._pause_reading()

    def on_rest(self, body: bytes) -> None:
        """Give the body to whoever waits for it."""
        assert self._incoming is not None
        self._incoming.settle(body)
        self._incoming = None

    # -- between reader and task

    def _enqueue(self, item: tuple[Request, _Incoming | None] | Rejected) -> None:
        self._queue.append(item)
        self._phase = BETWEEN  # what follows in the same bytes starts with a deadline of its own
        self._deadline = 0.0
        if self._busy:
            self._pause_reading()  # the next request waits in the socket while this one is served

    def _refuse(self, error: Rejected) -> None:
        """The bytes are no request: say so once, after what came before them, and read no more."""
        self._refused = True
        self._deadline = 0.0
        self._pause_reading()
        if self._incoming is not None:
            self._incoming.settle(error)  # whoever reads the body answers
        else:
            self._enqueue(error)

    def want_body(self, *, expects: bool) -> None:
        """Read on: the caller is known."""
        if expects and not self._closed:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 section 10.1.1
        self._resume_reading()
        self._watch_read()

    def _pause_reading(self) -> None:
        if not self._paused and not self._closed:
            self._paused = True
            self._transport.pause_reading()
        self._deadline = 0.0

    def _resume_reading(self) -> None:
        if self._paused and not self._closed:
            self._paused = False
            self._transport.resume_reading()

    # -- deadlines

    def _watch_read(self) -> None:
        """Set the deadline of the phase that the reader is in, if it is the client whom all wait
        for.
        """
        phase, limits, incoming = self._phase, self._limits, self._incoming
        if self._paused or (phase == BODY and incoming is not None and not incoming.wanted):
            self._deadline = 0.0
        elif phase == BETWEEN:
            self._deadline = (
                0.0 if self._busy or self._queue else self._host.now() + limits.idle_seconds
            )
        else:
            self._deadline = self._host.now() + (
                limits.body_seconds if phase == BODY else limits.header_seconds
            )
            self._moved = self._reader.body_size

    @property
    def _waited_for(self) -> bool:
        """Whether it is the gate's turn."""
        return self._busy or bool(self._queue)

    @property
    def _idle(self) -> bool:
        """Whether nothing is under way; the first request of a new connection is."""
        return self._phase == BETWEEN and not self._fresh and not self._waited_for

    def expire(self, now: float) -> None:
        """Called by the sweep: end a phase that has taken too long."""
        if self._closed:
            return
        if self._writer.overdue(now):
            self.abort()
        elif not self._deadline or now < self._deadline:
            if self._idle and self._deadline - now < self._limits.idle_seconds - _FORGET_SECONDS:
                self._reader.forget()  # thousands of idle connections should cost little each
        elif self._lingering:
            if (
                self._discarded - self._moved < PROGRESS
                or self._discarded > self._limits.body_bytes
            ):
                self.abort()
            else:
                self._deadline, self._moved = now + _LINGER_SECONDS, self._discarded
        elif self._transport.is_closing():
            self.abort()
        elif self._phase == BETWEEN:
            self._close(
                min(_CLOSE_SECONDS, self._host.rest_seconds)
                if self._host.draining
                else _CLOSE_SECONDS
            )
        elif self._phase == BODY and self._reader.body_size - self._moved >= PROGRESS:
            self._watch_read()
        else:
            self._refuse(Rejected(Reason.REQUEST_TIMEOUT))
            self._host.loop.call_soon(self._arrival.fire)

    # -- the task

    async def _serve(self) -> None:
        """Serve one request after the other until either side closes."""
        host, queue, writer = self._host, self._queue, self._writer
        handler = host.handler
        try:
            while not self._closed:
                if not queue:
                    if self._ended or self._refused:
                        break
                    await self._arrival
                    continue
                item = queue.popleft()
                if isinstance(item, Rejected):
                    reply = handler.refuse(host.next_id(), self.origin(b""), item)
                    sending = writer.send(reply, host.date, head_only=False, close=True)
                    if sending is not None:
                        await sending
                    break
                self._busy, self._fresh = True, False
                request, incoming = item
                reply = await handler.handle(
                    request, _no_body if incoming is None else incoming.read
                )
                connection = request.headers.get(b"connection")
                close = (
                    reply.close
                    or host.draining
                    or (incoming is not None and not incoming.complete)
                    or (connection is not None and b"close" in connection.lower())
                )
                sending = writer.send(
                    reply, host.date, head_only=request.http_method == "HEAD", close=close
                )
                if (sending is not None and not await sending) or close:
                    break
                self._busy = False
                if not queue:
                    if self._paused:
                        self._resume_reading()
                    self._watch_read()
        finally:
            self._task = None  # its error, when it is cancelled, holds on to this
            self._busy = False
            if not self._closed:
                self._end()

    def _end(self) -> None:
        """Close, with time for the client to take the answer."""
        if not self._ended and (self._refused or self._incoming is not None):
            self._lingering = True
            if self._tls is None:
                self._transport.write_eof()
            self._resume_reading()
            self._deadline, self._moved = self._host.now() + _LINGER_SECONDS, self._discarded
        else:
            self._close(self._limits.write_seconds)

    def _close(self, seconds: float) -> None:
        self._deadline = self._host.now() + seconds
        self._transport.close()

    def stop(self) -> None:
        """Close soon if idle; a request that is in hand or begins to arrive until then is answered
        first.

        Not at once: a client that sends its next request at this moment would find the connection
        cut, and could not know whether the call was made.
        """
        if self._closed or self._waited_for or self._lingering or self._transport.is_closing():
            return
        if self._idle:
            self._deadline = min(self._deadline, self._host.now() + self._host.rest_seconds)
        elif self._fresh:
            self._deadline = min(self._deadline, self._host.now() + _FIRST_SECONDS)

    def abort(self) -> "asyncio.Task[None] | None":
        """Cut the connection. The task that was sending a long answer, if there is one: it ends as
        soon as it hears of it.
        """
        self._transport.abort()
        return self._task if self._writer.streaming else None
