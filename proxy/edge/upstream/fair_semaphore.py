"""A semaphore with one FIFO queue per principal, served round-robin.

A request waits for at most one request of each other principal, however many those have queued. One
principal holds at most `per_principal` of the permits, and has at most half of the room to wait.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from proxy.edge.upstream.uncompiled import with_timeout
from proxy.errors import Unavailable


@dataclass(frozen=True, slots=True)
class SemaphoreStats:
    """What a semaphore holds at one moment.

    `held` counts permits and `queued` requests, by principal. A request that several principals
    share is in the queue of each, and counts once in `waiting`.
    """

    free: int
    waiting: int
    held: dict[str, int]
    queued: dict[str, int]


class Waiter:
    """A request for a permit.

    `holder` is the principal under whose name the permit is held, or None until it is granted.
    `principals` are those in whose queues the request waits.
    """

    __slots__ = ("granted", "holder", "principals")

    def __init__(self) -> None:
        self.holder: str | None = None
        self.principals: tuple[str, ...] = ()
        # Made when the request has to wait.
        self.granted: asyncio.Future[str] | None = None

    @property
    def done(self) -> bool:
        """Whether the permit was granted, or the caller has left."""
        return self.holder is not None or (self.granted is not None and self.granted.done())


class FairSemaphore:
    """`permits` permits, which principals share fairly.

    `request` queues and `acquire` waits, so that several calls can share one request in between
    (`share`).
    """

    def __init__(
        self,
        permits: int,
        *,
        per_principal: int,
        max_waiters: int,
        timeout: float,
        refusal: Callable[[], Unavailable],
    ) -> None:
        """Grant nothing yet.

        Args:
            permits: Permits in total.
            per_principal: Permits that one principal may hold.
            max_waiters: Requests that may wait, half of them for one principal.
            timeout: Seconds that a request may wait.
            refusal: Makes the error of a request that finds no room or waits too long.

        """
        self._free = permits
        self._per_principal = per_principal
        self._max_waiters = max_waiters
        self._timeout = timeout
        self._refusal = refusal
        self._held: dict[str, int] = {}
        # In the order in which principals are served: the one served last is at the end.
        self._queues: dict[str, dict[Waiter, None]] = {}
        self._waiting = 0

    def stats(self) -> SemaphoreStats:
        """Return which permits are held and which requests wait."""
        queued = {principal: len(queue) for principal, queue in self._queues.items()}
        return SemaphoreStats(self._free, self._waiting, dict(self._held), queued)

    def request(self, principal: str) -> Waiter:
        """Return a request, granted at once if a permit is free; pass it to `acquire` either way.

        Raises:
            Unavailable: there is no room to wait.

        """
        waiter = Waiter()
        if self._free and self._held.get(principal, 0) < self._per_principal:
            # Passes no other request: those that wait, if any, are at their principal's limit.
            self._grant(waiter, principal)
            return waiter
        queued = len(self._queues.get(principal, ()))
        if self._waiting >= self._max_waiters or queued >= max(1, self._max_waiters // 2):
            raise self._refusal()
        self._waiting += 1
        self.share(waiter, principal)
        return waiter

    def share(self, waiter: Waiter, principal: str) -> None:
        """Queue a waiting request for `principal` too, which then is served for whichever is first.

        It is granted at once if a permit is free for `principal`. A request that is done stays so.
        """
        if waiter.done or principal in waiter.principals:
            return
        if self._free and self._held.get(principal, 0) < self._per_principal:
            self._remove(waiter)
            self._grant(waiter, principal)
            return
        self._queues.setdefault(principal, {})[waiter] = None
        waiter.principals += (principal,)

    async def acquire(self, waiter: Waiter) -> str:
        """Wait for the permit; return the principal to `release` it for.

        Raises:
            Unavailable: it was not granted in time.

        """
        # A local name: mypyc would take an attribute tested here for None after the await as well.
        holder = waiter.holder
        if holder is not None:
            return holder
        waiter.granted = asyncio.get_running_loop().create_future()
        try:
            return await with_timeout(self._timeout, waiter.granted)
        except BaseException as error:
            if waiter.holder is not None:
                self.release(waiter.holder)  # granted in the moment of leaving
            else:
                self._remove(waiter)
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def release(self, principal: str) -> None:
        """Give a permit back; the next request that may have one gets it."""
        self._free += 1
        self._held[principal] -= 1
        if not self._held[principal]:
            del self._held[principal]
        for other, queue in self._queues.items():
            # A request whose caller has left removes itself.
            waiter = next((waiter for waiter in queue if not waiter.done), None)
            if waiter is not None and self._held.get(other, 0) < self._per_principal:
                self._remove(waiter)
                if other in self._queues:
                    self._queues[other] = self._queues.pop(other)
                self._grant(waiter, other)
                return

    def _grant(self, waiter: Waiter, principal: str) -> None:
        self._free -= 1
        self._held[principal] = self._held.get(principal, 0) + 1
        waiter.holder = principal
        if waiter.granted is not None:
            waiter.granted.set_result(principal)

    def _remove(self, waiter: Waiter) -> None:
        """Take a request out of every queue in which it waits."""
        self._waiting -= 1
        for principal in waiter.principals:
            queue = self._queues.get(principal)
            if queue is not None:
                queue.pop(waiter, None)
                if not queue:
                    del self._queues[principal]
        waiter.principals = ()
