"""What waits, and stays interpreted where the rest of the call's path is compiled.

mypyc makes no subclasses of `asyncio.Future`, and its coroutines share one exception state: what is
awaited while an exception is being handled would leave it to whoever runs meanwhile. So compiled
coroutines await nothing in ``except`` and ``finally`` nor by ``async with`` (held by
tests/test_compiled.py); where that is needed, they have it done here.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from proxy.edge.upstream.connection import UpstreamConnection
from proxy.model import Stream, UpstreamResponse

_Given = TypeVar("_Given")


class Waiting(asyncio.Future[UpstreamConnection | None]):
    """A caller's place in the line: gives a connection, or None for the room to open one. `since`
    is loop time.
    """

    since: float = 0.0


async def with_timeout(seconds: float, work: Awaitable[_Given]) -> _Given:
    """What `work` gives. Raises `TimeoutError` when it takes longer."""
    async with asyncio.timeout(seconds):
        return await work


async def closing(work: Awaitable[_Given], stream: Stream) -> _Given:
    """What `work` gives; the stream is closed whatever comes of it."""
    try:
        return await work
    finally:
        await stream.aclose()


async def await_shared_answer(
    landed: "asyncio.Future[UpstreamResponse | None]",
) -> UpstreamResponse | None:
    """Wait for an answer; one that comes in the moment of leaving is given up."""
    try:
        return await landed
    except asyncio.CancelledError:
        if landed.done() and not landed.cancelled() and landed.exception() is None:
            await discard(landed.result())
        raise
    finally:
        del landed  # an error that it gives holds this frame, and would be held by it


async def discard(answer: UpstreamResponse | None) -> None:
    """Nobody is there to read it."""
    if answer is not None and answer.stream is not None:
        await answer.stream.aclose()
