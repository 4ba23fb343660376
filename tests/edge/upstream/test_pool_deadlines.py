"""Deadlines of connecting, of responses and of idle connections."""

import asyncio
from dataclasses import replace

import pytest

from proxy.edge.tls import upstream_context
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.connection import MAX_STREAM_BUFFER
from proxy.errors import Unavailable
from proxy.model import Reason
from tests.support.edge_server import until
from tests.support.scripted_upstream import (
    HEAD_200,
    IMPATIENT,
    QUICK,
    READ,
    RECEIPT,
    WRITE,
    Conversation,
    body_of,
    pool_and_upstream,
    responding,
    serve_all,
)


@pytest.mark.parametrize(
    "sent",
    [b"", b"HTTP/1.1 200 OK\r\n", HEAD_200 + b"Content-Length: 5\r\n\r\nabc"],
    ids=["nothing", "head", "body"],
)
async def test_a_silent_upstream_times_out(sent: bytes) -> None:
    """Silence before or within the response is ``upstream-timeout`` and closes the connection."""
    async with pool_and_upstream(responding(sent, stay=True), IMPATIENT) as (pool, scripted):
        with pytest.raises(Unavailable) as refused:
            await pool.forward(RECEIPT, READ)
        assert refused.value.reason is Reason.UPSTREAM_TIMEOUT
        await asyncio.gather(*scripted.conversations)
        assert len(scripted.requests) == 1


async def test_idle_connections_expire() -> None:
    """A connection unused for longer than the upstream may keep it is closed before a call finds it
    stale.
    """
    async with pool_and_upstream(serve_all, replace(QUICK, keepalive_timeout=0.0)) as (
        pool,
        scripted,
    ):
        await pool.forward(RECEIPT, WRITE)
        await asyncio.gather(*scripted.conversations)
        assert not pool.stats().idle
        assert not pool.stats().open


async def test_silence_within_a_stream_times_out() -> None:
    """The deadline for a pause holds in the middle of a streamed body too."""
    async with pool_and_upstream(
        responding(HEAD_200 + b"Content-Length: 900000\r\n\r\n" + b"a" * 300_000, stay=True),
        IMPATIENT,
    ) as (pool, _):
        response = await pool.forward(RECEIPT, READ)
        with pytest.raises(Unavailable) as refused:
            await body_of(response)
        assert refused.value.reason is Reason.UPSTREAM_TIMEOUT


async def test_a_slow_reader_is_not_a_pause_of_the_upstream() -> None:
    """While the pool itself has stopped reading, the silence of the upstream does not count."""
    body = b"a" * 20_000_000

    async def script(conversation: Conversation) -> None:
        await conversation.read_request()
        await conversation.send(HEAD_200 + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await conversation.wait_closed()

    async with pool_and_upstream(script, IMPATIENT) as (pool, _):
        response = await pool.forward(RECEIPT, READ)
        # More than may wait for the reader: the pool has stopped reading.
        await until(lambda: pool.stats().buffered > MAX_STREAM_BUFFER)
        pool.check_deadlines()
        pool.now = lambda: pool.loop.time() + 3600.0
        pool.check_deadlines()
        assert await body_of(response) == body


async def test_a_handshake_that_never_ends_times_out() -> None:
    """A silent plain socket where TLS is expected costs the connect timeout."""

    async def script(conversation: Conversation) -> None:
        await conversation.wait_closed()

    async with pool_and_upstream(
        script,
        replace(QUICK, connect_timeout=0.1),
        address=UpstreamAddress(tls=upstream_context(), server_hostname="localhost"),
    ) as (pool, scripted):
        with pytest.raises(Unavailable) as refused:
            await pool.forward(RECEIPT, READ)
        assert refused.value.reason is Reason.UPSTREAM_UNREACHABLE
        await asyncio.gather(*scripted.conversations)
