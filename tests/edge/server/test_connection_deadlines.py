"""Deadlines: a client that stalls is closed or refused, and one that progresses is not."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.edge.server.connection import REFUSED
from proxy.edge.server.limits import Limits
from proxy.edge.tls import server_context, upstream_context
from proxy.model import Reason, Request, Response
from tests.support.edge_server import (
    QUICK,
    Parts,
    ReadBody,
    RecordingHandler,
    certificate,
    edge,
    held,
    only_connection,
    refuse_all,
    streaming,
    until,
)
from tests.support.loops import both_loops
from tests.support.raw_client import get, parse_responses, post, silent_socket

SHORT = 0.05  # seconds; a deadline that is meant to pass
HOUR = 3600.0


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "blank lines"])
async def test_a_silent_client_is_closed_without_a_response(sent: bytes) -> None:
    """An open connection is no request: nothing is answered or recorded."""
    handler = RecordingHandler()
    async with edge(handler, Limits(header_seconds=SHORT)) as gate:
        client = await gate.connect()
        await client.send(sent)
        assert await client.rest() == b""
        assert not handler.rejections


@both_loops
@pytest.mark.parametrize(
    "begun",
    [
        b"G",
        get()[:-2],
        post(b"abc")[:-1],
        post(b"a" * 900)[:-1],
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
    ],
    ids=["one byte", "head", "body", "large body", "chunk"],
)
async def test_an_incomplete_request_is_refused(begun: bytes) -> None:
    """Head, small body, large body and chunked body each have a deadline.

    The refusal is recorded once.
    """
    handler = RecordingHandler()
    async with edge(
        handler, Limits(header_seconds=SHORT, body_seconds=SHORT, early_bytes=500)
    ) as gate:
        client = await gate.connect()
        await client.send(begun)
        assert [response.status for response in parse_responses(await client.rest())] == [408]
        assert handler.reasons == [Reason.REQUEST_TIMEOUT]


@pytest.mark.parametrize("begun", [b"GET /", post(b"a" * 100_000)[:90]], ids=["head", "body"])
async def test_a_trickle_does_not_extend_the_deadline(begun: bytes) -> None:
    """One byte at a time is no progress."""
    handler = RecordingHandler()
    async with edge(handler, Limits(header_seconds=SHORT, body_seconds=SHORT)) as gate:
        client = await gate.connect()
        await client.send(begun)

        async def trickle() -> None:
            while not handler.rejections:
                await client.send(b"a")
                await asyncio.sleep(0.001)

        await asyncio.wait_for(trickle(), 10)
        assert handler.reasons == [Reason.REQUEST_TIMEOUT]
        assert b" 408 " in await client.rest()


async def test_an_idle_connection_is_closed() -> None:
    """An idle keep-alive connection is closed without a response."""
    handler = RecordingHandler()
    async with edge(handler, Limits(idle_seconds=SHORT)) as gate:
        client = await gate.connect()
        await client.send(get())
        assert (await client.response()).status == 200
        assert await client.rest() == b""
        assert not handler.rejections


async def test_a_client_has_no_deadline_while_its_request_is_handled() -> None:
    """Neither the idle timeout nor the deadline of the next body runs meanwhile."""
    async with held(Limits(early_bytes=10)) as (gate, go):
        client = await gate.connect()
        await client.send(get("/1") + post(b"b" * 1000, path="/2")[:-500])
        await until(lambda: gate.handler.requests)
        only_connection(gate.server).check_deadlines(gate.server.now() + HOUR)
        await client.send(b"b" * 500)
        go.set()
        assert (await client.response()).body == b"GET /1 "
        assert (await client.response()).body == b"POST /2 " + b"b" * 1000
        assert not gate.handler.rejections


@pytest.mark.parametrize("header", ["Accept: */*", "Expect: 100-continue"])
async def test_the_deadline_of_a_large_body_begins_when_the_handler_asks_for_it(
    header: str,
) -> None:
    """The time for the identification of the caller is not the client's."""
    async with held(Limits(early_bytes=100 if "Expect" in header else 10)) as (gate, go):
        client = await gate.connect()
        await client.send(post(b"b" * 50, header)[:-50])
        await until(lambda: gate.handler.requests)
        only_connection(gate.server).check_deadlines(gate.server.now() + HOUR)
        assert only_connection(gate.server).state < REFUSED
        go.set()
        await until(lambda: only_connection(gate.server).deadline)
        only_connection(gate.server).check_deadlines(gate.server.now() + HOUR)
        if "Expect" in header:
            await client.reader.readuntil(b"\r\n\r\n")
        assert (await client.response()).status == 408
        assert gate.handler.reasons == [Reason.REQUEST_TIMEOUT]


