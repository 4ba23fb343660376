"""Who stands in the line for a connection to an upstream.

A module of its own, since it stays interpreted where the rest is compiled: mypyc does not make subclasses of `asyncio.Future`.
"""

import asyncio

from proxy.edge.exchange import Exchange


class Waiting(asyncio.Future[Exchange | None]):
    """A caller's place in the line: gives a connection, or None for the room to open one. `since` is loop time."""

    since: float = 0.0
