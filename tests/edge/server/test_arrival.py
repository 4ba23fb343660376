"""What a connection's task awaits between two requests, on both loops."""

import asyncio

import pytest

from proxy.edge.server.arrival import Arrival
from tests.support.edge_server import LOOP_NAMES, LOOPS, NewLoop, run

both_loops = pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)


@both_loops
def test_who_waits_goes_on_within_fire(new_loop: NewLoop) -> None:
    """At once, as a task of its own, and as often as it waits again; what fires while nobody waits
    is lost.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrival = Arrival(loop)
        seen: list[object] = []

        async def waiter() -> None:
            for _ in range(2):
                await arrival
                seen.append(asyncio.current_task())

        def fire() -> None:
            arrival.fire()
            seen.append("fired")

        arrival.fire()
        task = asyncio.ensure_future(waiter())
        await asyncio.sleep(0)
        for _ in range(3):
            loop.call_soon(fire)
        await task
        await asyncio.sleep(0)
        assert seen == [task, "fired", task, "fired", "fired"]

    run(main(), new_loop)


@both_loops
def test_who_waits_can_be_cancelled(new_loop: NewLoop) -> None:
    """The task ends as cancelled, and a later `fire` reaches nobody."""

    async def main() -> None:
        arrival = Arrival(asyncio.get_running_loop())

        async def waiter() -> None:
            await arrival

        task = asyncio.ensure_future(waiter())
        await asyncio.sleep(0)
        assert asyncio.isfuture(arrival)
        assert task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        asyncio.get_running_loop().call_soon(arrival.fire)
        await asyncio.sleep(0)

    run(main(), new_loop)
