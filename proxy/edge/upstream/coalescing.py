"""Views that are the same for the upstream share one upstream call, and wait in a short line of
their own.

A dashboard that loads over 10,000 tasks keeps luigid's one thread busy for a second, while every
worker's ping waits. So, after a view has been authorised and recorded like any other call:

* **Single flight.** Callers whose encoded call is byte for byte the same get one answer. Nobody is
given an answer that was
  asked for before a call that acted through this process had ended: who arrives after it joins a
  *next* flight, which is sent later. So everyone sees their own writes, and at most one flight of a
  kind runs and one waits.
* **Cache.** An answer is given again for `seconds`, unless a call that acts has been sent or
answered meanwhile, or the
  catalog calls the method fresh. Where several processes share the port there is none: another may
  have acted.
* **A bound.** At most `views` of them are at the upstream at once, so that workers' calls do not
queue behind them. Those who
  wait have their turns principal by principal (`proxy.edge.upstream.fair_semaphore`); a flight that
  several wait for comes with the first of them.

Answers up to `SHARED_BYTES` are shared; a longer one goes to the first caller as a stream, and the
others ask for themselves. Calls that act and heartbeats pass straight through.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from proxy.edge.upstream.fair_semaphore import FairSemaphore, Waiter
from proxy.edge.upstream.uncompiled import await_shared_answer, discard
from proxy.errors import Unavailable
from proxy.model import Reason, Receipt, UpstreamRequest, UpstreamResponse

SHARED_BYTES = 1_048_576  # bytes of one answer; 10,000 tasks take a third of it, compressed
_CACHED_BYTES = 8_388_608  # bytes of all cached answers of one upstream, with the calls they answer
_ENTRY = 1024  # bytes that one of them takes beside: headers, a dictionary's entry
_WAITING = 256  # flights that may wait for a place, half of them for one principal
# seconds they may wait: longer than a whole page of a dashboard over 10,000 tasks takes
_PATIENCE = 10.0
_NOT_SENT = -1

_Key: TypeAlias = tuple[str, bytes, bytes, bool]


class Upstream(Protocol):
    """The leg underneath (`proxy.edge.upstream.pool`)."""

    def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """Send the call; the upstream's answer. Raises `Unavailable`."""


class Flight:
    """One upstream call and those who wait for its answer. `turn` is its own, `epoch` the count of
    acts when it was sent.
    """

    __slots__ = ("callers", "epoch", "task", "turn")
    task: "asyncio.Task[None]"

    def __init__(self, turn: Waiter) -> None:
        self.turn = turn
        self.epoch = _NOT_SENT
        self.callers: list[asyncio.Future[UpstreamResponse | None]] = []

    def land(self, answer: UpstreamResponse) -> bool:
        """Give the answer to all; a stream to the first, and None to those who have to ask for
        themselves. False when all have left.
        """
        given: UpstreamResponse | None = answer
        for caller in self.callers:
            if not caller.done():
                caller.set_result(given)
                if answer.stream is not None:
                    given = None
        return answer.stream is None or given is None

    def fail(self, error: BaseException) -> None:
        """Tell all why there is no answer."""
        for caller in self.callers:
            if not caller.done():
                caller.set_exception(error)
        self.callers.clear()  # or the error would hold the flight's frame, and that the error