async def test_a_handler_may_take_longer_than_any_deadline_of_the_client() -> None:
    """A complete large body leaves the connection without a deadline."""
    go = asyncio.Event()
    read = asyncio.Event()

    async def answer(request: Request, read_body: ReadBody) -> Response:
        body = await read_body()
        read.set()
        await go.wait()
        return Response(200, b"%d" % len(body))

    async with edge(RecordingHandler(answer), Limits(early_bytes=10)) as gate:
        client = await gate.connect()
        await client.send(post(b"b" * 1000)[:-1000])
        await until(lambda: gate.handler.requests and only_connection(gate.server).deadline)
        await client.send(b"b" * 1000)
        await read.wait()
        only_connection(gate.server).check_deadlines(gate.server.now() + HOUR)
        go.set()
        assert (await client.response()).body == b"1000"


async def test_a_slow_body_may_take_as_long_as_it_progresses() -> None:
    """Each deadline requires `MIN_PROGRESS_BYTES` since the last one."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        client = await gate.connect()
        await client.send(post(b"a" * 400_000)[:-300_000])
        await until(lambda: handler.requests and only_connection(gate.server).deadline)
        await client.send(b"a" * 100_000)
        await until(lambda: only_connection(gate.server).parser.body_size == 200_000)
        only_connection(gate.server).check_deadlines(gate.server.now() + HOUR)
        assert only_connection(gate.server).state < REFUSED
        only_connection(gate.server).check_deadlines(gate.server.now() + HOUR)
        await handler.rejected.wait()
        assert handler.reasons == [Reason.REQUEST_TIMEOUT]
        assert (await client.response()).status == 408


@both_loops
@pytest.mark.parametrize("kind", ["complete", "stream"])
async def test_a_client_that_never_reads_is_aborted(kind: str) -> None:
    """A response waits for one write deadline; a stream is closed then."""
    part = b"a" * 65_536
    stream = Parts(part, endless=True)

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(200, stream=stream) if kind == "stream" else Response(200, part * 400)

    async with edge(RecordingHandler(answer), Limits(write_seconds=SHORT)) as gate:
        with silent_socket(gate.port, receive_buffer=4096) as client:
            client.sendall(get())
            await until(lambda: gate.handler.requests)
            await until(lambda: not gate.server.connections)
        if kind == "stream":
            await stream.closed.wait()


@both_loops
async def test_a_client_that_never_reads_is_aborted_over_tls_too(tmp_path: Path) -> None:
    """Bytes that TLS has encrypted and cannot send count as unsent."""
    files = certificate(tmp_path)
    stream = Parts(b"a" * 65_536, endless=True)

    handler = streaming(stream)
    async with edge(
        handler, Limits(write_seconds=SHORT), tls=server_context(files.certificate, files.key)
    ) as gate:
        client = await gate.connect(upstream_context(files.ca))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a full transport
        client.writer.write(get())
        await stream.closed.wait()
        await until(lambda: not gate.server.connections)
        client.writer.transport.abort()


async def test_lingering_is_bounded() -> None:
    """A refused client that goes on sending is aborted after a time and a number of bytes."""
    async with edge(
        RecordingHandler(refuse_all),
        Limits(early_bytes=1000, body_bytes=50_000_000),
        timing=replace(QUICK, linger=0.2),
    ) as gate:
        client = await gate.connect()
        await client.send(post(b"a" * 40_000_000)[:100_000])
        assert (await client.response()).status == 401
        await until(lambda: not gate.server.connections)


@both_loops
async def test_cached_heads_are_evicted_from_an_idle_connection() -> None:
    """The client is served as before when it comes back."""
    async with edge(RecordingHandler()) as gate:
        client = await gate.connect()
        for _ in range(3):
            await client.send(post(b"abc"))
            assert (await client.response()).body == b"POST / abc"
            await until(lambda: only_connection(gate.server).idle)
            assert len(only_connection(gate.server).parser.head_cache.entries) == 1
            only_connection(gate.server).check_deadlines(gate.server.now() + 9.0)
            assert len(only_connection(gate.server).parser.head_cache.entries) == 1
            only_connection(gate.server).check_deadlines(gate.server.now() + 11.0)
            assert not only_connection(gate.server).parser.head_cache.entries
