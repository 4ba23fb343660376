"""Reads that are equal for the upstream share one upstream call, and queue apart from the rest.

A dashboard that loads over 10,000 tasks keeps luigid's one thread busy for a second, while every
worker's ping waits. So, after a read has been authorised and recorded like any other call:

* **Single flight.** Calls whose encoded requests are equal byte for byte get one response. A call
  never gets a response that was requested before a write through this process had ended: it joins
  a *next* flight, which is sent later. So callers see their own writes, and at most one flight of a
  request runs and one waits.
* **Cache.** A response is used again for the cache's time to live, unless a write was sent or
  answered meanwhile. Where several processes share
  the port the time to live is 0, since another process may have written.
* **Concurrency limit.** At most `max_reads` of them are at the upstream at once, so that workers'
  calls do not queue behind them. The others wait fairly by principal
  (`proxy.edge.upstream.fair_semaphore`); a flight that several principals wait for is served with
  the first of them.

A read that is not `UpstreamRequest.shared` has a call and a response of its own, and only waits
for its turn: of an XML-RPC server unless its catalog says ``shared``, of luigid where it says
``no_cache``.

Responses up to `MAX_SHARED_BYTES` are shared. A longer one goes to the first call as a stream, and
the others are sent on their own. Writes, heartbeats and the gate's own questions pass straight
through: a worker's call does not queue behind dashboards.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from proxy.edge.upstream.fair_semaphore import FairSemaphore, Waiter
from proxy.edge.upstream.uncompiled import await_shared_answer, discard
from proxy.errors import Unavailable
from proxy.model import Reason, Receipt, UpstreamRequest, UpstreamResponse

# Bytes of a response that is shared. 10,000 tasks take a third of it, compressed.
MAX_SHARED_BYTES = 1_048_576
# Bytes of all cached responses of one upstream, with the requests they answer.
MAX_CACHED_BYTES = 8_388_608
# Bytes that a cached response takes besides its body and key: headers, a dictionary's entry.
_ENTRY_OVERHEAD = 1024
# Flights that may wait for a permit, half of them for one principal.
MAX_WAITERS = 256
# Seconds that a flight may wait: longer than a page of a dashboard over 10,000 tasks takes to load.
QUEUE_TIMEOUT = 10.0
_NOT_SENT = -1

_Key: TypeAlias = tuple[str, bytes, bytes, bool]


class Upstream(Protocol):
    """The upstream underneath (`proxy.edge.upstream.pool`)."""

    def forward(self, receipt: Receipt, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """Send the call and return the upstream's response. Raise `Unavailable`."""


@dataclass(frozen=True, slots=True)
class CoalescingStats:
    """How much was shared: `hits` are reads answered without a call of their own."""

    hits: int
    flights: int
    cached_responses: int
    cached_bytes: int


class Flight:
    """One upstream call, and the callers that wait for its response.

    `waiter` is its request for a permit, `epoch` the count of writes when it was sent.
    """

    __slots__ = ("callers", "epoch", "task", "waiter")
    task: "asyncio.Task[None]"

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.epoch = _NOT_SENT
        self.callers: list[asyncio.Future[UpstreamResponse | None]] = []

    def resolve(self, response: UpstreamResponse) -> bool:
        """Give the response to all callers; return False when all have left.

        A stream goes to the first of them. The others get None, and send a call of their own.
        """
        given: UpstreamResponse | None = response
        for caller in self.callers:
            if not caller.done():
                caller.set_result(given)
                if response.stream is not None:
                    given = None
        return response.stream is None or given is None

    def fail(self, error: BaseException) -> None:
        """Raise the error in all callers."""
        for caller in self.callers:
            if not caller.done():
                caller.set_exception(error)
        # The error holds this flight's frame. Without this the frame would hold the error.
        self.callers.clear()


