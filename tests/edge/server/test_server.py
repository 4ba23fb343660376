"""Draining: what is unanswered is answered, and the rest is closed."""

import asyncio
from dataclasses import replace
from pathlib import Path

from proxy.edge.server.limits import Limits
from proxy.edge.server.request_parser import IDLE
from proxy.edge.tls import server_context, upstream_context
from tests.support.edge_server import (
    QUICK,
    RecordingHandler,
    certificate,
    edge,
    held,
    until,
)
from tests.support.loops import both_loops
from tests.support.raw_client import get, parse_responses

SHORT = 0.05  # seconds; a deadline that is meant to pass
HOUR = 3600.0


@both_loops
async def test_a_drain_answers_requests_that_have_begun() -> None:
    """Idle connections close soon.

    A request being handled, a partial one and that of a new client are answered.
    """
    async with held(timing=replace(QUICK, first_byte=20.0)) as (gate, go):
        idle, busy, begun, fresh = [await gate.connect() for _ in range(4)]
        go.set()
        for client in (idle, begun):
            await client.send(get("/0"))
            await client.response()
        go.clear()
        await busy.send(get("/1"))
        await begun.send(get("/2")[:10])
        await until(
            lambda: (
                len(gate.handler.requests) == 3
                and sum(c.phase is not IDLE for c in gate.server.connections) == 1
            )
        )
        draining = asyncio.ensure_future(gate.server.drain(20.0))
        assert await idle.rest() == b""
        await begun.send(get("/2")[10:])
        await fresh.send(get("/3"))
        await until(lambda: len(gate.handler.requests) == 5)
        go.set()
        for client, path in ((busy, b"/1"), (begun, b"/2"), (fresh, b"/3")):
            [response] = parse_responses(await client.rest())
            assert (response.body, response.headers["connection"]) == (b"GET %b " % path, "close")
        await draining
        assert not gate.server.connections


@both_loops
async def test_a_drain_answers_one_more_request_on_an_idle_connection() -> None:
    """A client that sends at that moment loses no call; the response has ``Connection: close``."""
    async with edge(RecordingHandler(), timing=replace(QUICK, drain_idle=20.0)) as gate:
        client = await gate.connect()
        await client.send(get("/0"))
        await client.response()
        draining = asyncio.ensure_future(gate.server.drain(20.0))
        await until(lambda: gate.server.draining)
        await client.send(get("/1"))
        [response] = parse_responses(await client.rest())
        assert (response.body, response.headers["connection"]) == (b"GET /1 ", "close")
        await draining


@both_loops
async def test_a_drain_waits_for_unfinished_handshakes(tmp_path: Path) -> None:
    """A client that was accepted just before is served."""
    files = certificate(tmp_path)

    async with edge(RecordingHandler(), tls=server_context(files.certificate, files.key)) as gate:
        half = await gate.connect()
        await until(lambda: gate.server.handshakes == 1)
        gate.listener.close()
        draining = asyncio.ensure_future(gate.server.drain(20.0))
        await until(lambda: gate.server.draining)
        await half.writer.start_tls(upstream_context(files.ca), server_hostname="localhost")
        await half.send(get("/1"))
        [response] = parse_responses(await half.rest())
        assert (response.body, response.headers["connection"]) == (b"GET /1 ", "close")
        await draining
        assert not gate.server.connections


async def test_a_drain_does_not_wait_for_a_silent_client() -> None:
    """A new client gets a moment for its first bytes, not the time of a head."""
    timing = replace(QUICK, first_byte=SHORT)
    async with edge(RecordingHandler(), Limits(header_seconds=HOUR), timing=timing) as gate:
        client = await gate.connect()
        await until(lambda: gate.server.connections)
        await gate.server.drain(HOUR)
        assert await client.rest() == b""


async def test_a_drain_has_a_time_limit() -> None:
    """Requests that are unanswered then are aborted."""
    async with held() as (gate, go):
        client = await gate.connect()
        await client.send(get())
        await until(lambda: gate.handler.requests)
        await gate.server.drain(SHORT)
        assert await client.rest() == b""
        go.set()
