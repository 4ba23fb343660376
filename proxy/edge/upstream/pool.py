"""A pool of persistent HTTP/1.1 connections to one upstream.

`ConnectionPool.forward` takes a `Receipt`: a call that was not decided and durably recorded cannot
be sent.

Rules (RFC 9112 section 9; record first, then act once):

* **Retries.** A write or heartbeat is sent once. A read is sent a second time when a connection
  that was used before turns out closed before the first byte of the response.
* **Queue.** A free connection goes to the call that has waited longest. A call that comes when too
  many wait, or the first has waited too long, fails at once. Heartbeats have a queue of their own,
  which is served first, since luigid fails the tasks of a worker that it does not hear from. That
  queue is longer and slower to fail, and one other call passes after every
  `MAX_HEARTBEATS_IN_A_ROW`.
* **Circuit breaker.** An upstream to which connections keep failing is not tried for a while
  (`proxy.edge.upstream.circuit_breaker`). A lack of file descriptors or memory in this process says
  nothing about the upstream.
* **Deadlines.** Connecting, the first byte of a response and a pause within it have deadlines of
  their own. Those of open connections are checked by a sweep and count from one sweep to another: a
  connection is closed up to two intervals late and never early, and no call sets a timer or reads
  the clock.
"""

import asyncio
import errno
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.common.memory_budget import MemoryBudget, Reservation
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.circuit_breaker import CircuitBreaker
from proxy.edge.upstream.connection import UpstreamConnection
from proxy.edge.upstream.request_encoder import RequestEncoder
from proxy.edge.upstream.response_head_cache import ResponseHeadCache
from proxy.edge.upstream.uncompiled import with_timeout
from proxy.edge.upstream.wait_queue import WaitQueue
from proxy.errors import Unavailable
from proxy.model import Reason, Receipt, UpstreamRequest, UpstreamResponse

