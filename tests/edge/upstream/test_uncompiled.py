"""What compiled coroutines leave to interpreted ones: timeouts, and closing streams."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from proxy.edge.upstream.uncompiled import (
    await_shared_answer,
    closing,
    closing_on_error,
    discard,
    with_timeout,
)
from proxy.model import Stream, UpstreamResponse


class RecordingStream:
    """A stream that counts how often it was closed."""

    closed = 0

    def __aiter__(self) -> "RecordingStream":
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def succeed() -> str:
    """Return a result."""
    return "result"


async def fail() -> str:
    """Raise an error."""
    raise OSError


async def hang() -> str:
    """Wait for ever."""
    return await asyncio.Future()


async def test_work_has_a_time_limit() -> None:
    """Work within the limit gives its result or its error. Other work gives `TimeoutError`."""
    assert await with_timeout(60.0, succeed()) == "result"
    with pytest.raises(OSError):
        await with_timeout(60.0, fail())
    with pytest.raises(TimeoutError):
        await with_timeout(0.0, hang())


@pytest.mark.parametrize(("wrapper", "closed"), [(closing, 1), (closing_on_error, 0)])
async def test_a_stream_is_closed_however_work_ends(
    wrapper: Callable[[Awaitable[str], Stream], Coroutine[Any, Any, str]], closed: int
) -> None:
    """After an error or a cancellation both close it; after a result `closing` alone does."""
    stream = RecordingStream()
    assert await wrapper(succeed(), stream) == "result"
    assert stream.closed == closed
    with pytest.raises(OSError):
        await wrapper(fail(), stream)
    assert stream.closed == closed + 1
    task = asyncio.ensure_future(wrapper(hang(), stream))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.closed == closed + 2


@pytest.mark.parametrize("moment", ["before", "in the same moment"])
async def test_a_shared_answer_that_comes_as_its_caller_leaves_is_discarded(moment: str) -> None:
    """A caller that is cancelled once it has a stream closes it; one cancelled before has none."""
    answer: asyncio.Future[UpstreamResponse | None] = asyncio.get_running_loop().create_future()
    stream = RecordingStream()
    task = asyncio.ensure_future(await_shared_answer(answer))
    await asyncio.sleep(0)
    if moment == "in the same moment":
        answer.set_result(UpstreamResponse(200, {}, stream=stream))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.closed == (moment == "in the same moment")


async def test_only_streams_are_discarded() -> None:
    """No response and a complete one need nothing; a stream is closed."""
    stream = RecordingStream()
    for response in (
        None,
        UpstreamResponse(200, {}, b"x"),
        UpstreamResponse(200, {}, stream=stream),
    ):
        await discard(response)
    assert stream.closed == 1