class CoalescingUpstream:
    """An upstream whose reads are shared."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        now: Callable[[], float],
        max_reads: int = 2,
        cache_ttl: float = 1.0,
    ) -> None:
        """Cache nothing yet.

        Args:
            upstream: The upstream underneath.
            now: A monotonic clock in seconds.
            max_reads: Reads that are at the upstream at once.
            cache_ttl: Seconds for which a response is used again.

        """
        self._upstream = upstream
        self._permits = FairSemaphore(
            max_reads,
            per_principal=max_reads,
            max_waiters=MAX_WAITERS,
            timeout=QUEUE_TIMEOUT,
            refusal=_overloaded,
        )
        self._cache_ttl = cache_ttl
        self._now = now
        # Grows whenever a write is sent or answered.
        self._epoch = 0
        self._flights: dict[_Key, list[Flight]] = {}
        # In the order in which the entries expire.
        self._cache: dict[_Key, tuple[float, UpstreamResponse]] = {}
        self._cached_bytes = 0
        self._hits = 0

    def stats(self) -> CoalescingStats:
        """Return how many reads were shared, and what is cached."""
        flights = sum(len(flights) for flights in self._flights.values())
        return CoalescingStats(self._hits, flights, len(self._cache), self._cached_bytes)

    def forward(self, receipt: Receipt, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """Return the upstream's response, perhaps one that another call requested.

        Raises:
            Unavailable: as the upstream does; ``overloaded`` when too many reads wait.

        """
        if request.kind == "write":
            return self._write(receipt, request)
        if request.kind == "heartbeat" or request.kind == "question":
            return self._upstream.forward(receipt, request)
        return self._read(receipt, request)

    async def _write(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        """Send a write. Reads from here on, and again from its end on, are sent anew."""
        self._epoch += 1
        self._clear_cache()
        try:
            return await self._upstream.forward(receipt, request)
        finally:
            self._epoch += 1
            self._clear_cache()

    async def _read(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        if not request.shared:
            flight = Flight(self._permits.request(request.fairness_key))
            return await self._send(flight, receipt, request)
        key = (request.http_method, request.path, request.body, request.accept_gzip)
        cached = self._cache.get(key)
        if cached is not None and self._now() < cached[0]:
            self._hits += 1
            return cached[1]
        found = self._joinable(key)
        joined = found is not None
        if found is None:
            flight = self._start(key, receipt, request)
        else:
            flight = found
            self._permits.share(flight.waiter, request.fairness_key)
        answer: asyncio.Future[UpstreamResponse | None] = asyncio.get_running_loop().create_future()
        flight.callers.append(answer)
        try:
            response = await await_shared_answer(answer)
        finally:
            del answer  # as in `Flight.fail`
        if response is None:
            # The stream is another call's.
            flight = Flight(self._permits.request(request.fairness_key))
            return await self._send(flight, receipt, request)
        self._hits += joined
        return response

    def _joinable(self, key: _Key) -> Flight | None:
        """Return a flight that is not sent yet, or was sent after the last write."""
        for flight in self._flights.get(key, ()):
            if flight.epoch in (_NOT_SENT, self._epoch):
                return flight
        return None

    def _start(self, key: _Key, receipt: Receipt, request: UpstreamRequest) -> Flight:
        flight = Flight(self._permits.request(request.fairness_key))
        # A task of its own: it goes on when the call that started it leaves.
        flight.task = asyncio.create_task(self._run(key, flight, receipt, request))
        self._flights.setdefault(key, []).append(flight)
        return flight

    async def _run(
        self, key: _Key, flight: Flight, receipt: Receipt, request: UpstreamRequest
    ) -> None:
        """Send a flight and resolve it; cache its response unless a write came meanwhile."""
        shared = UpstreamRequest(
            request.http_method,
            request.path,
            request.content_type,
            request.body,
            request.accept_gzip,
            request.kind,
            request.cacheable,
            max_buffered=max(MAX_SHARED_BYTES, request.max_buffered),
        )
        try:
            response = await self._send(flight, receipt, shared)
        except (Exception, asyncio.CancelledError) as error:
            flight.fail(error)
            return
        finally:
            flights = self._flights[key]
            flights.remove(flight)
            if not flights:
                del self._flights[key]
        if not flight.resolve(response):
            await discard(response)
        elif (
            request.cacheable
            and response.stream is None
            and response.status == 200
            and flight.epoch == self._epoch
        ):
            self._store(key, response)

    async def _send(
        self, flight: Flight, receipt: Receipt, request: UpstreamRequest
    ) -> UpstreamResponse:
        """Send the call once it has a permit.

        The permit is released at the response's first bytes, since luigid's work is done by then.
        """
        holder = await self._permits.acquire(flight.waiter)
        try:
            flight.epoch = self._epoch
            return await self._upstream.forward(receipt, request)
        finally:
            self._permits.release(holder)

    def set_cache_ttl(self, seconds: float) -> None:
        """Clear the cache, and use responses again for `seconds` from now on, 0 for not at all."""
        self._cache_ttl = seconds
        self._clear_cache()

    def _clear_cache(self) -> None:
        if self._cache:
            self._cache.clear()
            self._cached_bytes = 0

    def _store(self, key: _Key, response: UpstreamResponse) -> None:
        """Cache a response; evict what has expired, and the oldest while there is no room."""
        size = _size(key, response)
        if not self._cache_ttl or size > MAX_CACHED_BYTES:
            return
        now = self._now()
        old = self._cache.pop(key, None)
        if old is not None:
            self._cached_bytes -= _size(key, old[1])
        while self._cache and (
            self._cached_bytes + size > MAX_CACHED_BYTES
            or next(iter(self._cache.values()))[0] <= now
        ):
            oldest = next(iter(self._cache))
            self._cached_bytes -= _size(oldest, self._cache.pop(oldest)[1])
        self._cache[key] = (now + self._cache_ttl, response)
        self._cached_bytes += size


def _overloaded() -> Unavailable:
    return Unavailable(Reason.OVERLOADED, "too many reads wait for this upstream", retry_after=1)


def _size(key: _Key, response: UpstreamResponse) -> int:
    return _ENTRY_OVERHEAD + len(key[1]) + len(key[2]) + len(response.body)
