"""What all connections of one process share: the handler, the limits, request ids, the date, one
sweep, and the way out.

Deadlines are checked by one sweep every half second over all connections, which costs less than
timers for each request.
"""

import asyncio
import base64
import itertools
import os
import time
from collections.abc import Callable, Iterator

from proxy.edge.server.connection import Connection, Handler
from proxy.edge.server.request_parser import Limits

_SWEEP_SECONDS = 0.5
_CUT_SECONDS = 1.0  # for those who were sending a long answer to hear that the connection is cut
# of rest, before a kept connection is closed by a process that another one has replaced
REST_SECONDS = 2.0
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

__all__ = ["Connection", "Handler", "Limits", "Server", "new_request_id_source"]


def new_request_id_source() -> Callable[[], str]:
    """Make ids of 16 characters, unique across processes and restarts, in the order of arrival
    within one process.

    The first 8 characters are the process's own random bits, the rest counts: reading random bytes
    for every request would cost more than the rest of the id.
    """
    start = base64.b32encode(os.urandom(5)).decode("ascii")
    pairs = [a + b for a in _ALPHABET for b in _ALPHABET]
    counter = int.from_bytes(os.urandom(3), "big")

    def ids() -> Iterator[str]:
        # of blocks of 1024 ids, which have all but their last two characters in common
        for count in itertools.count(counter):
            block = (
                start + pairs[count >> 20 & 1023] + pairs[count >> 10 & 1023] + pairs[count & 1023]
            )
            for pair in pairs:
                yield block + pair

    return ids().__next__


class Server:
    """The listening side, whatever sockets it listens on."""

    def __init__(self, handler: Handler, limits: Limits, next_id: Callable[[], str]) -> None:
        """Must be created inside the running loop."""
        self.handler = handler
        self.limits = limits
        self.next_id = next_id
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.draining = False
        self.rest_seconds = REST_SECONDS
        self.date = b""
        self.connections: set[Connection] = set()
        self._coming = 0  # clients that were accepted and whose handshake is under way
        self._empty: asyncio.Future[None] | None = None  # awaited while draining
        self._sweep()

    def opened(self, connection: Connection) -> None:
        """`connection` is to be watched."""
        self.connections.add(connection)

    def gone(self, connection: Connection) -> None:
        """`connection` is closed."""
        self.connections.discard(connection)
        self._look_if_empty()

    def expect(self) -> None:
        """A client was accepted; `arrived` says that its handshake is over, with a connection or
        without.
        """
        self._coming += 1

    def arrived(self) -> None:
        """The handshake of a client that was expected is over."""
        self._coming -= 1
        self._look_if_empty()

    def _look_if_empty(self) -> None:
        if (
            self._empty is not None
            and not self.connections
            and not self._coming
            and not self._empty.done()
        ):
            self._empty.set_result(None)

    def _sweep(self) -> None:
        self.date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode("ascii")
        now = self.now()
        for connection in list(self.connections):
            if self.draining:
                connection.stop()
            connection.expire(now)
        self._timer = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    async def drain(self, seconds: float, *, rest: float | None = None) -> None:
        """Let requests in hand and handshakes under way end and connections go, for at most
        `seconds`; then cut what is left.

        What comes on a kept connection is answered once more, with ``Connection: close``; one that
        has rested for `rest` seconds is closed, since a client may be about to use it.
        """
        self.rest_seconds = REST_SECONDS if rest is None else rest
        self.draining = True
        for connection in list(self.connections):
            connection.stop()
        if self.connections or self._coming:
            self._empty = self.loop.create_future()
            await asyncio.wait([self._empty], timeout=seconds)
        cut = [
            task
            for connection in list(self.connections)
            if (task := connection.abort()) is not None
        ]
        if cut:  # each has a call to complete
            await asyncio.wait(cut, timeout=_CUT_SECONDS)
        self._timer.cancel()
