"""One client connection: requests in, one at a time to the handler, responses out.

Every phase has a deadline:

===========  ======================================  ==========================================
phase        ends with                               at its deadline
===========  ======================================  ==========================================
idle         the first byte of a request             close, without a response
head         the empty line                          408, close
body         its last byte                           408, close, unless it progresses
handling     the handler's response                  none: the handler has deadlines of its own
writing      enough bytes taken by the client        abort, unless it progresses
lingering    the end of the client's bytes           abort, unless it progresses
===========  ======================================  ==========================================

Progress is `MIN_PROGRESS_BYTES` in the time of the deadline: a slow line is served, and a trickle
cannot hold a connection for long.

A large body stays in the socket, without a deadline, until the handler asks for it. It asks once
the caller is identified. While a request is handled, the next one is read and queued, and then the
socket is left alone.

Bytes that no handler has claimed are charged to the address of the client
(`proxy.common.memory_budget`). A client whose address has too much in hand is refused.

Bytes that are no request are refused once, after the responses to earlier requests. Nothing behind
them is read. A client that is still sending when it is refused lingers (RFC 9112 section 9.6): an
immediate close would reset the connection, and the client would lose the response.

One module because the phases share the state, the deadline and the queue.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import IntEnum
from typing import cast

from proxy.common.memory_budget import FREE_BYTES, Reservation
from proxy.edge.server.context import ServerContext
from proxy.edge.server.pending_body import PendingBody
from proxy.edge.server.receive_buffer import read_little_ahead, receive_faster
from proxy.edge.server.request_parser import BODY, IDLE, RequestParser
from proxy.edge.server.response_writer import MIN_PROGRESS_BYTES, ResponseWriter
from proxy.edge.server.unclaimed_memory import UnclaimedMemory
from proxy.errors import Rejected
from proxy.model import Peer, Reason, Request, Response

# Requests that a client may send before it has read the response to the first. Bounds the memory
# that one packet of tiny requests takes.
MAX_PIPELINED_REQUESTS = 64
# Bytes that a header of a queued request takes in addition to its name and value.
HEADER_BYTES = 160
# Seconds of idleness after which the cached heads are evicted. A worker pings every second, and
# thousands of idle connections should cost little each.
HEAD_CACHE_IDLE_SECONDS = 10.0
_NO_HEADERS: Mapping[bytes, bytes] = {}


class State(IntEnum):
    """The life of a connection. The order is the order in time; states may be skipped."""

    NEW = 0  # no request has come yet
    OPEN = 1
    REFUSED = 2  # no request can follow; incoming bytes are discarded
    LINGERING = 3  # the last response is written; incoming bytes are discarded
    CLOSED = 4


NEW, OPEN, REFUSED, LINGERING, CLOSED = State


async def _no_body(memory: Reservation | None = None) -> bytes:
    return b""


class Connection(asyncio.Protocol):
    """One client connection and the task that serves it."""

    def __init__(
        self,
        context: "ServerContext[Connection]",
        address: str,
        port: int,
        *,
        tls: bool,
        hop: str | None = None,
        on_released: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for the transport.

        `hop` is the balancer that named the client's address, if one did. `on_released` is called
        once, when the connection no longer counts.
        """
        self._context = context
        self._limits = context.limits
        self._timing = context.timing
        self._address = address
        self._port = port
        self._hop = hop
        self._tls: str | None = "TLS" if tls else None
        self._on_released: Callable[[], None] | None = on_released
        self.transport: asyncio.Transport
        self.parser: RequestParser
        self._writer: ResponseWriter
        self.task: asyncio.Task[None] | None = None
        # What the task awaits between two requests.
        self._wakeup: asyncio.Future[None] | None = None
        # The peer, and the user agent that it was made for.
        self._peer: tuple[bytes, Peer] | None = None
        self.queue: deque[tuple[Request, PendingBody | None] | Rejected] = deque()
        # The body that is arriving, if its request is queued or being handled.
        self._pending_body: PendingBody | None = None
        self.state = NEW
        # The phase that the read deadline is for.
        self.phase = IDLE
        self._busy = False  # a request is being handled
        self._paused = False  # reading is paused
        self._eof = False  # the client has half-closed the connection
        # Loop time until which the client has to act; 0 for none.
        self.deadline = 0.0
        # Bytes of the phase when its deadline was set.
        self._bytes_at_deadline = 0
        self._discarded_bytes = 0
        self._memory = UnclaimedMemory(context.memory, address)
        # Of the request that is being handled: the body if it came later, and the unclaimed bytes
        # of one that came with it.
        self._handled_body: PendingBody | None = None
        self._handled_bytes = 0
        # Called once the response is written, or cannot be.
        self._on_sent: Callable[[], object] | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        transport = cast(asyncio.Transport, transport)
        context = self._context
        self.transport = transport
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self._tls = ssl_object.version()
            read_little_ahead(transport)
        self.next_id = context.next_id
        self._writer = ResponseWriter(transport, context.loop, self._limits.write_seconds)
        self.parser = RequestParser(self, self._limits)
        self.deadline = context.now() + self._limits.header_seconds
        context.connection_opened(self)
        self.task = context.loop.create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self._wake()
        self._writer.close()
        if self._pending_body is not None:
            self._pending_body.resolve(Rejected(Reason.CLIENT_GONE))
        if self._writer.streaming and self.task is not None:
            self.task.cancel()  # no client reads the stream: release the upstream
        self._context.connection_closed(self)
        # A transport may refer to this connection until the next collection of garbage.
        self._pending_body = self._handled_body = None
        self.queue.clear()
        self.parser.discard()
        self._memory.release()
        self.release()
        self.parser.close()

    def release(self) -> None:
        """Stop counting this connection."""
        if self._on_released is not None:
            on_released, self._on_released = self._on_released, None
            on_released()

    def eof_received(self) -> bool:
        """Keep a half-closed connection while a request is unanswered.

        TLS has no half-closed state. A client that ends its half leaves a response without end.
        """
        self._eof = True
        if self._pending_body is not None:
            self._pending_body.resolve(Rejected(Reason.CLIENT_GONE))
        return (
            self._tls is None
            and self.state is not LINGERING
            and self._has_work
            and not self._writer.endless
        )

    def pause_writing(self) -> None:
        self._writer.pause()

    def resume_writing(self) -> None:
        self._writer.resume()

    def data_received(self, data: bytes) -> None:
        if self.state >= REFUSED:
            self._discarded_bytes += len(data)
            return
        parser = self.parser
        try:
            parser.feed(data)
        except Rejected as error:
            self._refuse(error)
        else:
            if parser.phase is not self.phase:
                self.phase = parser.phase
                self._reset_read_deadline()
            if parser.phase is not IDLE or len(self.queue) > 1 or not self._memory.empty:
                self._charge_arrived()
        if self.queue and not self._busy:
            self._wake()

    # -- RequestSink

    def peer(self, headers: Mapping[bytes, bytes]) -> Peer:
        """Return the peer; the same object as long as the user agent stays the same.

        The audit log caches what it writes of a peer by the object's identity.
        """
        user_agent = headers.get(b"user-agent", b"")
        if self._peer is None or self._peer[0] != user_agent:
            name = user_agent[:256].decode("latin-1")
            self._peer = (user_agent, Peer(self._address, self._port, self._tls, name, self._hop))
        return self._peer[1]

    def on_request(self, request: Request, *, expect_continue: bool) -> None:
        """Queue `request`."""
        if len(self.queue) >= MAX_PIPELINED_REQUESTS:
            detail = f"more than {MAX_PIPELINED_REQUESTS} pipelined requests"
            raise Rejected(Reason.BAD_REQUEST, detail)
        if request.body_complete:
            self._enqueue((request, None))
        else:
            self._pending_body = PendingBody(
                self._context.loop.create_future(),
                lambda: self._request_body(expect_continue),
                length=int(request.headers.get(b"content-length", 0)),
                on_claimed=self._charge_unclaimed,
            )
            self._enqueue((request, self._pending_body))
            if not expect_continue:
                self._pause_reading()

    def on_body(self, body: bytes) -> None:
        """Give the handler the body that it asked for."""
        assert self._pending_body is not None
        self._pending_body.resolve(body)
        self._pending_body = None

    # -- memory

    def _charge_arrived(self) -> None:
        """Charge what has arrived; refuse the client if that is too much."""
        try:
            pending = self._pending_body
            if pending is not None:
                pending.charge(self.parser.body_size)
            self._charge_unclaimed(forced=False)
        except Rejected as error:
            self._refuse(error)

    def _charge_unclaimed(self, *, forced: bool = True) -> None:
        """Charge the address for what no handler has claimed.

        Raises `Unavailable` unless that is `forced`, as it is for what was admitted before.
        """
        if self.state is CLOSED:
            return
        pending, handled = self._pending_body, self._handled_body
        size = self._handled_bytes
        if pending is None or not pending.requested:
            size += self.parser.buffered
        if handled is not None:
            size += handled.unclaimed_bytes
        for item in self.queue:
            if not isinstance(item, Rejected):
                request, body = item
                size += request.held_bytes + HEADER_BYTES * len(request.headers)
                if body is not None:
                    size += body.unclaimed_bytes
        self._memory.hold(size, forced=forced)

    def _body_claimed(self) -> None:
        """Charge the address no more for the body that came with the request."""
        self._handled_bytes = 0
        self._charge_unclaimed()

    # -- between parser and task

    def _wake(self) -> None:
        """Wake the task, if it awaits a request."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _enqueue(self, item: tuple[Request, PendingBody | None] | Rejected) -> None:
        self.queue.append(item)
        self.phase = IDLE  # the next request in the same bytes gets a deadline of its own
        self.deadline = 0.0
        if self._busy:
            self._pause_reading()  # further requests wait in the socket

    def _refuse(self, error: Rejected) -> None:
        """Refuse bytes that are no request, after earlier requests; read no more."""
        self.state = REFUSED
        self.deadline = 0.0
        self.parser.discard()
        self._pause_reading()
        if self._pending_body is not None:
            self._pending_body.resolve(error)  # the handler of its request answers
        else:
            self._enqueue(error)
        self._charge_unclaimed()

    def _request_body(self, expect_continue: bool) -> None:
        """Read on: the handler asks for the body."""
        if expect_continue and self.state is not CLOSED:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 section 10.1.1
        if self._tls is not None and self.state is not CLOSED:
            receive_faster(self.transport)
        self._resume_reading()
        self._reset_read_deadline()

    def _pause_reading(self) -> None:
        if not self._paused and self.state is not CLOSED:
            self._paused = True
            self.transport.pause_reading()
        self.deadline = 0.0

    def _resume_reading(self) -> None:
        if self._paused and self.state is not CLOSED:
            self._paused = False
            self.transport.resume_reading()

    # -- deadlines

    @property
    def _has_work(self) -> bool:
        """Whether a request is unanswered."""
        return self._busy or bool(self.queue)

    @property
    def idle(self) -> bool:
        """Whether the connection waits for another request; the first one does not count."""
        return self.state is OPEN and self.phase is IDLE and not self._has_work

    def _reset_read_deadline(self) -> None:
        """Set the deadline of the current phase, if it is the client's turn."""
        phase, limits, pending = self.phase, self._limits, self._pending_body
        if self._paused or (phase is BODY and pending is not None and not pending.requested):
            self.deadline = 0.0
        elif phase is IDLE:
            self.deadline = 0.0 if self._has_work else self._context.now() + limits.idle_seconds
        else:
            seconds = limits.body_seconds if phase is BODY else limits.header_seconds
            self.deadline = self._context.now() + seconds
            self._bytes_at_deadline = self.parser.body_size

    def check_deadlines(self, now: float) -> None:
        """End a phase that has taken too long. The server calls this periodically."""
        if self.state is CLOSED:
            return
        if self._writer.overdue(now):
            self.abort()
        elif not self.deadline or now < self.deadline:
            idle_seconds = self._limits.idle_seconds - (self.deadline - now)
            if self.idle and idle_seconds > HEAD_CACHE_IDLE_SECONDS:
                self.parser.clear_cache()
        elif self.state is LINGERING:
            progress = self._discarded_bytes - self._bytes_at_deadline
            if progress < MIN_PROGRESS_BYTES or self._discarded_bytes > self._limits.body_bytes:
                self.abort()
            else:
                self._start_linger_deadline(now)
        elif self.transport.is_closing():
            self.abort()
        elif self.phase is IDLE:
            seconds = self._timing.close
            if self._context.draining:
                seconds = min(seconds, self._context.drain_idle_seconds)
            self._close(seconds)
        elif (
            self.phase is BODY
            and self.parser.body_size - self._bytes_at_deadline >= MIN_PROGRESS_BYTES
        ):
            self._reset_read_deadline()
        else:
            self._refuse(Rejected(Reason.REQUEST_TIMEOUT))
            self._wake()

    # -- the task

    async def _serve(self) -> None:
        """Serve one request after the other until either side closes."""
        context, queue, writer = self._context, self.queue, self._writer
        handler = context.handler
        try:
            while self.state is not CLOSED:
                if not queue:
                    if self._eof or self.state >= REFUSED:
                        break
                    self._wakeup = context.loop.create_future()
                    await self._wakeup
                    self._wakeup = None
                    continue
                item = queue.popleft()
                if isinstance(item, Rejected):
                    response = handler.refuse(context.next_id(), self.peer(_NO_HEADERS), item)
                    writing = writer.send(response, context.date, head_only=False, close=True)
                    if writing is not None:
                        await writing
                    break
                self._busy = True
                if self.state is NEW:
                    self.state = OPEN
                request, pending = item
                self._handled_body = pending
                if request.held_bytes > FREE_BYTES:
                    self._handled_bytes = request.held_bytes
                    request = replace(request, on_claimed=self._body_claimed)
                if not self._memory.empty or self._handled_bytes:
                    self._charge_unclaimed()
                response = await handler.handle(
                    request, _no_body if pending is None else pending.read
                )
                self._handled_body = None
                if self._handled_bytes or not self._memory.empty:
                    self._body_claimed()
                close = self._closes(request, pending, response)
                head_only = request.http_method == "HEAD"
                self._on_sent = response.on_sent
                writing = writer.send(
                    response,
                    context.date,
                    head_only=head_only,
                    close=close,
                    chunks=not request.http_1_0,
                )
                if (writing is not None and not await writing) or close:
                    break
                if self._on_sent is not None:
                    self._sent()
                # An idle connection holds neither the last body nor the last response.
                del item, request, pending, response
                self._busy = False
                if not queue:
                    if self._paused:
                        self._resume_reading()
                    self._reset_read_deadline()
        finally:
            self.task = None  # a cancelled task's exception refers to this connection
            self._busy = False
            self._sent()
            if self.state is not CLOSED:
                self._finish()

    def _sent(self) -> None:
        """Say that the response is written, or cannot be."""
        if self._on_sent is not None:
            on_sent, self._on_sent = self._on_sent, None
            on_sent()

    def _closes(self, request: Request, pending: PendingBody | None, response: Response) -> bool:
        """Return whether `response` is the last one of this connection."""
        connection = request.headers.get(b"connection")
        return (
            response.close
            or request.http_1_0
            or self._context.draining
            or (pending is not None and not pending.complete)
            or (connection is not None and b"close" in connection.lower())
        )

    # -- closing

    def _finish(self) -> None:
        """Close, with time for the client to take the response."""
        if not self._eof and (self.state is REFUSED or self._pending_body is not None):
            self.state = LINGERING
            self.parser.discard()
            self._memory.release()
            if self._tls is None:
                self.transport.write_eof()
            self._resume_reading()
            self._start_linger_deadline(self._context.now())
        else:
            self._close(self._limits.write_seconds)

    def _start_linger_deadline(self, now: float) -> None:
        self.deadline = now + self._timing.linger
        self._bytes_at_deadline = self._discarded_bytes

    def _close(self, seconds: float) -> None:
        self.deadline = self._context.now() + seconds
        self.transport.close()

    def stop(self) -> None:
        """Close soon if idle; a request that is unanswered or begins to arrive is answered first.

        An immediate close could cut off a request that is on its way, and its client could not know
        whether the call was made.
        """
        if self._has_work or self.state >= LINGERING or self.transport.is_closing():
            return
        context = self._context
        if self.idle:
            self.deadline = min(self.deadline, context.now() + context.drain_idle_seconds)
        elif self.state is NEW:
            self.deadline = min(self.deadline, context.now() + self._timing.first_byte)

    def abort(self) -> "asyncio.Task[None] | None":
        """Close at once; return the task if it was sending a stream, since it ends soon after."""
        self.transport.abort()
        return self.task if self._writer.streaming else None
