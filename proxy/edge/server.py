"""The listening side: strict HTTP/1.1 (RFC 9112) read with httptools, one request at a time per connection.

What is admitted is bounded before anything is believed: header and body bytes, and a deadline for each of handshake,
headers, body, silence and a reader that does not read. Up to `EARLY_BODY` bytes of a body are gathered before the caller
is identified; the rest is left in the socket until then.

Refused here, with the connection closed after it, since two parsers could disagree on where the next request starts:
what llhttp refuses in strict mode (Content-Length with Transfer-Encoding, differing lengths, folded headers, bare line
feeds, white space before a colon), HTTP other than 1.1, a missing or second Host, a target that is not a plain path, a
second credential, type, encoding or length header, trailers, and upgrades.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Protocol, cast

import httptools

from proxy.errors import Rejected
from proxy.model import Origin, Reason, Reply, Request

EARLY_BODY = 65_536  # bytes of body held for a caller not yet identified
_HIGH_WATER = 262_144  # bytes of answer that may wait in the transport
_SINGLE = frozenset({b"host", b"authorization", b"cookie", b"content-type", b"content-encoding", b"content-length", b"transfer-encoding"})
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PATH = re.compile(r"/[!-~]*")
_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take, in bytes, seconds and connections. The defaults are those of the settings."""

    header_bytes: int = 65_536
    body_bytes: int = 16_777_216
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0


class Handler(Protocol):
    """What answers requests: the gate."""

    async def handle(self, request: Request, read_body: Callable[[], Awaitable[bytes]]) -> Reply:
        """The reply to `request`; `read_body` gives the body when `request.body` holds only its beginning. Never raises."""

    def refuse(self, request_id: str, origin: Origin, error: Rejected) -> Reply:
        """The reply to bytes that are no request; records the rejection."""


def new_request_id_source() -> Callable[[], str]:
    """Make ids of 16 characters, unique across processes and restarts, in the order of arrival within one process.

    The first 8 characters come from the clock and the process's own random bits, the rest counts: reading random bytes
    for every request would cost more than the rest of the id.
    """
    import base64
    import os

    start = base64.b32encode(os.urandom(5)).decode("ascii")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    pairs = [a + b for a in alphabet for b in alphabet]
    counter = int.from_bytes(os.urandom(4), "big")

    def next_id() -> str:
        nonlocal counter
        counter = (counter + 1) & 0xFF_FFFF_FFFF
        return start + pairs[counter >> 30] + pairs[counter >> 20 & 1023] + pairs[counter >> 10 & 1023] + pairs[counter & 1023]

    return next_id


