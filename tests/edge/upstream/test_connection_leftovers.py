"""What long responses leave in memory when they do not end well: nothing.

Calls make no cyclic garbage, so the collector seldom runs. These tests hold with it switched off.
"""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from proxy.edge.server.connection import Connection
from proxy.edge.server.limits import Limits
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.connection import ResponseBody, UpstreamConnection
from proxy.edge.upstream.pool import ConnectionPool
from proxy.edge.upstream.stream_limit import StreamLimit
from proxy.errors import Unavailable
from proxy.model import Request, Response
from tests.support.edge_server import ReadBody, RecordingHandler, edge, until
from tests.support.loops import both_loops
from tests.support.raw_client import get, silent_socket
from tests.support.scripted_upstream import READ, RECEIPT, pool_to

LONG = replace(READ, max_buffered=1_000_000)
BODY = b"x" * 3_000_000
# Seconds of a deadline that is meant to pass.
SHORT = 0.05


@contextlib.asynccontextmanager
async def long_responses(*, complete: bool = True) -> AsyncIterator[ConnectionPool]:
    """A pool to an upstream with long responses; it hangs up before the end unless `complete`."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = BODY if complete else BODY[:-1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + body)
            await writer.drain()
            if complete:
                await reader.read(1)
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with pool_to(UpstreamAddress(port=server.sockets[0].getsockname()[1])) as pool:
        yield pool
    server.close()


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Cyclic garbage stays during the test."""
    gc.collect()
    gc.freeze()  # what was there before is not looked through
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def leftovers() -> Counter[str]:
    """The connections and bodies that are still in memory."""
    return Counter(
        type(thing).__name__
        for thing in gc.get_objects()
        if isinstance(thing, Connection | UpstreamConnection | ResponseBody)
    )


@both_loops
@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("end", ["never reads", "leaves", "upstream hangs up"])
async def test_a_long_response_that_breaks_off_leaves_nothing_behind(end: str) -> None:
    """Connections, task and gathered parts are freed when the exchange ends, however it ends."""
    async with long_responses(complete=end != "upstream hangs up") as pool:

        async def relay(request: Request, read_body: ReadBody) -> Response:
            response = await pool.forward(RECEIPT, LONG)
            return Response(response.status, stream=response.stream, length=response.length)

        seconds = SHORT if end == "never reads" else 30.0
        async with edge(RecordingHandler(relay), Limits(write_seconds=seconds)) as gate:
            for _ in range(3):
                if end == "upstream hangs up":
                    assert len(await gate.talk(get())) < len(BODY) + 300
                else:
                    with silent_socket(gate.port, receive_buffer=2048) as client:
                        client.sendall(get())
                        await until(
                            lambda: any(c._writer.streaming for c in gate.server.connections)
                        )
                        if end == "leaves":
                            client.close()
                        await until(lambda: not gate.server.connections)
                await until(lambda: not gate.server.connections and not pool.stats().in_use)
            await until(lambda: not leftovers())


@both_loops
@pytest.mark.usefixtures("_no_collector")
async def test_a_long_response_that_is_refused_leaves_nothing_behind() -> None:
    """The million bytes that were gathered of it are freed at once."""
    async with long_responses() as pool:
        limited = StreamLimit(pool, 0, 0)
        for _ in range(3):
            with contextlib.suppress(Unavailable):
                await limited.forward(RECEIPT, LONG)
        await until(lambda: not leftovers())
