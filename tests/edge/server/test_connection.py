"""Requests and bodies on one connection: their order, their ends, and clients that leave."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.edge.server.limits import Limits
from proxy.edge.tls import server_context, upstream_context
from proxy.model import Reason, Request, Response
from tests.support.edge_server import (
    QUICK,
    ReadBody,
    RecordingHandler,
    certificate,
    edge,
    held,
    only_connection,
    refuse_all,
    until,
)
from tests.support.loops import both_loops
from tests.support.raw_client import Client, get, parse_responses, post


@both_loops
async def test_the_large_body_of_a_refused_request_is_not_read() -> None:
    """The refusal reaches a client that is still sending."""
    handler = RecordingHandler(refuse_all)
    async with edge(handler, Limits(early_bytes=1000)) as gate:
        client = await gate.connect()
        sending = asyncio.ensure_future(client.send(post(b"a" * 10_000_000)))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (401, "close")
        assert not handler.requests[0].body_complete
        await sending
        await client.rest()


async def test_a_large_body_stays_in_the_socket_until_the_handler_asks_for_it() -> None:
    """Before that, at most one packet more than the limit is read."""
    async with held(Limits(early_bytes=1000)) as (gate, go):
        client = await gate.connect()
        sending = asyncio.ensure_future(client.send(post(b"a" * 10_000_000)))
        await until(lambda: gate.handler.requests)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert only_connection(gate.server).parser.body_size <= 1000 + 262_144
        assert gate.handler.requests[0].body == b""
        go.set()
        assert len((await client.response()).body) == 10_000_007
        await sending


async def test_further_requests_wait_in_the_socket() -> None:
    """At most one request is queued behind the one being handled."""
    async with held() as (gate, go):
        client = await gate.connect()
        await client.send(get("/1"))
        await until(lambda: gate.handler.requests)
        for number in range(2, 40):
            await client.send(get(f"/{number}"))
            await asyncio.sleep(0.001)
        assert len(only_connection(gate.server).queue) <= 2
        go.set()
        assert [(await client.response()).body for _ in range(39)] == [
            b"GET /%d " % n for n in range(1, 40)
        ]


async def test_one_wakeup_serves_all_requests_of_a_packet() -> None:
    """Pipelined requests cost no further iterations of the loop."""
    order = []

    async def answer(request: Request, read_body: ReadBody) -> Response:
        order.append(request.path)
        return Response(200)

    async with edge(RecordingHandler(answer)) as gate:
        client = await gate.connect()
        await client.send(get("/1"))
        await client.response()
        connection = only_connection(gate.server)
        await until(lambda: connection.idle)

        def arrive() -> None:
            connection.data_received(get("/2") + get("/3"))
            order.append("received")
            gate.server.loop.call_soon(order.append, "next iteration")

        gate.server.loop.call_soon(arrive)
        assert [(await client.response()).status for _ in range(2)] == [200, 200]
        assert order == ["/1", "received", "/2", "/3", "next iteration"]


@both_loops
async def test_100_continue_is_sent_when_the_handler_asks_for_the_body() -> None:
    """A client that does not wait for it is served too."""
    async with edge(RecordingHandler()) as gate:
        client = await gate.connect()
        request = post(b"abc", "Expect: 100-continue")
        await client.send(request[:-3])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.response()).body == b"POST / abc"
        await client.send(request)  # a client that does not wait for its leave needs none
        assert (await client.response()).body == b"POST / abc"


async def test_a_refused_request_gets_no_100_continue() -> None:
    """The refusal takes its place."""
    async with edge(RecordingHandler(refuse_all)) as gate:
        client = await gate.connect()
        await client.send(post(b"abc", "Expect: 100-continue")[:-3])
        assert (await client.response()).status == 401
        assert await client.rest() == b""


@both_loops
async def test_a_call_completes_after_its_client_left() -> None:
    """A call that may have acted runs to its end, so that its record is true."""
    done = asyncio.Event()
    go = asyncio.Event()

    async def answer(request: Request, read_body: ReadBody) -> Response:
        await go.wait()
        done.set()
        return Response(200, b"late")

    async with edge(RecordingHandler(answer)) as gate:
        client = await gate.connect()
        await client.send(get())
        await until(lambda: gate.handler.requests)
        client.writer.transport.abort()
        go.set()
        await done.wait()
        await until(lambda: not gate.server.connections)


async def test_a_truncated_body_is_never_handed_on() -> None:
    """The handler gets `client-gone` instead."""
    handler = RecordingHandler()
    async with edge(handler, Limits(early_bytes=10)) as gate:
        client = await gate.connect()
        await client.send(post(b"a" * 100)[:-50])
        await until(lambda: handler.requests)
        client.writer.close()
        await handler.rejected.wait()
        assert handler.reasons == [Reason.CLIENT_GONE]


@pytest.mark.parametrize("value", ["close", "Close", "keep-alive, close"])
async def test_a_client_can_ask_to_close(value: str) -> None:
    """The response has ``Connection: close`` too, and later requests are not served."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        client = await gate.connect()
        await client.send(get("/1", f"Connection: {value}") + get("/2"))
        [response] = parse_responses(await client.rest())
        assert response.headers["connection"] == "close"
        assert [request.path for request in handler.requests] == ["/1"]


