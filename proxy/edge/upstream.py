"""The upstream leg: a pool of kept-alive HTTP/1.1 connections to one scheduler, read with httptools.

`Leg.forward` takes a `Receipt`: what was not decided and durably recorded cannot be sent. It sends our own bytes only:
request line, Host, type and length, never a header of the caller's.

Rules (RFC 9112 section 9, and law 2 of the design):

* A call that may act is sent once. A view is sent a second time, once, when a reused connection turns out dead before a
  single byte of the answer arrived.
* Answers up to `Outbound.whole` bytes are handed over whole; longer ones as a stream that reads on only while the caller takes.
* An answer that ends early, is malformed, or says more than it should ends its connection; a connection is reused only
  after a clean answer.
* Every phase has its own deadline: connect, first byte, silence within an answer. They are checked by one sweep every
  half second over the connections in use, which costs less than two timers a call.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast

import httptools

from proxy.errors import Unavailable
from proxy.model import Answer, Outbound, Reason, Receipt

HEAD_LIMIT = 65_536  # bytes of headers an upstream may send
_BUFFERED = 262_144  # bytes of a stream that may wait for its reader before the socket is left alone
_SWEEP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """Where a scheduler listens, and how patient to be with it (seconds).

    `socket` is the path of a Unix socket, or empty for `host` and `port`. `authorization` is the gate's own credential
    for this upstream (a whole header value), or empty.
    """

    name: str
    host: str = "127.0.0.1"
    port: int = 80
    socket: str = ""
    tls: ssl.SSLContext | None = None
    server_hostname: str | None = None
    authorization: bytes = b""
    connect_seconds: float = 5.0
    first_byte_seconds: float = 60.0
    idle_seconds: float = 30.0
    keep_seconds: float = 15.0
    connections: int = 64
    waiting: int = 1024

    @property
    def authority(self) -> bytes:
        """The Host header's value."""
        return b"localhost" if self.socket else f"{self.host}:{self.port}".encode("ascii")


