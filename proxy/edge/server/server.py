"""The server: what all connections of one process share, the check of their deadlines, the drain.

One sweep checks the deadlines of all connections periodically. That costs less than timers for each
request.
"""

import asyncio
import time
from collections.abc import Callable

from proxy.common.memory_budget import MemoryBudget
from proxy.edge.server.connection import Connection
from proxy.edge.server.handler import Handler
from proxy.edge.server.limits import Limits, Timing


class Server:
    """The connections of all listeners of one process."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        next_id: Callable[[], str],
        timing: Timing | None = None,
        memory: MemoryBudget | None = None,
    ) -> None:
        """Start the sweep on the running loop. `memory` is a budget of its own unless given."""
        self.handler = handler
        self.limits = limits
        self.timing = timing or Timing()
        self.next_id = next_id
        self.memory = memory or MemoryBudget()
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.draining = False
        self.drain_idle_seconds = self.timing.drain_idle
        self.date = b""
        self.connections: set[Connection] = set()
        # Accepted clients whose handshake is not finished.
        self._handshakes = 0
        # Those that ended without one, since the start.
        self.failed_handshakes = 0
        # Set while draining.
        self._empty: asyncio.Future[None] | None = None
        self._sweep()

    def connection_opened(self, connection: Connection) -> None:
        """Check the deadlines of `connection` from now on."""
        self.connections.add(connection)

    def connection_closed(self, connection: Connection) -> None:
        """Check `connection` no more."""
        self.connections.discard(connection)
        self._notify_if_empty()

    def handshake_started(self) -> None:
        """Count an accepted client; a drain waits for its handshake."""
        self._handshakes += 1

    def handshake_finished(self) -> None:
        """Take off a client whose handshake succeeded or failed."""
        self._handshakes -= 1
        self._notify_if_empty()

    @property
    def handshakes(self) -> int:
        """The number of accepted clients whose handshake is not finished."""
        return self._handshakes

    def _notify_if_empty(self) -> None:
        empty = self._empty
        if empty is None or empty.done() or self.connections or self._handshakes:
            return
        empty.set_result(None)

    def _sweep(self) -> None:
        self.date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode("ascii")
        now = self.now()
        for connection in list(self.connections):
            if self.draining:
                connection.stop()
            connection.check_deadlines(now)
        self._timer = self.loop.call_later(self.timing.sweep, self._sweep)

    async def drain(self, seconds: float, *, idle_seconds: float | None = None) -> None:
        """Wait up to `seconds` until all requests are answered, then abort the rest.

        Idle connections are closed after `idle_seconds` (by default `Timing.drain_idle`). Until
        then one more request is answered on each, with ``Connection: close``: its client may be
        about to use it.
        """
        if idle_seconds is not None:
            self.drain_idle_seconds = idle_seconds
        self.draining = True
        for connection in list(self.connections):
            connection.stop()
        if self.connections or self._handshakes:
            self._empty = self.loop.create_future()
            await asyncio.wait([self._empty], timeout=seconds)
        aborted = [
            task
            for connection in list(self.connections)
            if (task := connection.abort()) is not None
        ]
        if aborted:  # each has a call to complete
            await asyncio.wait(aborted, timeout=self.timing.abort)
        self._timer.cancel()
