"""What has to stay interpreted where the rest of a call's path is compiled.

mypyc's coroutines share one exception state. A coroutine that is suspended while it handles an
exception leaves that exception to the one that runs next. So compiled coroutines await nothing in
``except`` and ``finally`` nor by ``async with`` (held by tests/test_compiled.py). Where that is
needed, they call these functions.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from proxy.model import Stream, UpstreamResponse

_Result = TypeVar("_Result")


async def with_timeout(seconds: float, work: Awaitable[_Result]) -> _Result:
    """Return the result of `work`. Raise `TimeoutError` if it takes longer than `seconds`."""
    async with asyncio.timeout(seconds):
        return await work


async def closing(work: Awaitable[_Result], stream: Stream) -> _Result:
    """Return the result of `work`; close `stream` however `work` ends."""
    try:
        return await work
    finally:
        await stream.aclose()


async def closing_on_error(work: Awaitable[_Result], stream: Stream) -> _Result:
    """Return the result of `work`; close `stream` if `work` fails or is cancelled."""
    try:
        return await work
    except BaseException:
        await stream.aclose()
        raise


async def await_shared_answer(
    answer: "asyncio.Future[UpstreamResponse | None]",
) -> UpstreamResponse | None:
    """Wait for a response that several calls share; discard one that comes as the call leaves."""
    try:
        return await answer
    except asyncio.CancelledError:
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            await discard(answer.result())
        raise
    finally:
        del answer  # an error that it gives holds this frame, and would be held by it


async def discard(response: UpstreamResponse | None) -> None:
    """Close the stream of a response that no call reads."""
    if response is not None and response.stream is not None:
        await response.stream.aclose()
