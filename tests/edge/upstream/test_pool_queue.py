"""Calls that wait for a connection: bounds, order, heartbeats, and the end of the pool."""

import asyncio
from dataclasses import replace

import pytest

from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.connection import UpstreamConnection
from proxy.errors import Unavailable
from proxy.model import Reason, UpstreamRequest
from tests.support.edge_server import until
from tests.support.scripted_upstream import (
    HEARTBEAT,
    IMPATIENT,
    OK,
    QUICK,
    RECEIPT,
    WRITE,
    Conversation,
    pool_and_upstream,
    pool_to,
    responding,
    scripted_upstream,
    serve_all,
)


async def test_connections_are_bounded_and_waiters_served_in_order() -> None:
    """There are never more connections than allowed. Calls that wait are served in order. A call
    that finds the queue full fails at once.
    """
    go = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.read_request()
            await go.wait()
            await conversation.send(OK)

    async with pool_and_upstream(script, replace(QUICK, max_connections=2, max_waiters=6)) as (
        pool,
        scripted,
    ):
        calls = [
            asyncio.ensure_future(pool.forward(RECEIPT, replace(WRITE, path=b"/%d" % n)))
            for n in range(8)
        ]
        await until(lambda: len(scripted.requests) == 2 and pool.stats().waiting == 6)
        with pytest.raises(Unavailable) as refused:
            await pool.forward(RECEIPT, WRITE)
        assert refused.value.reason is Reason.OVERLOADED
        assert not refused.value.sent
        calls[3].cancel()
        go.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [
            n == 3 for n in range(8)
        ]
        assert scripted.connections == 2
        paths = [request.split(b" ")[1] for request in scripted.requests]
        assert sorted(paths[:2]) == [b"/0", b"/1"]
        assert [sorted(pair) for pair in (paths[2:4], paths[4:6], paths[6:])] == [
            [b"/2", b"/4"],
            [b"/5", b"/6"],
            [b"/7"],
        ]
        assert pool.stats().in_use == 0


async def test_a_call_that_waits_too_long_fails() -> None:
    """An exhausted pool is ``overloaded``: nothing was sent, and the call leaves the queue."""
    patient = replace(
        IMPATIENT, max_connections=1, read_timeout=9, response_timeout=0.5, queue_timeout=0.1
    )
    async with pool_and_upstream(responding(stay=True), patient) as (pool, _):
        results = await asyncio.gather(
            *(pool.forward(RECEIPT, WRITE) for _ in range(3)), return_exceptions=True
        )
        failed = [
            (result.reason, result.sent) for result in results if isinstance(result, Unavailable)
        ]
        assert failed == [
            (Reason.UPSTREAM_TIMEOUT, True),
            (Reason.OVERLOADED, False),
            (Reason.OVERLOADED, False),
        ]
        assert pool.stats().in_use == 0


async def test_a_queue_that_does_not_move_takes_no_more_calls() -> None:
    """Once the first call has waited too long, new ones fail at once, before the queued ones do."""
    target = replace(QUICK, max_connections=1, queue_timeout=30.0)
    async with pool_and_upstream(responding(stay=True), target) as (pool, scripted):
        served = asyncio.ensure_future(pool.forward(RECEIPT, WRITE))
        waiting = asyncio.ensure_future(pool.forward(RECEIPT, WRITE))
        await until(lambda: scripted.requests and pool.stats().waiting)
        pool.now = lambda: pool.loop.time() + 31.0
        with pytest.raises(Unavailable) as caught:
            await pool.forward(RECEIPT, WRITE)
        assert (caught.value.reason, caught.value.retry_after, waiting.done()) == (
            Reason.OVERLOADED,
            1,
            False,
        )
        served.cancel()
        waiting.cancel()
        await asyncio.gather(served, waiting, return_exceptions=True)