class Connection(asyncio.Protocol):
    """One client connection and the task that serves it."""

    def __init__(self, server: "Server", address: str, port: int, *, tls: bool, released: Callable[[], None] = lambda: None) -> None:
        """`released` is called once, when the connection no longer counts."""
        self._released: Callable[[], None] | None = released
        self._server = server
        self._limits = server.limits
        self._address = address
        self._port = port
        self._tls: str | None = "TLS" if tls else None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[Request | Rejected] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._body_done: asyncio.Future[bytes] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeated: bytes | None = None
        self._head_size = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._in_head = True  # between messages, or inside a head
        self._request: Request | None = None  # the request whose body is arriving
        self._handed_over = False  # that request is already with the task
        self._wants_body = False
        self._expects = False
        self._reading_paused = False
        self._refused = False  # a framing error: no more reading
        self.closed = False
        self.busy = False
        self.deadline = 0.0
        self._deadline_reason = Reason.REQUEST_TIMEOUT

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by inheritance
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self._tls = ssl_object.version()
        self.deadline = self._server.now() + self._limits.header_seconds
        self._server.connections.add(self)
        self._task = self._server.loop.create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        for waiter in (self._arrival, self._drained):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        if self._body_done is not None and not self._body_done.done():
            self._body_done.set_exception(Rejected(Reason.CLIENT_GONE))
        self._server.gone(self)
        self.release()

    def release(self) -> None:
        """Give the place among the counted connections back."""
        if self._released is not None:
            released, self._released = self._released, None
            released()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._drained = self._server.loop.create_future()
        self.deadline = self._server.now() + self._limits.write_seconds

    def resume_writing(self) -> None:
        self.deadline = 0.0
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            if self._head_size == 0 and not self.busy:
                self.deadline = self._server.now() + self._limits.header_seconds
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(Rejected(Reason.BAD_REQUEST, "no other protocol is spoken here"))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Rejected) else Rejected(Reason.BAD_REQUEST))
        except httptools.HttpParserError:
            self._refuse(Rejected(Reason.BAD_REQUEST, "the framing is not strict HTTP/1.1"))
        else:
            if self._in_head and self._head_size > self._limits.header_bytes:
                self._refuse(Rejected(Reason.HEADERS_TOO_LARGE))
            elif self._request is not None and not self._handed_over:
                self._hand_over(self._request)

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._repeated = None
        self._body = []
        self._body_size = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            raise Rejected(Reason.BAD_REQUEST, "trailers are not read")
        name = name.lower()
        if name in self._headers:
            if name in _SINGLE:
                self._repeated = name
            value = self._headers[name] + b", " + value
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        headers = self._headers
        size = len(self._url) + sum(map(len, headers)) + sum(map(len, headers.values()))
        if size > self._limits.header_bytes:
            raise Rejected(Reason.HEADERS_TOO_LARGE)
        if self._repeated == b"authorization":
            raise Rejected(Reason.TWO_CREDENTIALS)
        if self._repeated is not None:
            raise Rejected(Reason.BAD_REQUEST, f"the header {self._repeated.decode('ascii')} stands twice")
        if self._parser.get_http_version() != "1.1":
            raise Rejected(Reason.BAD_REQUEST, "only HTTP/1.1 is spoken here")
        host = headers.get(b"host")
        if host is None or _HOST.fullmatch(host) is None:
            raise Rejected(Reason.BAD_REQUEST, "one valid Host header is needed")
        target = self._url.decode("ascii", "replace")
        if _PATH.fullmatch(target) is None or "#" in target:
            raise Rejected(Reason.BAD_REQUEST, "the target must be a plain path")
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body_bytes:
            raise Rejected(Reason.BODY_TOO_LARGE)
        path, mark, query = target.partition("?")
        agent = headers.get(b"user-agent", b"")[:256].decode("latin-1")
        origin = Origin(self._address, self._port, self._tls, agent)
        self._request = Request(
            self._server.next_id(),
            self._parser.get_method().decode("ascii"),
            path,
            query if mark else None,
            headers,
            b"",
            origin,
            time.monotonic_ns(),
        )
        self._handed_over = False
        self._wants_body = False
        self._in_head = False
        if not self.busy:
            self.deadline = self._server.now() + self._limits.body_seconds
        self._expects = headers.get(b"expect", b"").lower() == b"100-continue"

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > self._limits.body_bytes:
            raise Rejected(Reason.BODY_TOO_LARGE)
        self._body.append(body)
        if self._body_size > EARLY_BODY and not self._wants_body:
            self._pause_reading()

    def on_message_complete(self) -> None:
        request = self._request
        if request is None:
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._in_head = True
        self._head_size = 0
        self._request = None
        if self._handed_over or not self.busy:
            self.deadline = 0.0
        if self._handed_over:
            if self._body_done is not None and not self._body_done.done():
                self._body_done.set_result(body)
        else:
            self._enqueue(replace(request, body=body) if body else request)

    # -- between parser and task

    def _hand_over(self, request: Request) -> None:
        """Give the task a request whose body is still arriving."""
        self._handed_over = True
        self._body_done = self._server.loop.create_future()
        self._body_done.add_done_callback(_retrieved)
        self._enqueue(replace(request, whole=False))

    def _enqueue(self, item: Request | Rejected) -> None:
        self._requests.append(item)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        if self.busy:
            self._pause_reading()  # the next request waits in the socket while this one is served

    def _refuse(self, error: Rejected) -> None:
        """The bytes are no request: say so once, after what came before them, and read no more."""
        self._refused = True
        self._pause_reading()
        if self._handed_over and self._body_done is not None and not self._body_done.done():
            self._body_done.set_exception(error)
        else:
            self._enqueue(error)

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self._refused and self._transport is not None and not self.closed:
            self._reading_paused = False
            self._transport.resume_reading()

    async def _read_body(self) -> bytes:
        """The rest of the current request's body: its caller has been identified. Raises `Rejected`."""
        assert self._body_done is not None
        self._wants_body = True
        if self._expects and self._transport is not None and not self._body_done.done():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 section 10.1.1, once the caller is known
        self._resume_reading()
        return await self._body_done

    # -- the task

    async def _serve(self) -> None:
        """Serve one request after the other until either side closes."""
        server = self._server
        try:
            while not self.closed:
                if not self._requests:
                    if server.draining:
                        break
                    self._resume_reading()
                    self._arrival = server.loop.create_future()
                    await self._arrival
                    continue
                item = self._requests.popleft()
                self.busy = True
                if isinstance(item, Rejected):
                    origin = Origin(self._address, self._port, self._tls, "")
                    self._send(server.handler.refuse(server.next_id(), origin, item), head_only=False, close=True)
                    break
                unread = not item.whole
                self.deadline = server.now() + self._limits.body_seconds if unread and self._request is not None else 0.0
                reply = await server.handler.handle(item, self._read_body)
                close = (
                    reply.close
                    or server.draining
                    or (unread and (self._body_done is None or not self._body_done.done() or self._refused))
                    or item.headers.get(b"connection", b"").lower() == b"close"
                )
                if reply.stream is None:
                    self._send(reply, head_only=item.verb == "HEAD", close=close)
                    if self._drained is not None and not self._drained.done():
                        await self._drained
                else:
                    close = await self._send_stream(reply, head_only=item.verb == "HEAD", close=close) or close
                if close:
                    break
                self.busy = False
                self.deadline = server.now() + self._limits.idle_seconds
        finally:
            self.busy = False
            if self._transport is not None and not self.closed:
                self.deadline = server.now() + 2.0  # a peer that takes nothing does not keep the socket
                self._transport.close()

    def _send(self, reply: Reply, *, head_only: bool, close: bool) -> None:
        if self._transport is None or self.closed:
            return
        head = self._head(reply, len(reply.body), close=close)
        self._transport.write(head if head_only or reply.status in _BODILESS else head + reply.body)

    async def _send_stream(self, reply: Reply, *, head_only: bool, close: bool) -> bool:
        """Send a streamed reply; True when the connection cannot be used again, because the body could not be completed."""
        assert reply.stream is not None
        sent_all = False
        chunked = reply.length is None
        if self._transport is not None and not self.closed:
            self._transport.write(self._head(reply, reply.length, close=close))
        try:
            async for part in reply.stream:
                if self.closed or self._transport is None or head_only:
                    break
                self._transport.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                if self._drained is not None and not self._drained.done():
                    await self._drained
            else:
                sent_all = True
                if chunked and self._transport is not None and not self.closed:
                    self._transport.write(b"0\r\n\r\n")
        except Rejected:
            # The upstream failed in the middle: the only honest end is a cut connection, never a complete-looking body.
            if self._transport is not None:
                self._transport.abort()
        finally:
            aclose = getattr(reply.stream, "aclose", None)
            if aclose is not None:
                await aclose()
        return not sent_all

    def _head(self, reply: Reply, length: int | None, *, close: bool) -> bytes:
        phrase = reply.phrase or _PHRASES.get(reply.status, b"")
        lines = [b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (reply.status, phrase, self._server.date)]
        if reply.status not in _BODILESS:
            lines.append(b"Content-Type: %b\r\n" % reply.content_type)
            lines.append(b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length)
        lines += [b"%b: %b\r\n" % header for header in reply.headers]
        lines.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
        return b"".join(lines)

    def expire(self, now: float) -> None:
        """Called by the sweep: end a phase that has taken too long."""
        if self.deadline == 0.0 or now < self.deadline or self.closed or self._transport is None:
            return
        if (self._drained is not None and not self._drained.done()) or self._transport.is_closing():
            self._transport.abort()
        elif not self._in_head or self._head_size:
            self.deadline = now + 2.0
            self._refuse(Rejected(Reason.REQUEST_TIMEOUT))
        else:
            self._transport.close()

    def stop(self) -> None:
        """Close if idle; a request in hand is answered first."""
        if not self.busy and not self._requests and self._in_head and self._transport is not None:
            self._transport.close()


