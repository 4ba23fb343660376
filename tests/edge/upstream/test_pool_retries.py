"""Retries: reads once and only on a stale connection, writes and heartbeats never."""

import asyncio
from dataclasses import replace

import pytest

from proxy.errors import Unavailable
from proxy.model import Reason
from tests.support.loops import both_loops
from tests.support.scripted_upstream import (
    OK,
    QUICK,
    READ,
    RECEIPT,
    WRITE,
    Conversation,
    pool_and_upstream,
)


async def _close_at_the_second(conversation: Conversation) -> None:
    """Answer one request, read another, and close: a used connection that turns out stale."""
    await conversation.read_request()
    await conversation.send(OK)
    await conversation.read_request()


@both_loops
async def test_a_read_is_retried_on_a_new_connection_after_a_stale_one() -> None:
    """The caller gets the response, and the second attempt has a connection of its own."""
    async with pool_and_upstream(_close_at_the_second) as (pool, scripted):
        await pool.forward(RECEIPT, READ)
        assert (await pool.forward(RECEIPT, READ)).body == b"{}"
        assert (scripted.connections, len(scripted.requests)) == (2, 3)


async def test_a_read_is_retried_once() -> None:
    """An upstream that closes on every call gets two, and the caller a reason."""

    async def script(conversation: Conversation) -> None:
        await conversation.read_request()
        if conversation.number == 1:
            await conversation.send(OK)
            await conversation.read_request()

    async with pool_and_upstream(script) as (pool, scripted):
        await pool.forward(RECEIPT, READ)
        with pytest.raises(Unavailable) as refused:
            await pool.forward(RECEIPT, READ)
        assert refused.value.reason is Reason.UPSTREAM_CLOSED
        assert len(scripted.requests) == 3


@pytest.mark.parametrize("kind", ["write", "heartbeat"])
async def test_writes_and_heartbeats_are_sent_once(kind: str) -> None:
    """On a stale connection it is unknown whether the call had its effect. The caller gets a reason
    that says so, and the upstream receives the call once.
    """
    async with pool_and_upstream(_close_at_the_second) as (pool, scripted):
        await pool.forward(RECEIPT, READ)
        with pytest.raises(Unavailable) as refused:
            await pool.forward(RECEIPT, replace(WRITE, kind=kind))  # type: ignore[arg-type]  # pytest gives one of the literals
        assert refused.value.reason is Reason.UPSTREAM_CLOSED
        assert refused.value.sent
        assert [b"add_task" in request for request in scripted.requests] == [False, True]


async def test_a_read_whose_response_has_started_is_not_retried() -> None:
    """Half a response is a response: only a connection without a byte of one is stale."""

    async def script(conversation: Conversation) -> None:
        await conversation.read_request()
        await conversation.send(OK)
        await conversation.read_request()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Le")

    async with pool_and_upstream(script) as (pool, scripted):
        await pool.forward(RECEIPT, READ)
        with pytest.raises(Unavailable) as refused:
            await pool.forward(RECEIPT, READ)
        assert refused.value.reason is Reason.UPSTREAM_CLOSED
        assert len(scripted.requests) == 2


async def test_a_retry_takes_no_equally_old_connection() -> None:
    """After a stale connection the next attempt is on a new one, and the pool loses none."""
    async with pool_and_upstream(_close_at_the_second, replace(QUICK, max_connections=2)) as (
        pool,
        scripted,
    ):
        await asyncio.gather(pool.forward(RECEIPT, READ), pool.forward(RECEIPT, READ))
        assert pool.stats().idle == 2
        assert (await pool.forward(RECEIPT, READ)).body == b"{}"
        assert (scripted.connections, pool.stats().open, pool.stats().in_use) == (3, 1, 0)