# Times as long and as many may heartbeats wait: one that is late still saves a worker's tasks.
HEARTBEAT_QUEUE_FACTOR = 2
# Heartbeats that are served before another call that waits has its turn.
MAX_HEARTBEATS_IN_A_ROW = 8
# What this process, not the upstream, has run out of.
LOCAL_EXHAUSTION_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """The limits of a pool. Times are in seconds.

    `response_timeout` is for the first byte of a response, `read_timeout` for a pause within it,
    `keepalive_timeout` for a connection without a call. Once the first of the waiting calls has
    waited for `queue_timeout`, new ones fail at once, so that no call waits until its client gives
    up (a luigi worker after 10 seconds). Heartbeats have twice that time and twice `max_waiters`.
    """

    connect_timeout: float = 5.0
    response_timeout: float = 60.0
    read_timeout: float = 30.0
    keepalive_timeout: float = 15.0
    queue_timeout: float = 5.0
    max_connections: int = 64
    max_waiters: int = 1024
    sweep_interval: float = 0.25


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool holds at one moment.

    `open` connections include the `idle` ones. `waiting` calls do not include
    `waiting_heartbeats`. `buffered` is the bytes of bodies that their readers have not taken.
    `unsolicited` counts connections that were closed because of bytes that no request asked for.
    """

    open: int
    idle: int
    connecting: int
    waiting: int
    waiting_heartbeats: int
    buffered: int
    unsolicited: int

    @property
    def in_use(self) -> int:
        """Connections that carry a call."""
        return self.open - self.idle


class ConnectionPool:
    """The connections to one upstream."""

    def __init__(
        self,
        address: UpstreamAddress,
        options: UpstreamOptions | None = None,
        *,
        memory: Reservation | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        """Connect nothing before the first call. Must be called inside the running loop.

        Args:
            address: The upstream.
            options: Limits and timeouts.
            memory: What the bodies that are gathered are charged to, a budget of its own if None.
            now: A monotonic clock in seconds; the loop's unless given.

        """
        self.address = address
        self.options = options or UpstreamOptions()
        self.loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = now or self.loop.time
        self.response_heads = ResponseHeadCache()
        self.unsolicited = 0
        self._memory = memory or MemoryBudget().for_upstream(address.host)
        self.breaker = CircuitBreaker()
        # All connections of the pool, in use or idle.
        self._connections: set[UpstreamConnection] = set()
        # The one used last is used next, so that under a small load the others expire.
        self._idle: list[UpstreamConnection] = []
        self._connecting = 0
        limit, seconds = self.options.max_waiters, self.options.queue_timeout
        self._calls = WaitQueue(limit, seconds)
        self._heartbeats = WaitQueue(
            HEARTBEAT_QUEUE_FACTOR * limit, HEARTBEAT_QUEUE_FACTOR * seconds
        )
        self._heartbeats_in_a_row = 0
        self._encoder = RequestEncoder(address)
        self._closed = False
        self._sweeper = self.loop.call_later(self.options.sweep_interval, self._sweep)

    def stats(self) -> PoolStats:
        """Return how many connections are open and how many calls wait."""
        return PoolStats(
            len(self._connections),
            len(self._idle),
            self._connecting,
            len(self._calls.waiters),
            len(self._heartbeats.waiters),
            sum(connection.buffered for connection in self._connections),
            self.unsolicited,
        )

    def forward(self, receipt: Receipt, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """Send one call that has its receipt, and return the upstream's response.

        Raises:
            Unavailable: with ``upstream-unreachable``, ``-timeout``, ``-closed``, ``-invalid`` or
                ``overloaded``. Its `sent` says whether the upstream may have acted.

        """
        assert receipt.seq >= 0
        return self._send(request)

    async def _send(self, request: UpstreamRequest) -> UpstreamResponse:
        head, body = self._encoder.encode(request)
        connection = await self._acquire(heartbeat=request.kind == "heartbeat")
        retried = False
        while True:
            try:
                response = connection.send(
                    head, body, request.max_buffered, request.http_method == "HEAD"
                )
                return await response
            except asyncio.CancelledError:
                connection.cancel(response)
                raise
            except Unavailable as error:
                response = None
                stale = (
                    error.reason is Reason.UPSTREAM_CLOSED
                    and connection.reused
                    and not connection.response_started
                )
                if retried or not stale or (error.sent and not request.idempotent):
                    raise
            retried = True
            connection = await self._acquire(fresh=True)

    # -- acquire and release

    async def _acquire(self, *, heartbeat: bool = False, fresh: bool = False) -> UpstreamConnection:
        """Return an idle connection, a new one, or the next to become free.

        A `fresh` one is new if possible. A `heartbeat` waits in the queue that is served first.
        """
        if self._closed:
            raise Unavailable(Reason.DRAINING)
        if self._idle:
            connection = self._idle.pop()
            if not fresh:
                return connection
            # It is as old as the one that was closed, and makes room for a new one.
            connection.abort()
        if self._has_room:
            self._connecting += 1
            return await self._connect()
        queue = self._heartbeats if heartbeat else self._calls
        waiter = queue.enqueue(self.now())
        try:
            acquired = await with_timeout(2 * queue.timeout, waiter.granted)
        except BaseException as error:
            granted = waiter.granted
            if (
                not queue.remove(waiter)
                and granted.done()
                and not granted.cancelled()
                and granted.exception() is None
            ):
                self._release(granted.result())  # granted in the moment of leaving
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    Reason.OVERLOADED, "no connection became free in time", retry_after=5
                ) from None
            raise
        return await self._connect() if acquired is None else acquired

    @property
    def _has_room(self) -> bool:
        """Whether one more connection may be opened."""
        return len(self._connections) + self._connecting < self.options.max_connections

    def _release(self, granted: UpstreamConnection | None) -> None:
        """Give back what a waiter was granted and does not use."""
        if granted is None:
            self._connecting -= 1
        elif not granted.closed:
            self._idle.append(granted)
        self._wake_next_waiter()

    def _wake_next_waiter(self) -> None:
        """Grant what is free to the calls that have waited longest, heartbeats first."""
        calls, heartbeats = self._calls, self._heartbeats
        while True:
            calls.prune()
            heartbeats.prune()
            in_a_row = self._heartbeats_in_a_row
            if heartbeats.waiters and (in_a_row < MAX_HEARTBEATS_IN_A_ROW or not calls.waiters):
                queue, in_a_row = heartbeats, in_a_row + 1
            elif calls.waiters:
                queue, in_a_row = calls, 0
            else:
                return
            granted: UpstreamConnection | None = None
            if self._idle:
                granted = self._idle.pop()
            elif self._has_room:
                self._connecting += 1
            else:
                return
            self._heartbeats_in_a_row = in_a_row
            queue.grant(granted)

    async def _connect(self) -> UpstreamConnection:
        """Open a connection, for which `_connecting` has been counted up."""
        address, seconds = self.address, self.options.connect_timeout
        try:
            self.breaker.before_connect(self.now())
            if address.socket:
                _, connection = await with_timeout(
                    seconds, self.loop.create_unix_connection(self._new_connection, address.socket)
                )
            else:
                connecting = self.loop.create_connection(
                    self._new_connection,
                    address.host,
                    address.port,
                    ssl=address.tls,
                    server_hostname=address.server_hostname,
                )
                _, connection = await with_timeout(seconds, connecting)
            self.breaker.succeeded()
            if not connection.closed:
                self._connections.add(connection)
        except TimeoutError:
            raise self._unreachable("the connection took too long") from None
        except ssl.SSLError:
            raise self._unreachable("the TLS handshake with the upstream failed") from None
        except OSError as error:
            if error.errno in LOCAL_EXHAUSTION_ERRNOS:
                self.breaker.inconclusive()
                raise Unavailable(
                    Reason.OVERLOADED,
                    "the proxy has no file or memory for another connection",
                    retry_after=1,
                ) from None
            raise self._unreachable("the connection was refused") from None
        except asyncio.CancelledError:
            self.breaker.inconclusive()
            raise
        finally:
            self._connecting -= 1
            self._wake_next_waiter()
        return connection

    def _new_connection(self) -> UpstreamConnection:
        options = self.options
        return UpstreamConnection(
            self, options.response_timeout, options.read_timeout, options.keepalive_timeout
        )

    def _unreachable(self, detail: str) -> Unavailable:
        self.breaker.failed(self.now())
        return Unavailable(Reason.UPSTREAM_UNREACHABLE, detail, retry_after=5)

    # -- called by connections

    def on_idle(self, connection: UpstreamConnection) -> None:
        """Take `connection` back: its exchange ended cleanly."""
        self._idle.append(connection)
        if self._memory.size:
            self.count_buffered()
        if self._calls.waiters or self._heartbeats.waiters:
            self._wake_next_waiter()

    def on_closed(self, connection: UpstreamConnection) -> None:
        """Forget `connection`, which is closed. May be called twice."""
        if connection in self._connections:
            self._connections.discard(connection)
            if self._memory.size:
                self.count_buffered()
            if connection in self._idle:
                self._idle.remove(connection)
            self._wake_next_waiter()

    def count_buffered(self) -> None:
        """Charge the memory budget for the bodies that are gathered.

        They exist already, and the call may have had its effect: nothing is refused.
        """
        size = sum(connection.buffered for connection in self._connections)
        self._memory.resize(size, forced=True)

    # -- deadlines and the end

    def _sweep(self) -> None:
        self.check_deadlines()
        self._sweeper = self.loop.call_later(self.options.sweep_interval, self._sweep)

    def check_deadlines(self) -> None:
        """Close the connections that have timed out."""
        now = self.now()
        for connection in list(self._connections):
            if connection.timed_out(now):
                # An idle connection has no call to fail.
                connection.fail(Reason.UPSTREAM_TIMEOUT, "")

    def close(self) -> None:
        """Close every connection, and fail every call that waits."""
        self._closed = True
        self._sweeper.cancel()
        self._heartbeats.fail_all(Reason.DRAINING)
        self._calls.fail_all(Reason.DRAINING)
        for connection in list(self._connections):
            connection.fail(Reason.DRAINING, "")
