"""The upstream leg: a pool of kept-alive HTTP/1.1 connections to one scheduler.

`Leg.forward` takes a `Receipt`: what was not decided and durably recorded cannot be sent. It sends
our own bytes only: request line, Host, type and length, never a header of the caller's.

Rules (RFC 9112 section 9; record first, then act once):

* A call that may act is sent once. A view is sent a second time, once, when a kept connection turns
out dead before a
  single byte of the answer arrived.
* A connection that is free goes to whoever has waited longest. Who comes when too many wait, or
some for too long, is told
  so at once. Heartbeats have a line of their own, which is served first, since luigid fails the
  tasks of a worker that is not heard; they may wait longer and in greater number, and let another
  call pass now and then.
* An upstream that refuses connection after connection is left alone for a while
(`proxy.edge.upstream.circuit_breaker`). That the gate itself
  has no file or memory left for a connection says nothing about the upstream.
* Every phase has its own deadline: connect, first byte, silence within an answer
(`proxy.edge.upstream.connection`). They are checked
  by a sweep over the connections every quarter of a second, and run from one sweep to another: what
  is overdue ends up to half a second late and never early, and no call sets a timer or reads the
  clock.
"""

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.edge.upstream.circuit_breaker import CircuitBreaker
from proxy.edge.upstream.connection import UpstreamConnection
from proxy.edge.upstream.response_head_cache import ResponseHeadCache
from proxy.edge.upstream.uncompiled import Waiting, with_timeout
from proxy.errors import Unavailable
from proxy.model import Reason, Receipt, UpstreamRequest, UpstreamResponse

_SWEEP_SECONDS = 0.25
_JOINED = 16_384  # bytes of a body up to which one string is as cheap to send as two
# times as long and as many may heartbeats wait: one that is late still keeps a worker's tasks
_HEARTBEATS = 2
_IN_A_ROW = 8  # heartbeats that are served before another call that waits has its turn
# what the gate, not the upstream, has run out of
_OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PREFIXES = 512  # request heads remembered; paths of pages are unbounded, methods are few


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """Where a scheduler listens, and how patient to be with it (seconds).

    `socket` is the path of a Unix socket, or empty for `host` and `port`. `authorization` is the
    gate's own credential for this upstream (a whole header value), or empty. `connections` bounds
    the pool, `waiting` those who wait for it; and once the first of them has waited for
    `patience_seconds`, who comes then is turned away at once, so that the line does not grow into a
    time in which callers give up (a luigi worker after 10 seconds). Heartbeats have twice of both.
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
    patience_seconds: float = 5.0
    connections: int = 64
    waiting: int = 1024

    @property
    def authority(self) -> bytes:
        """The Host header's value."""
        if self.socket:
            return b"localhost"
        return (
            f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        ).encode("ascii")