def _retrieved(future: "asyncio.Future[bytes]") -> None:
    """Mark a body's failure as seen: the task that waits for it may be gone already."""
    if not future.cancelled():
        future.exception()


class Server:
    """What connections share: limits, the handler, the date, the sweep over deadlines."""

    def __init__(self, handler: Handler, limits: Limits, next_id: Callable[[], str]) -> None:
        """Must be created inside the running loop."""
        self.handler = handler
        self.limits = limits
        self.next_id = next_id
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.draining = False
        self.date = b""
        self.connections: set[Connection] = set()
        self._sweep()

    def gone(self, connection: Connection) -> None:
        """`connection` is closed."""
        self.connections.discard(connection)

    def _sweep(self) -> None:
        self.date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode("ascii")
        now = self.now()
        for connection in list(self.connections):
            connection.expire(now)
        self._timer = self.loop.call_later(0.5, self._sweep)

    async def drain(self, seconds: float) -> None:
        """Close idle connections, let requests in hand end, for at most `seconds`; then cut what is left."""
        self.draining = True
        for connection in list(self.connections):
            connection.stop()
        end = self.now() + seconds
        while self.connections and self.now() < end:
            await asyncio.sleep(0.02)
            for connection in list(self.connections):
                connection.stop()
        for connection in list(self.connections):
            if connection._transport is not None:
                connection._transport.abort()
        self._timer.cancel()