async def test_heartbeats_are_served_first_and_other_calls_after_every_eighth() -> None:
    """Heartbeats pass the calls that wait, in their own order; after eight of them another call is
    served.
    """
    go = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.read_request()
        await go.wait()
        await conversation.send(OK)
        await serve_all(conversation)

    async with pool_and_upstream(script, replace(QUICK, max_connections=1)) as (pool, scripted):
        calls = [
            asyncio.ensure_future(pool.forward(RECEIPT, replace(WRITE, path=b"/%d" % n)))
            for n in range(5)
        ]
        await until(lambda: scripted.requests and pool.stats().waiting == 4)
        pings = [
            asyncio.ensure_future(pool.forward(RECEIPT, replace(HEARTBEAT, path=b"/p%d" % n)))
            for n in range(19)
        ]
        await until(lambda: pool.stats().waiting_heartbeats == 19)
        pings[0].cancel()
        go.set()
        assert {response.status for response in await asyncio.gather(*calls, *pings[1:])} == {200}
        paths = [request.split(b" ")[1].decode() for request in scripted.requests]
        firsts, seconds, rest = (
            [f"/p{n}" for n in numbers] for numbers in (range(1, 9), range(9, 17), range(17, 19))
        )
        assert paths == ["/0", *firsts, "/1", *seconds, "/2", *rest, "/3", "/4"]
        assert (scripted.connections, pool.stats().in_use) == (1, 0)


async def test_heartbeats_wait_where_other_calls_fail() -> None:
    """A heartbeat waits behind a queue that is full or does not move. The queue of heartbeats has
    bounds too, twice as wide.
    """
    target = replace(QUICK, max_connections=1, max_waiters=2, queue_timeout=30.0)
    async with pool_and_upstream(responding(stay=True), target) as (pool, scripted):

        async def turned_away(request: UpstreamRequest) -> None:
            with pytest.raises(Unavailable) as caught:
                await pool.forward(RECEIPT, request)
            assert (caught.value.reason, caught.value.retry_after, caught.value.sent) == (
                Reason.OVERLOADED,
                1,
                False,
            )

        calls = [asyncio.ensure_future(pool.forward(RECEIPT, WRITE)) for _ in range(3)]
        await until(lambda: scripted.requests and pool.stats().waiting == 2)
        await turned_away(WRITE)
        calls += [asyncio.ensure_future(pool.forward(RECEIPT, HEARTBEAT)) for _ in range(3)]
        await until(lambda: pool.stats().waiting_heartbeats == 3)
        pool.now = lambda: pool.loop.time() + 31.0
        calls.pop(1).cancel()
        await until(lambda: pool.stats().waiting == 1)
        await turned_away(WRITE)
        calls.append(asyncio.ensure_future(pool.forward(RECEIPT, HEARTBEAT)))
        await until(lambda: pool.stats().waiting_heartbeats == 4)
        await turned_away(HEARTBEAT)
        calls.pop().cancel()
        await until(lambda: pool.stats().waiting_heartbeats == 3)
        pool.now = lambda: pool.loop.time() + 61.0
        await turned_away(HEARTBEAT)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert not pool.stats().waiting_heartbeats
        assert not pool.stats().waiting


async def test_a_heartbeat_waits_longer_than_other_calls() -> None:
    """It leaves the queue after a time longer than that of the call that came after it."""
    patient = replace(
        IMPATIENT, max_connections=1, read_timeout=9, response_timeout=9, queue_timeout=0.05
    )
    async with pool_and_upstream(responding(stay=True), patient) as (pool, scripted):
        served = asyncio.ensure_future(pool.forward(RECEIPT, WRITE))
        await until(lambda: scripted.requests)
        order: list[tuple[str, Reason]] = []

        async def call(request: UpstreamRequest) -> None:
            with pytest.raises(Unavailable) as caught:
                await pool.forward(RECEIPT, request)
            order.append((request.kind, caught.value.reason))

        await asyncio.gather(call(HEARTBEAT), call(WRITE))
        assert order == [("write", Reason.OVERLOADED), ("heartbeat", Reason.OVERLOADED)]
        assert not pool.stats().waiting_heartbeats
        served.cancel()
        await asyncio.gather(served, return_exceptions=True)