@both_loops
@pytest.mark.parametrize("at", ["rest", "work"])
async def test_the_task_of_a_connection_can_be_cancelled(at: str) -> None:
    """It can be cancelled while it waits for a request and while it handles one."""
    async with held() as (gate, _):
        client = await gate.connect()
        await until(lambda: gate.server.connections)
        if at == "work":
            await client.send(get())
            await until(lambda: gate.handler.requests)
        task = only_connection(gate.server).task
        assert task is not None
        await asyncio.sleep(0)
        assert task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await client.rest() == b""


async def test_the_peer_is_that_of_the_socket() -> None:
    """Headers that claim an address stay headers."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        client = await gate.connect()
        await client.send(
            get("/", "X-Forwarded-For: 6.6.6.6", "User-Agent: one")
            + get("/", "User-Agent: " + "two" * 100)
        )
        await client.response()
        await client.response()
        port = client.writer.get_extra_info("sockname")[1]
        origins = [request.peer for request in handler.requests]
        assert [(origin.address, origin.port, origin.tls) for origin in origins] == [
            ("127.0.0.1", port, None)
        ] * 2
        assert [origin.user_agent for origin in origins] == ["one", ("two" * 100)[:256]]
        ids = [request.id for request in handler.requests]
        assert len(set(ids)) == 2
        assert all(len(name) == 16 for name in ids)


@both_loops
async def test_clients_are_served_alike_over_tls(tmp_path: Path) -> None:
    """Keep-alive, large bodies, refusals and closing work as without TLS."""
    files = certificate(tmp_path)
    handler = RecordingHandler()
    async with edge(
        handler,
        Limits(early_bytes=1000),
        tls=server_context(files.certificate, files.key),
        timing=replace(QUICK, linger=0.5),
    ) as gate:
        trusted: ssl.SSLContext = upstream_context(files.ca)
        client = await gate.connect(trusted)
        for size in (0, 10, 3_000_000):
            sending = asyncio.ensure_future(client.send(post(b"a" * size)))
            assert (await client.response()).body == b"POST / " + b"a" * size
            await sending
        assert {request.peer.tls for request in handler.requests} == {"TLSv1.3"}
        await client.send(get("/", "Connection: close"))
        assert [response.status for response in parse_responses(await client.rest())] == [200]
        other: Client = await gate.connect(trusted)
        await other.send(b"garbage\r\n\r\n")
        assert [response.status for response in parse_responses(await other.rest())] == [400]
