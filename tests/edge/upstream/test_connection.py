"""One connection: streams, early and unsolicited data, cancellation, and what is left behind."""

import asyncio
import contextlib
import gc
import weakref
from dataclasses import replace

import pytest

from proxy.errors import Unavailable
from proxy.model import Reason, UpstreamRequest
from tests.support.bare_connection import RecordingPool, bare_connection
from tests.support.edge_server import until
from tests.support.loops import both_loops
from tests.support.scripted_upstream import (
    HEAD_200,
    IMPATIENT,
    OK,
    READ,
    RECEIPT,
    WRITE,
    Conversation,
    body_of,
    pool_and_upstream,
    responding,
)


async def test_unsolicited_data_closes_the_connection() -> None:
    """Bytes on an idle connection cannot become the response to the next call."""

    async def script(conversation: Conversation) -> None:
        await conversation.read_request()
        await conversation.send(OK)
        if conversation.number == 1:
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
            await conversation.wait_closed()

    async with pool_and_upstream(script) as (pool, scripted):
        assert (await pool.forward(RECEIPT, READ)).body == b"{}"
        await until(lambda: not pool.stats().idle)
        assert (await pool.forward(RECEIPT, READ)).body == b"{}"
        assert scripted.connections == 2


async def test_an_early_response_is_returned_and_its_connection_closed() -> None:
    """The part of the request that the upstream did not read would be read as the next call."""

    async def script(conversation: Conversation) -> None:
        await conversation.reader.readuntil(b"\r\n\r\n")
        await conversation.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await conversation.wait_closed()

    async with pool_and_upstream(script) as (pool, _):
        conversation = pool.forward(RECEIPT, replace(WRITE, body=b"a" * 30_000_000))
        assert (await conversation).status == 413
        assert pool.stats().in_use == 0
        assert not pool.stats().idle


async def test_a_cancelled_call_closes_its_connection() -> None:
    """Its response cannot reach another call."""
    async with pool_and_upstream(responding(stay=True)) as (pool, scripted):
        call = asyncio.ensure_future(pool.forward(RECEIPT, WRITE))
        await until(lambda: scripted.requests)
        call.cancel()
        await asyncio.gather(*scripted.conversations)
        assert call.cancelled()
        assert pool.stats().in_use == 0


