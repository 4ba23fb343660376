"""What long answers leave behind when they do not end well: nothing, or memory would go as fast as
a slow reader comes back.

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
from proxy.edge.upstream.body import ResponseBody
from proxy.edge.upstream.connection import UpstreamConnection
from proxy.edge.upstream.pool import ConnectionPool, UpstreamAddress
from proxy.edge.upstream.stream_limit import StreamLimit
from proxy.errors import Unavailable
from proxy.model import Request, Response
from tests.support.edge_server import (
    LOOP_NAMES,
    LOOPS,
    Double,
    NewLoop,
    ReadBody,
    edge,
    get,
    run,
    silent_socket,
    until,
)
from tests.support.scripted_upstream import RECEIPT, VIEW

LONG = replace(VIEW, max_buffered=1_000_000)
BODY = b"x" * 3_000_000
SHORT = 0.05  # seconds; a deadline that is meant to pass


@contextlib.asynccontextmanager
async def leg_to_long_answers(*, whole: bool = True) -> AsyncIterator[ConnectionPool]:
    """A leg to an upstream whose answers are long; when they are not `whole`, it hangs up in the
    middle.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = BODY if whole else BODY[:-1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + body)
            await writer.drain()
            if whole:
                await reader.read(1)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    leg = ConnectionPool(UpstreamAddress("long", port=server.sockets[0].getsockname()[1]))
    try:
        yield leg
    finally:
        leg.close()
        server.close()


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Nothing cyclic is freed in the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left() -> Counter[str]:
    """What is there of connections and answers."""
    return Counter(
        type(thing).__name__
        for thing in gc.get_objects()
        if isinstance(thing, Connection | UpstreamConnection | ResponseBody)
    )


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
@pytest.mark.parametrize("end", ["never reads", "leaves", "upstream hangs up"])
def test_a_long_answer_that_breaks_off_leaves_nothing_behind(end: str, new_loop: NewLoop) -> None:
    """Whoever ends it: connection, task, exchange and what was gathered go when it ends."""

    async def main() -> None:
        async with leg_to_long_answers(whole=end != "upstream hangs up") as leg:

            async def relay(request: Request, read_body: ReadBody) -> Response:
                answer = await leg.forward(RECEIPT, LONG)
                return Response(answer.status, stream=answer.stream, length=answer.length)

            seconds = SHORT if end == "never reads" else 30.0
            async with edge(Double(relay), Limits(write_seconds=seconds)) as gate:
                for _ in range(3):
                    if end == "upstream hangs up":
                        assert len(await gate.talk(get())) < len(BODY) + 300
                    else:
                        with silent_socket(gate.port, receive_buffer=2048) as client:
                            client.sendall(get())
                            await until(
                                lambda: any(
                                    connection._writer.streaming
                                    for connection in gate.server.connections
                                )
                            )
                            if end == "leaves":
                                client.close()
                            await until(lambda: not gate.server.connections)
                    await until(lambda: not gate.server.connections and not leg.in_use)
                for _ in range(10):
                    await asyncio.sleep(0.01)  # until the loop lets go of what it has closed
                assert left() == Counter()

    with without_collector():
        run(main(), new_loop)


@pytest.mark.parametrize("new_loop", LOOPS, ids=LOOP_NAMES)
def test_a_long_answer_that_is_refused_leaves_nothing_behind(new_loop: NewLoop) -> None:
    """The million bytes that were gathered of it go at once."""

    async def main() -> None:
        async with leg_to_long_answers() as leg:
            bound = StreamLimit(leg, 0, 0)
            for _ in range(3):
                with contextlib.suppress(Unavailable):
                    await bound.forward(RECEIPT, LONG)
            for _ in range(10):
                await asyncio.sleep(0.01)  # until the loop lets go of what it has closed
            assert left() == Counter()

    with without_collector():
        run(main(), new_loop)
