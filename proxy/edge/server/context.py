"""The interface of a server to its connections."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from proxy.common.memory_budget import MemoryBudget
from proxy.edge.server.handler import Handler
from proxy.edge.server.limits import Limits, Timing

ConnectionT = TypeVar("ConnectionT", contravariant=True)


class ServerContext(Protocol[ConnectionT]):
    """The state that a server shares with its connections.

    `date` is the current Date header. `drain_idle_seconds` is the idle timeout while `draining`.
    """

    handler: Handler
    limits: Limits
    timing: Timing
    loop: asyncio.AbstractEventLoop
    draining: bool
    drain_idle_seconds: float
    date: bytes
    next_id: Callable[[], str]
    memory: MemoryBudget

    def now(self) -> float:
        """Return the loop's time, in seconds."""

    def connection_opened(self, connection: ConnectionT) -> None:
        """Check the deadlines of `connection` from now on."""

    def connection_closed(self, connection: ConnectionT) -> None:
        """Check `connection` no more."""