class ConnectionPool:
    """The pool of connections to one upstream."""

    def __init__(self, target: UpstreamAddress) -> None:
        """Nothing is connected before the first call. Must be created inside the running loop."""
        self.target = target
        self.loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self.loop.time
        self._open: set[UpstreamConnection] = set()  # every connection of the pool, in use or idle
        # the one used last is used next, so that a small load leaves the rest to age
        self._idle: list[UpstreamConnection] = []
        self._connecting = 0
        self._waiting: deque[Waiting] = deque()
        self._heartbeats: deque[Waiting] = deque()  # a line of their own, served before the other
        self._in_a_row = 0  # heartbeats served since another call was
        self._prefixes: dict[tuple[str, bytes, bytes, bool], bytes] = {}
        self.heads = ResponseHeadCache()
        self.breaker = CircuitBreaker()
        self._closed = False
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    @property
    def in_use(self) -> int:
        """Connections that carry a call now."""
        return len(self._open) - len(self._idle)

    def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """Send one call that has its receipt; the upstream's answer.

        Raises `Unavailable` with ``upstream-unreachable``, ``-timeout``, ``-closed``, ``-invalid``
        or ``overloaded``; its `sent` says whether the upstream may have acted.
        """
        assert receipt.seq >= 0
        return self._send(outbound)

    async def _send(self, outbound: UpstreamRequest) -> UpstreamResponse:
        """As `forward`. The one coroutine of a call that finds a connection idle."""
        request, body = self._encode(outbound)
        connection = (
            self._idle.pop() if self._idle else await self._take(alive=outbound.kind == "heartbeat")
        )
        again = False
        while True:
            try:
                answer = connection.ask(
                    request, body, outbound.max_buffered, outbound.http_method == "HEAD"
                )
                return await answer
            except asyncio.CancelledError:
                connection.give_up(answer)
                raise
            except Unavailable as error:
                answer = None
                dead = (
                    error.reason is Reason.UPSTREAM_CLOSED
                    and connection.kept
                    and not connection.heard
                )
                if again or not dead or (error.sent and not outbound.idempotent):
                    raise
            again = True
            connection = await self._take(fresh=True)

    def _encode(self, outbound: UpstreamRequest) -> tuple[bytes, bytes]:
        """The request, with the body apart if it is long."""
        key = (outbound.http_method, outbound.path, outbound.content_type, outbound.accept_gzip)
        prefix = self._prefixes.get(key)
        if prefix is None:
            lines = [
                f"{outbound.http_method} ".encode() + outbound.path + b" HTTP/1.1",
                b"Host: " + self.target.authority,
            ]
            if outbound.content_type:
                lines.append(b"Content-Type: " + outbound.content_type)
            if outbound.accept_gzip:
                lines.append(b"Accept-Encoding: gzip")
            if self.target.authorization:
                lines.append(b"Authorization: " + self.target.authorization)
            prefix = b"\r\n".join(
                [*lines, b"Content-Length: " if outbound.http_method == "POST" else b"\r\n"]
            )
            if len(self._prefixes) < _PREFIXES:
                self._prefixes[key] = prefix
        if outbound.http_method != "POST":
            return prefix, b""
        body = outbound.body
        if len(body) > _JOINED:
            return b"%b%d\r\n\r\n" % (prefix, len(body)), body
        return b"%b%d\r\n\r\n%b" % (prefix, len(body), body), b""

    # -- the pool

    async def _take(self, *, alive: bool = False, fresh: bool = False) -> UpstreamConnection:
        """A connection to use: an idle one, a new one, or the next to become free; for a heartbeat
        (`alive`) before others.

        A `fresh` one is new if it can be.
        """
        if self._closed:
            raise Unavailable(Reason.DRAINING)
        if self._idle:
            connection = self._idle.pop()
            if not fresh:
                return connection
            # as old as the one that was dead; makes room for the new one
            connection.abort(Reason.UPSTREAM_CLOSED, "")
        if len(self._open) + self._connecting < self.target.connections:
            self._connecting += 1
            return await self._connect()
        line, times = (self._heartbeats, _HEARTBEATS) if alive else (self._waiting, 1)
        patience = times * self.target.patience_seconds
        now = self.now()
        if len(line) >= times * self.target.waiting or (line and now - line[0].since > patience):
            raise Unavailable(
                Reason.OVERLOADED, "too many calls wait for this upstream", retry_after=1
            )
        turn = Waiting(loop=self.loop)
        turn.since = now
        line.append(turn)
        try:
            given = await with_timeout(2 * patience, turn)
        except BaseException as error:
            if turn in line:
                line.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(turn.result())  # it came in the moment of giving up
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    Reason.OVERLOADED, "no connection became free in time", retry_after=5
                ) from None
            raise
        return await self._connect() if given is None else given

    def _give_back(self, given: UpstreamConnection | None) -> None:
        if given is None:
            self._connecting -= 1
        elif not given.closed:
            self._idle.append(given)
        self._pass_on()

    def _pass_on(self) -> None:
        """Give what is free, a connection or the room for one, to whoever has waited longest,
        heartbeats first.
        """
        while self._heartbeats or self._waiting:
            heartbeat = bool(self._heartbeats) and (self._in_a_row < _IN_A_ROW or not self._waiting)
            line = self._heartbeats if heartbeat else self._waiting
            if line[0].done():
                line.popleft()
                continue
            if self._idle:
                given = self._idle.pop()
            elif len(self._open) + self._connecting < self.target.connections:
                self._connecting += 1
                given = None
            else:
                return
            self._in_a_row = self._in_a_row + 1 if heartbeat else 0
            line.popleft().set_result(given)

    async def _connect(self) -> UpstreamConnection:
        """Open a connection, for which `_connecting` has been counted up."""
        target = self.target
        try:
            self.breaker.admit(self.now())
            if target.socket:
                _, connection = await with_timeout(
                    target.connect_seconds,
                    self.loop.create_unix_connection(self._exchange, target.socket),
                )
            else:
                connecting = self.loop.create_connection(
                    self._exchange,
                    target.host,
                    target.port,
                    ssl=target.tls,
                    server_hostname=target.server_hostname,
                )
                _, connection = await with_timeout(target.connect_seconds, connecting)
            self.breaker.succeeded()
            if not connection.closed:
                self._open.add(connection)
        except TimeoutError:
            raise self._unreachable("the connection took too long") from None
        except ssl.SSLError:
            raise self._unreachable("the TLS handshake with the upstream failed") from None
        except OSError as error:
            if error.errno in _OUR_OWN:
                self.breaker.abandoned()
                raise Unavailable(
                    Reason.OVERLOADED, "the gate has no room for another connection", retry_after=1
                ) from None
            raise self._unreachable("the connection was refused") from None
        except asyncio.CancelledError:
            self.breaker.abandoned()
            raise
        finally:
            self._connecting -= 1
            self._pass_on()
        return connection

    def _exchange(self) -> UpstreamConnection:
        target = self.target
        return UpstreamConnection(
            self, target.first_byte_seconds, target.idle_seconds, target.keep_seconds
        )

    def _unreachable(self, detail: str) -> Unavailable:
        self.breaker.failed(self.now())
        return Unavailable(Reason.UPSTREAM_UNREACHABLE, detail, retry_after=5)

    # -- told by connections

    def finished(self, connection: UpstreamConnection, reusable: bool) -> None:
        """The exchange on `connection` ended cleanly."""
        if connection.closed:
            return  # and counted off already
        if reusable:
            self._idle.append(connection)
            if self._waiting or self._heartbeats:
                self._pass_on()
        else:
            connection.drop()

    def gone(self, connection: UpstreamConnection) -> None:
        """`connection` is closed, whoever closed it. May be told twice."""
        if connection in self._open:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._pass_on()

    def _sweep(self) -> None:
        now = self.now()
        for connection in list(self._open):
            if connection.overdue(now):
                # which nobody hears of one that is idle
                connection.abort(Reason.UPSTREAM_TIMEOUT, "")
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        """Drop every connection and stop sweeping."""
        self._closed = True
        self._sweeper.cancel()
        for line in (self._heartbeats, self._waiting):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_exception(Unavailable(Reason.DRAINING))
        for connection in list(self._open):
            connection.abort(Reason.DRAINING, "")
