"""The queue of calls that wait for a connection: FIFO, bounded in length and time."""

import asyncio
from collections import deque

from proxy.edge.upstream.connection import UpstreamConnection
from proxy.errors import Unavailable
from proxy.model import Reason


class Waiter:
    """A call that waits for a connection.

    `granted` gives one, or None for the right to open one. `enqueued_at` is in loop time.
    """

    __slots__ = ("enqueued_at", "granted")

    def __init__(
        self, granted: "asyncio.Future[UpstreamConnection | None]", enqueued_at: float
    ) -> None:
        self.granted = granted
        self.enqueued_at = enqueued_at


class WaitQueue:
    """Up to `max_waiters` calls.

    Once the first of them has waited for `timeout` seconds, no more calls are enqueued.
    """

    def __init__(self, max_waiters: int, timeout: float) -> None:
        self.waiters: deque[Waiter] = deque()
        self.timeout = timeout
        self._max_waiters = max_waiters

    def enqueue(self, now: float) -> Waiter:
        """Add a call.

        Raises:
            Unavailable: ``overloaded``; the queue is full or does not move.

        """
        waiters = self.waiters
        if len(waiters) >= self._max_waiters or (
            waiters and now - waiters[0].enqueued_at > self.timeout
        ):
            raise Unavailable(
                Reason.OVERLOADED, "too many calls wait for this upstream", retry_after=1
            )
        waiter = Waiter(asyncio.get_running_loop().create_future(), now)
        waiters.append(waiter)
        return waiter

    def remove(self, waiter: Waiter) -> bool:
        """Take a call out; return whether it was still there."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            return True
        return False

    def prune(self) -> None:
        """Drop calls at the front that have left; they have not removed themselves yet."""
        while self.waiters and self.waiters[0].granted.done():
            self.waiters.popleft()

    def grant(self, connection: UpstreamConnection | None) -> None:
        """Give the first call a connection, or the right to open one."""
        self.waiters.popleft().granted.set_result(connection)

    def fail_all(self, reason: Reason) -> None:
        """Fail every call."""
        while self.waiters:
            granted = self.waiters.popleft().granted
            if not granted.done():
                granted.set_exception(Unavailable(reason))