class _Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    def __init__(self, leg: "Leg") -> None:
        self._leg = leg
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.deadline = 0.0  # loop time after which the exchange is given up; 0 while idle
        self.kept_since = 0.0
        self._idle = 0.0
        self._whole = 0
        self._answer: asyncio.Future[Answer] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: dict[bytes, bytes] = {}
        self._head_size = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._streaming = False
        self._done = False
        self._reusable = False
        self._wake: asyncio.Future[None] | None = None
        self._paused = False
        self._error: Unavailable | None = None
        self._head_only = False
        self.heard = False  # a byte of the answer has arrived

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by inheritance
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            self.abort(Reason.UPSTREAM_INVALID, "the upstream spoke out of turn")
            return
        self.heard = True
        self.deadline = self._leg.now() + self._idle
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.abort(Reason.UPSTREAM_INVALID, "the upstream wants another protocol")
        except httptools.HttpParserError:
            self.abort(Reason.UPSTREAM_INVALID, "the upstream's answer is not HTTP")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._parser is not None and not self._done:
            # A body without a length ends with the connection: RFC 9112 section 6.3, rule 8.
            if self._size and b"content-length" not in self._headers and b"transfer-encoding" not in self._headers and exc is None:
                self.on_message_complete()
            else:
                self._fail(Unavailable(Reason.UPSTREAM_CLOSED, sent=True))
        self._leg.gone(self)

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self._done:
            self.abort(Reason.UPSTREAM_INVALID, "the upstream said more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._done:
            return
        self._head_size += len(name) + len(value)
        if self._head_size > HEAD_LIMIT:
            self.abort(Reason.UPSTREAM_INVALID, "the upstream's headers are too large")
            return
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._head_only:
            self._finish()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._size += len(body)
        if self._streaming:
            if self._size > _BUFFERED and not self._paused and self.transport is not None:
                self._paused = True
                self.transport.pause_reading()
            self._notify()
        elif self._size > self._whole:
            self._streaming = True
            length = self._headers.get(b"content-length")
            self._resolve(Answer(self._status(), self._headers, b"", _Body(self), None if length is None else int(length)))

    def on_message_complete(self) -> None:
        if self._head_only or self._done:
            return
        self._finish()

    # -- one exchange

    async def exchange(self, request: bytes, first_byte: float, idle: float, *, whole: int, head_only: bool) -> Answer:
        """Send `request`; the answer, whole or as a stream. Raises `Unavailable`."""
        assert self.transport is not None
        self._headers = {}
        self._parts = []
        self._head_size = self._size = 0
        self._streaming = self._done = self.heard = False
        self._error = None
        self._head_only = head_only
        self._idle = idle
        self._whole = whole
        self._parser = httptools.HttpResponseParser(self)
        self._answer = self._leg.loop.create_future()
        self.deadline = self._leg.now() + first_byte
        self.transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.abort(Reason.CLIENT_GONE, "")
            raise

    def abort(self, reason: Reason, detail: str) -> None:
        """Give the connection up, and whoever waits for it the reason."""
        self._fail(Unavailable(reason, detail, sent=True))
        if self.transport is not None:
            self.transport.abort()
        self.closed = True

    def _status(self) -> int:
        assert self._parser is not None
        return self._parser.get_status_code()

    def _finish(self) -> None:
        assert self._parser is not None
        status = self._status()
        if status < 200:
            self.abort(Reason.UPSTREAM_INVALID, "the upstream sent an interim answer")
            return
        self._done = True
        self.deadline = 0.0
        reusable = self._parser.should_keep_alive() and not self._head_only
        self._parser = None
        if self._streaming:
            self._reusable = reusable  # not before its reader has taken the last part
            self._notify()
        else:
            self._resolve(Answer(status, self._headers, b"".join(self._parts)))
            self._leg.finished(self, reusable=reusable)

    def _resolve(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, error: Unavailable) -> None:
        self._error = error
        self._done = True
        self.deadline = 0.0
        self._parser = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next_part(self) -> bytes:
        """What has arrived of a streamed body since the last call; raises `StopAsyncIteration` at its end."""
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._done:
                self._leg.finished(self, reusable=self._reusable)
                raise StopAsyncIteration
            self._wake = self._leg.loop.create_future()
            await self._wake
        part = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._parts = []
        self._size = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.deadline = self._leg.now() + self._idle
            self.transport.resume_reading()
        return part

    def overdue(self, now: float) -> bool:
        """Whether the exchange has run out of time. A reader who does not take is not the upstream's fault."""
        return self.deadline != 0.0 and now > self.deadline and not self._paused


class _Body:
    """The streamed body of one answer. Bound to its exchange: once that is over, the connection serves others."""

    def __init__(self, connection: _Connection) -> None:
        self._connection: _Connection | None = connection

    def __aiter__(self) -> "_Body":
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
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.abort(Reason.CLIENT_GONE, "")


class Leg:
    """The pool of connections to one upstream."""

    def __init__(self, target: Target) -> None:
        """Nothing is connected before the first call. Must be created inside the running loop."""
        self.target = target
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._connecting = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._prefixes: dict[tuple[str, bytes, bytes, bool], bytes] = {}
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)
        self.in_use = 0

    async def forward(self, receipt: Receipt, outbound: Outbound) -> Answer:
        """Send one call that has its receipt; the upstream's answer.

        Raises `Unavailable` with ``upstream-unreachable``, ``-timeout``, ``-closed``, ``-invalid`` or ``overloaded``;
        its `sent` says whether the upstream may have acted.
        """
        assert receipt.sequence >= 0
        return await self.probe(outbound)

    async def probe(self, outbound: Outbound) -> Answer:
        """As `forward`, for the gate's own questions (readiness), which no caller asked and no record needs."""
        request = self._encode(outbound)
        head_only = outbound.verb == "HEAD"
        reused = True
        while True:
            connection = await self._take(fresh=not reused)
            reused = connection.kept_since != 0.0
            try:
                return await connection.exchange(
                    request, self.target.first_byte_seconds, self.target.idle_seconds, whole=outbound.whole, head_only=head_only
                )
            except Unavailable as error:
                dead = error.reason is Reason.UPSTREAM_CLOSED and reused and not connection.heard
                if not (dead and outbound.retry_safe):
                    raise
                reused = False

    def _encode(self, outbound: Outbound) -> bytes:
        key = (outbound.verb, outbound.path, outbound.content_type, outbound.accept_gzip)
        prefix = self._prefixes.get(key)
        if prefix is None:
            lines = [f"{outbound.verb} ".encode() + outbound.path + b" HTTP/1.1", b"Host: " + self.target.authority]
            if outbound.content_type:
                lines.append(b"Content-Type: " + outbound.content_type)
            if outbound.accept_gzip:
                lines.append(b"Accept-Encoding: gzip")
            if self.target.authorization:
                lines.append(b"Authorization: " + self.target.authorization)
            prefix = b"\r\n".join(lines)
            if len(self._prefixes) < 512:  # page paths are unbounded; methods are few
                self._prefixes[key] = prefix
        if outbound.verb != "POST":
            return prefix + b"\r\n\r\n"
        return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (prefix, len(outbound.body), outbound.body)

    async def _take(self, *, fresh: bool) -> _Connection:
        """An idle connection, or a new one; waits in line when all are in use."""
        while True:
            while self._idle and not fresh:
                connection = self._idle.pop()
                if not connection.closed and connection.transport is not None and not connection.transport.is_closing():
                    self.in_use += 1
                    return connection
            if len(self._open) + self._connecting < self.target.connections:
                return await self._connect()
            if fresh and self._idle:
                self._idle.pop().abort(Reason.UPSTREAM_CLOSED, "")
                continue
            if len(self._waiting) >= self.target.waiting:
                raise Unavailable(Reason.OVERLOADED, "too many calls wait for this upstream", retry_after=1)
            turn = self.loop.create_future()
            self._waiting.append(turn)
            try:
                await asyncio.wait_for(turn, self.target.first_byte_seconds)
            except TimeoutError:
                raise Unavailable(Reason.UPSTREAM_TIMEOUT, "no connection became free in time", retry_after=5) from None
            except asyncio.CancelledError:
                self._pass_on()  # the turn may have come just before the caller left: it is the next one's
                raise

    async def _connect(self) -> _Connection:
        target = self.target
        self._connecting += 1
        try:
            async with asyncio.timeout(target.connect_seconds):
                if target.socket:
                    _, connection = await self.loop.create_unix_connection(lambda: _Connection(self), target.socket)
                else:
                    _, connection = await self.loop.create_connection(
                        lambda: _Connection(self), target.host, target.port, ssl=target.tls, server_hostname=target.server_hostname
                    )
        except TimeoutError:
            raise self._unreachable("the connection took too long") from None
        except ssl.SSLError:
            raise self._unreachable("the TLS handshake with the upstream failed") from None
        except OSError:
            raise self._unreachable("the connection was refused") from None
        finally:
            self._connecting -= 1
        self._open.add(connection)
        self.in_use += 1
        return connection

    def _unreachable(self, detail: str) -> Unavailable:
        self._pass_on()
        return Unavailable(Reason.UPSTREAM_UNREACHABLE, detail, retry_after=5)

    # -- told by connections

    def finished(self, connection: _Connection, *, reusable: bool) -> None:
        """The exchange on `connection` ended cleanly."""
        if connection not in self._open:
            return  # the upstream closed it meanwhile
        self.in_use -= 1
        if reusable and not connection.closed:
            connection.kept_since = self.now()
            self._idle.append(connection)
        elif connection.transport is not None:
            connection.transport.close()
            self._open.discard(connection)
        self._pass_on()

    def gone(self, connection: _Connection) -> None:
        """`connection` is closed, whoever closed it."""
        if connection in self._open:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            else:
                self.in_use -= 1
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _sweep(self) -> None:
        now = self.now()
        for connection in list(self._open):
            if connection.overdue(now):
                connection.abort(Reason.UPSTREAM_TIMEOUT, "")
        for connection in [c for c in self._idle if now - c.kept_since > self.target.keep_seconds]:
            if connection.transport is not None:
                connection.transport.close()
            self._idle.remove(connection)
            self._open.discard(connection)
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        """Drop every connection and stop sweeping."""
        self._sweeper.cancel()
        for connection in list(self._open):
            connection.abort(Reason.DRAINING, "")
