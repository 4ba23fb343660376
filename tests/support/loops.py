"""The event loops that tests run on, and the check that a test leaves no error behind on its loop.

Tests below tests/edge run on asyncio's loop. Those marked with `both_loops` run on uvloop's too,
the one that serves in production.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias

import pytest
import uvloop

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]
LOOP_FACTORIES: Mapping[str, LoopFactory] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
both_loops = pytest.mark.asyncio(loop_factories=list(LOOP_FACTORIES))
# Seconds after which a test is cancelled, so that one that hangs fails. No test comes near it.
TIME_LIMIT = 60.0


def loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Return the loops that `item` runs on, by name."""
    marker = item.get_closest_marker("asyncio")
    if marker is not None and "loop_factories" in marker.kwargs:
        return LOOP_FACTORIES
    return {"asyncio": asyncio.new_event_loop}


async def check_loop() -> AsyncIterator[None]:
    """Fail the test when its loop would only have logged an error, or when it exceeds `TIME_LIMIT`.

    The generator of a fixture: `pytest.fixture(check_loop)`.
    """
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context))

    def cancel_all() -> None:
        problems.append({"message": f"cancelled after {TIME_LIMIT:g} seconds"})
        for task in asyncio.all_tasks(loop):
            task.cancel()

    timer = loop.call_later(TIME_LIMIT, cancel_all)
    yield
    timer.cancel()
    await asyncio.sleep(0)
    assert not problems, problems