class CoalescingUpstream:
    """A leg whose views are shared. `now` is a monotonic clock in seconds."""

    def __init__(
        self, leg: Upstream, *, now: Callable[[], float], views: int = 2, seconds: float = 1.0
    ) -> None:
        self._leg = leg
        self._places = FairSemaphore(
            views, each=views, room=_WAITING, patience=_PATIENCE, refusal=_overloaded
        )
        self._seconds = seconds
        self._now = now
        self._epoch = 0  # grows whenever a call that acts is sent or answered
        self._flights: dict[_Key, list[Flight]] = {}
        self._cache: dict[_Key, tuple[float, UpstreamResponse]] = {}
        self._cached_bytes = 0
        self.hits = 0  # views answered without a call of their own

    def forward(self, receipt: Receipt, outbound: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """The upstream's answer to `outbound`, perhaps one that another caller asked for. Raises
        `Unavailable`.
        """
        if outbound.kind == "write":
            return self._act(receipt, outbound)
        if outbound.kind == "heartbeat":
            return self._leg.forward(receipt, outbound)
        return self._view(receipt, outbound)

    async def _act(self, receipt: Receipt, outbound: UpstreamRequest) -> UpstreamResponse:
        """What is asked from here on, and again once this is answered, is asked anew."""
        self._epoch += 1
        if self._cache:
            self._forget()
        try:
            return await self._leg.forward(receipt, outbound)
        finally:
            self._epoch += 1
            if self._cache:
                self._forget()

    async def _view(self, receipt: Receipt, outbound: UpstreamRequest) -> UpstreamResponse:
        key = (outbound.http_method, outbound.path, outbound.body, outbound.accept_gzip)
        cached = self._cache.get(key)
        if cached is not None and self._now() < cached[0]:
            self.hits += 1
            return cached[1]
        flight = self._join(key)
        joined = flight is not None
        if flight is None:
            flight = self._start(key, receipt, outbound)
        else:
            self._places.join(flight.turn, outbound.fairness_key)
        landed: asyncio.Future[UpstreamResponse | None] = asyncio.get_running_loop().create_future()
        flight.callers.append(landed)
        try:
            answer = await await_shared_answer(landed)
        finally:
            del landed  # as in `_Flight.fail`
        if answer is None:
            # the stream is another caller's
            return await self._send(
                Flight(self._places.ask(outbound.fairness_key)), receipt, outbound
            )
        self.hits += joined
        return answer

    def _join(self, key: _Key) -> Flight | None:
        """A flight that will not be, or was not, sent before the last call that acted."""
        for flight in self._flights.get(key, ()):
            if flight.epoch in (_NOT_SENT, self._epoch):
                return flight
        return None

    def _start(self, key: _Key, receipt: Receipt, outbound: UpstreamRequest) -> Flight:
        flight = Flight(self._places.ask(outbound.fairness_key))
        # whoever leaves, it goes on
        flight.task = asyncio.create_task(self._fly(key, flight, receipt, outbound))
        self._flights.setdefault(key, []).append(flight)
        return flight

    async def _fly(
        self, key: _Key, flight: Flight, receipt: Receipt, asked: UpstreamRequest
    ) -> None:
        """One flight from start to landing; its answer is kept when nothing has acted since it was
        sent.
        """
        outbound = UpstreamRequest(
            asked.http_method,
            asked.path,
            asked.content_type,
            asked.body,
            asked.accept_gzip,
            asked.kind,
            asked.cacheable,
            max(SHARED_BYTES, asked.max_buffered),
        )
        try:
            answer = await self._send(flight, receipt, outbound)
        except (Exception, asyncio.CancelledError) as error:
            flight.fail(error)
            return
        finally:
            flights = self._flights[key]
            flights.remove(flight)
            if not flights:
                del self._flights[key]
        if not flight.land(answer):
            await discard(answer)
        elif (
            asked.cacheable
            and answer.stream is None
            and answer.status == 200
            and flight.epoch == self._epoch
        ):
            self._keep(key, answer)

    async def _send(
        self, flight: Flight, receipt: Receipt, outbound: UpstreamRequest
    ) -> UpstreamResponse:
        """Wait for a place and ask. The place is free again at the answer's first bytes: luigid's
        work is done by then.
        """
        holder = await self._places.wait(flight.turn)
        try:
            flight.epoch = self._epoch
            return await self._leg.forward(receipt, outbound)
        finally:
            self._places.give_back(holder)

    def set_cache_ttl(self, seconds: float) -> None:
        """Give an answer again for so long from now on, 0 for not at all. What is kept is
        forgotten.
        """
        self._seconds = seconds
        self._forget()

    def _forget(self) -> None:
        self._cache.clear()
        self._cached_bytes = 0

    def _keep(self, key: _Key, answer: UpstreamResponse) -> None:
        """Keep an answer for `seconds`. All are kept for as long, so the oldest stand first and are
        the first to end.
        """
        size = _size(key, answer)
        if not self._seconds or size > _CACHED_BYTES:
            return
        now = self._now()
        old = self._cache.pop(key, None)
        if old is not None:
            self._cached_bytes -= _size(key, old[1])
        while self._cache and (
            self._cached_bytes + size > _CACHED_BYTES or next(iter(self._cache.values()))[0] <= now
        ):
            oldest = next(iter(self._cache))
            self._cached_bytes -= _size(oldest, self._cache.pop(oldest)[1])
        self._cache[key] = (now + self._seconds, answer)
        self._cached_bytes += size


def _overloaded() -> Unavailable:
    return Unavailable(Reason.OVERLOADED, "too many views wait for this upstream", retry_after=1)


def _size(key: _Key, answer: UpstreamResponse) -> int:
    return _ENTRY + len(key[1]) + len(key[2]) + len(answer.body)