async def test_closing_the_pool_fails_heartbeats_too() -> None:
    """Calls in both queues get ``draining``."""
    async with pool_and_upstream(responding(stay=True), replace(QUICK, max_connections=1)) as (
        pool,
        scripted,
    ):
        calls = [
            asyncio.ensure_future(pool.forward(RECEIPT, request))
            for request in (WRITE, WRITE, HEARTBEAT)
        ]
        await until(
            lambda: scripted.requests and pool.stats().waiting and pool.stats().waiting_heartbeats
        )
        pool.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [result.reason for result in results if isinstance(result, Unavailable)] == [
            Reason.DRAINING
        ] * 3


async def test_a_lost_connection_lets_the_next_waiter_connect() -> None:
    """A connection that is lost makes room for one of a call that waits."""

    async def script(conversation: Conversation) -> None:
        if conversation.number == 1:
            await conversation.read_request()
        else:
            await serve_all(conversation)

    async with pool_and_upstream(script, replace(QUICK, max_connections=1)) as (pool, scripted):
        results = await asyncio.gather(
            *(pool.forward(RECEIPT, WRITE) for _ in range(3)), return_exceptions=True
        )
        assert [type(result).__name__ for result in results] == [
            "Unavailable",
            "UpstreamResponse",
            "UpstreamResponse",
        ]
        assert len(scripted.requests) == 3


@pytest.mark.interpreted
async def test_a_connection_granted_in_the_moment_of_leaving_is_passed_on() -> None:
    """A caller that leaves just as it is granted a connection does not take it along."""
    async with pool_and_upstream(serve_all, replace(QUICK, max_connections=1)) as (pool, scripted):
        calls = [asyncio.ensure_future(pool.forward(RECEIPT, WRITE)) for _ in range(3)]
        await until(lambda: pool.stats().waiting == 2)
        on_idle = pool.on_idle

        def return_and_cancel(connection: UpstreamConnection) -> None:
            on_idle(connection)
            calls[1].cancel()

        pool.on_idle = return_and_cancel  # type: ignore[method-assign]  # the moment is between two turns of the loop
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result).__name__ for result in results] == [
            "UpstreamResponse",
            "CancelledError",
            "UpstreamResponse",
        ]
        assert (scripted.connections, len(scripted.requests), pool.stats().in_use) == (1, 2, 0)


async def test_a_cancelled_call_leaves_the_queue() -> None:
    """Calls that have left do not count against new ones."""
    async with pool_and_upstream(
        responding(stay=True), replace(QUICK, max_connections=1, max_waiters=2)
    ) as (
        pool,
        scripted,
    ):
        served = asyncio.ensure_future(pool.forward(RECEIPT, WRITE))
        await until(lambda: scripted.requests)
        for _ in range(5):
            calls = [asyncio.ensure_future(pool.forward(RECEIPT, WRITE)) for _ in range(2)]
            await until(lambda: pool.stats().waiting == 2)
            for call in calls:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert not pool.stats().waiting
        served.cancel()


async def test_a_failed_connection_lets_the_next_waiter_try() -> None:
    """Calls that wait behind a connection attempt learn that it failed as soon as it has."""
    async with scripted_upstream(serve_all) as scripted:
        port = scripted.port
    async with pool_to(UpstreamAddress(port=port), replace(QUICK, max_connections=1)) as pool:
        results = await asyncio.gather(
            *(pool.forward(RECEIPT, WRITE) for _ in range(4)), return_exceptions=True
        )
        assert [result.reason for result in results if isinstance(result, Unavailable)] == [
            Reason.UPSTREAM_UNREACHABLE
        ] * 4
        assert pool.stats().in_use == 0


async def test_closing_the_pool_fails_every_call() -> None:
    """At the end of a drain no call is left waiting."""
    async with pool_and_upstream(responding(stay=True), replace(QUICK, max_connections=1)) as (
        pool,
        scripted,
    ):
        calls = [asyncio.ensure_future(pool.forward(RECEIPT, WRITE)) for _ in range(2)]
        await until(lambda: scripted.requests)
        pool.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [result.reason for result in results if isinstance(result, Unavailable)] == [
            Reason.DRAINING
        ] * 2