async def test_a_long_response_is_a_stream() -> None:
    """Beyond `max_buffered` bytes the body comes in parts, with the length that was announced, and
    the connection is used again.
    """
    body = bytes(range(256)) * 4096

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.read_request()
            await conversation.send(HEAD_200 + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async with pool_and_upstream(script) as (pool, scripted):
        for _ in range(3):
            response = await pool.forward(RECEIPT, READ)
            assert response.stream is not None
            assert response.length == len(body)
            assert await body_of(response) == body
        assert scripted.connections == 1
        assert pool.stats().in_use == 0


async def test_a_long_response_without_length_ends_with_the_connection() -> None:
    """RFC 9112 section 6.3, rule 8, for a body that its reader has taken in parts."""
    body = b"abcdefgh" * 50_000

    async with pool_and_upstream(
        responding(HEAD_200 + b"\r\n" + body[:100_000], body[100_000:])
    ) as (pool, _):
        response = await pool.forward(RECEIPT, READ)
        assert response.stream is not None
        assert response.length is None
        assert await body_of(response) == body
        assert pool.stats().in_use == 0


@pytest.mark.parametrize(
    ("more", "reason"),
    [(b"", Reason.UPSTREAM_CLOSED), (b"zz\r\n", Reason.UPSTREAM_INVALID)],
    ids=["cut", "garbage"],
)
async def test_a_broken_stream_raises_after_what_has_arrived(more: bytes, reason: Reason) -> None:
    """The reader gets what arrived, then the reason: half a body never passes for a body."""
    chunk = b"10000\r\n" + b"a" * 65_536 + b"\r\n"

    async with pool_and_upstream(
        responding(HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5 + more)
    ) as (pool, _):
        response = await pool.forward(RECEIPT, READ)
        assert response.stream is not None
        with pytest.raises(Unavailable) as refused:
            await body_of(response)
        assert refused.value.reason is reason
        assert [part async for part in response.stream] == []


async def test_an_endless_stream_waits_for_its_reader_and_ends_with_it() -> None:
    """An upstream that never stops sends a few buffers at most to a reader that takes nothing."""
    sent = 0

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.read_request()
        await conversation.send(HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            await conversation.send(b"10000\r\n" + b"a" * 65_536 + b"\r\n")
            sent += 65_536

    async with pool_and_upstream(script, IMPATIENT) as (pool, scripted):
        response = await pool.forward(RECEIPT, READ)
        assert response.stream is not None
        taken = 0
        while taken < 1_000_000:
            taken += len(await response.stream.__anext__())
        before = -1
        while sent != before:  # until the upstream's own socket is full
            before = sent
            for _ in range(100):
                await asyncio.sleep(0)
        assert pool.stats().buffered <= 600_000
        await response.stream.aclose()
        await response.stream.aclose()
        await asyncio.gather(*scripted.conversations)
        assert pool.stats().in_use == 0


@both_loops
async def test_a_connection_may_be_lost_after_any_kind_of_response() -> None:
    """After a streamed, buffered or cached response the next caller gets ``upstream-closed``."""
    long = HEAD_200 + b"Content-Length: 300000\r\n\r\n" + b"a" * 300_000

    for responses in ([long], [OK], [OK, OK], [OK, long, OK], [long, OK]):

        async def script(conversation: Conversation, responses: list[bytes] = responses) -> None:
            for data in responses:
                await conversation.read_request()
                await conversation.send(data)
            await conversation.read_request()

        async with pool_and_upstream(script) as (pool, scripted):
            for data in responses:
                assert (
                    await body_of(await pool.forward(RECEIPT, WRITE))
                    == data.partition(b"\r\n\r\n")[2]
                )
            with pytest.raises(Unavailable) as refused:
                await pool.forward(RECEIPT, WRITE)
            assert (refused.value.reason, refused.value.sent) == (Reason.UPSTREAM_CLOSED, True)
            assert (scripted.connections, pool.stats().in_use) == (1, 0)


async def test_a_deadline_counts_from_the_first_sweep_after_an_event() -> None:
    """The first byte, a pause and an idle time have their own seconds, counted from the first sweep
    after the last event, never earlier.
    """
    connection = bare_connection(RecordingPool(asyncio.get_running_loop()))
    response = connection.send(b"request", b"", 65_536, False)
    connection.data_received(HEAD_200)
    assert connection.response_started
    # A pause since its first byte.
    assert not any(connection.timed_out(now) for now in (1000.0, 1030.0))
    assert connection.timed_out(1030.1)
    connection.data_received(b"X: y\r\n")
    assert not any(connection.timed_out(now) for now in (2000.0, 2030.0))
    connection.data_received(b"Content-Length: 0\r\n\r\n")
    assert response.result().status == 200
    # Without a call.
    assert not any(connection.timed_out(now) for now in (3000.0, 3015.0))
    assert connection.timed_out(3015.1)
    response = connection.send(b"request", b"", 65_536, False)
    # Before the first byte.
    assert not any(connection.timed_out(now) for now in (4000.0, 4060.0))
    assert connection.timed_out(4060.1)


async def test_a_failed_call_leaves_no_cycle() -> None:
    """Errors hold frames, and frames hold what was sent. A cycle of them would let a dead upstream
    fill the memory.
    """

    class Held(UpstreamRequest):
        """One that can be watched."""

    async with pool_and_upstream(responding(b"")) as (pool, _):
        gc.disable()
        try:
            request = Held(WRITE.http_method, WRITE.path, WRITE.content_type, WRITE.body)
            held = weakref.ref(request)
            with contextlib.suppress(Unavailable):
                await pool.forward(RECEIPT, request)
            del request
            # the loop itself holds the failed future for the rest of its turn
            await asyncio.sleep(0)
            assert held() is None
        finally:
            gc.enable()


async def test_a_response_to_head_has_a_length_and_no_body() -> None:
    """The length is that of the body a GET would have. The connection is closed, in case the
    upstream sends one.
    """
    async with pool_and_upstream(
        responding(HEAD_200 + b"Content-Length: 12345\r\n\r\n", stay=True)
    ) as (
        pool,
        scripted,
    ):
        response = await pool.forward(RECEIPT, UpstreamRequest("HEAD", b"/", b"", b"", kind="read"))
        assert (response.status, response.body, response.stream, response.length) == (
            200,
            b"",
            None,
            12345,
        )
        await asyncio.gather(*scripted.conversations)
        assert scripted.requests[0].startswith(b"HEAD / HTTP/1.1\r\n")
