"""What clients make the process hold counts against its memory budget, until it is let go."""

import asyncio
import contextlib
import tracemalloc

import pytest

from proxy.common.memory_budget import FREE_BYTES, MemoryBudget
from proxy.edge.server.connection import HEADER_BYTES
from proxy.edge.server.limits import Limits, Timing
from proxy.errors import Rejected, Unavailable
from proxy.gate.ports import ReadBody
from proxy.model import Reason, Request, Response
from tests.support.edge_server import QUICK, Edge, RecordingHandler, echo, edge, until
from tests.support.loops import both_loops
from tests.support.raw_client import Client, get, parse_responses, silent_socket

HERE = "127.0.0.1"
# Of a body that is complete before the caller is identified, all but the last byte.
EARLY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + bytes(65_535)
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 60_000
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (100_000, bytes(100_000))
# An eighth of it, which one address may hold, is 512 KiB.
SMALL_BUDGET = 4 << 20


def announced(length: int) -> bytes:
    """Return the head of a request with a body of `length` bytes."""
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length


class Claiming(RecordingHandler):
    """A handler that claims every body for one principal, as the gate does, and waits."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self.go = asyncio.Event()
        self.claimed = 0
        super().__init__(self._answer)

    async def _answer(self, request: Request, read_body: ReadBody) -> Response:
        memory = self.budget.for_principal("p")
        try:
            body = request.body
            if not request.body_complete:
                body = await read_body(memory)
            elif request.on_claimed is not None:
                memory.resize(len(body))
                request.on_claimed()
            self.claimed += 1
            await self.go.wait()
            return Response(200, b"%d" % len(body), b"text/plain")
        finally:
            memory.release()


async def fill(gate: Edge, data: bytes, count: int) -> list[Client]:
    """Return so many clients that have sent `data`."""
    clients = [await gate.connect() for _ in range(count)]
    for client in clients:
        await client.send(data)
    return clients


@both_loops
@pytest.mark.parametrize("data", [EARLY, HEAD], ids=["body", "head"])
async def test_an_address_holds_its_share_before_anyone_is_identified(data: bytes) -> None:
    """The client that would hold more is refused at once; the others, and small ones, are served."""
    budget = MemoryBudget(SMALL_BUDGET)
    handler = RecordingHandler()
    async with edge(handler, memory=budget) as gate:
        clients = await fill(gate, data, 12)
        await until(lambda: len(handler.rejections) >= 4)
        assert set(handler.reasons) == {Reason.OVERLOADED}
        assert budget.held_by_address(HERE) <= SMALL_BUDGET // 8
        refused = 0
        for client in clients:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    assert (await client.response()).status == 503
                    refused += 1
        assert 4 <= refused == len(handler.rejections) < 12
        assert b" 200 " in await gate.talk(get())
        for client in clients:
            client.writer.close()
        await until(lambda: not gate.server.connections)
        assert budget.in_use == 0


@both_loops
async def test_the_old_behaviour_held_whatever_came() -> None:
    """With a budget that is none, every client holds what it has sent."""
    budget = MemoryBudget(1 << 50)
    handler = RecordingHandler()
    async with edge(handler, memory=budget) as gate:
        clients = await fill(gate, EARLY, 40)
        await until(lambda: budget.in_use > 39 * 65_000)
        assert not handler.rejections
        for client in clients:
            client.writer.close()
        await until(lambda: not gate.server.connections)
        assert budget.in_use == 0


@both_loops
async def test_requests_behind_one_that_is_handled_are_charged() -> None:
    """Nobody has claimed them; they are let go one by one as they are handled."""
    budget = MemoryBudget()
    handler = Claiming(budget)
    async with edge(handler, memory=budget) as gate:
        client = await gate.connect()
        request = announced(20_000) + bytes(20_000)
        await client.send(request * 4)
        await until(lambda: budget.held_by_address(HERE) >= 2 * 20_000)
        await until(lambda: budget.held_by_principal("p") == 20_000)
        handler.go.set()
        for _ in range(4):
            assert (await client.response()).status == 200
        await until(lambda: budget.in_use == 0)


@both_loops
async def test_a_claimed_body_is_charged_to_the_principal_alone() -> None:
    """The address is charged until the handler claims the body that came with its request."""
    budget = MemoryBudget()
    unclaimed: list[int] = []

    async def answer(request: Request, read_body: ReadBody) -> Response:
        unclaimed.append(budget.held_by_address(HERE))
        assert request.on_claimed is not None
        request.on_claimed()
        unclaimed.append(budget.held_by_address(HERE))
        return await echo(request, read_body)

    async with edge(RecordingHandler(answer), memory=budget) as gate:
        client = await gate.connect()
        await client.send(announced(50_000) + bytes(50_000))
        assert (await client.response()).status == 200
        assert unclaimed == [50_000, 0]


@both_loops
async def test_a_small_body_does_not_count() -> None:
    """Nothing is charged for it, and the handler has nothing to claim."""
    budget = MemoryBudget()

    async def answer(request: Request, read_body: ReadBody) -> Response:
        assert request.on_claimed is None
        assert budget.in_use == 0
        return await echo(request, read_body)

    async with edge(RecordingHandler(answer), memory=budget) as gate:
        client = await gate.connect()
        await client.send(announced(FREE_BYTES - 1) + bytes(FREE_BYTES - 1))
        assert (await client.response()).status == 200


@both_loops
async def test_a_body_that_nobody_claims_is_charged_until_the_response() -> None:
    """A refusal before the body, for example, for lack of a credential."""
    budget = MemoryBudget()
    held: list[int] = []

    async def answer(request: Request, read_body: ReadBody) -> Response:
        held.append(budget.held_by_address(HERE))
        return Response(401)

    async with edge(RecordingHandler(answer), memory=budget) as gate:
        client = await gate.connect()
        await client.send(announced(50_000) + bytes(50_000))
        assert (await client.response()).status == 401
        assert held == [50_000]
        assert budget.in_use == 0


@both_loops
async def test_an_announced_body_is_refused_before_it_is_sent() -> None:
    """The whole length is charged when the handler asks for the body: 503 at once."""
    budget = MemoryBudget(64 << 20)
    handler = Claiming(budget)
    async with edge(handler, memory=budget) as gate:
        first = await gate.connect()
        await first.send(announced(15_000_000))
        await until(lambda: budget.held_by_principal("p") == 16_875_000)
        assert budget.held_by_address(HERE) == 0
        second = await gate.connect()
        await second.send(announced(15_000_000))
        [response] = parse_responses(await second.rest())
        assert response.status == 503
        assert handler.reasons == [Reason.OVERLOADED]
        handler.go.set()
        await first.send(bytes(15_000_000))
        assert (await first.response()).body == b"15000000"
        await until(lambda: budget.in_use == 0)


@both_loops
async def test_a_chunked_body_is_charged_as_it_grows() -> None:
    """Its length is not known before; it is refused when it becomes too long for its principal."""
    budget = MemoryBudget(16 << 20)
    handler = Claiming(budget)
    async with edge(handler, Limits(), memory=budget) as gate:
        other = budget.for_principal("p")
        other.resize(3_500_000)
        client = await gate.connect()
        await client.send(CHUNKED + CHUNK * 5)
        await until(lambda: budget.held_by_principal("p") >= 3_500_000 + 450_000)
        assert not handler.rejections
        await client.send(CHUNK * 5)
        response = await client.response()
        assert response.status == 503
        await until(lambda: budget.held_by_principal("p") == 3_500_000)
        other.release()


@both_loops
async def test_a_refused_client_that_lingers_holds_nothing() -> None:
    """What had arrived of its body is dropped when it is refused, not when it leaves."""
    budget = MemoryBudget(16 << 20)
    handler = Claiming(budget)
    timing = Timing(sweep=QUICK.sweep, linger=20.0)
    async with edge(handler, memory=budget, timing=timing) as gate:
        other = budget.for_principal("p")
        other.resize(3_500_000)
        client = await gate.connect()
        await client.send(CHUNKED + CHUNK * 8)
        assert (await client.response()).status == 503
        [connection] = gate.server.connections
        assert connection.parser.buffered == 0
        assert budget.in_use == 3_500_000
        client.writer.close()


@both_loops
async def test_a_client_that_is_refused_before_its_body_holds_nothing() -> None:
    """The first bytes of a body that the handler did not want are dropped with the response."""
    budget = MemoryBudget()

    async def answer(request: Request, read_body: ReadBody) -> Response:
        raise Rejected(Reason.NO_CREDENTIAL)

    timing = Timing(sweep=QUICK.sweep, linger=20.0)
    async with edge(RecordingHandler(answer), memory=budget, timing=timing) as gate:
        client = await gate.connect()
        await client.send(announced(10_000_000) + bytes(200_000))
        assert (await client.response()).status == 401
        await until(lambda: budget.in_use == 0)
        [connection] = gate.server.connections
        assert connection.parser.buffered == 0
        client.writer.close()


@both_loops
async def test_a_client_that_leaves_gives_all_of_it_back() -> None:
    """While its body arrives, while it waits in the queue, and while it is handled."""
    budget = MemoryBudget()
    handler = Claiming(budget)
    async with edge(handler, memory=budget) as gate:
        clients = [
            *await fill(gate, EARLY, 2),
            *await fill(gate, announced(1_000_000) + bytes(500_000), 2),
            *await fill(gate, (announced(20_000) + bytes(20_000)) * 3, 2),
        ]
        await until(lambda: handler.claimed >= 2 and budget.in_use > 2_000_000)
        for client in clients:
            client.writer.transport.abort()
        handler.go.set()
        await until(lambda: not gate.server.connections)
        await until(lambda: budget.in_use == 0)


@both_loops
@pytest.mark.parametrize("end", ["reads", "leaves"])
async def test_an_answer_is_held_until_its_client_has_it(end: str) -> None:
    """`on_sent` is called once, and not before the client has taken the body or left."""
    sent: list[str] = []

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(
            200, bytes(8_000_000), b"text/plain", on_sent=lambda: sent.append(request.path)
        )

    async with edge(RecordingHandler(answer)) as gate:
        with silent_socket(gate.port, receive_buffer=2048) as client:
            client.sendall(get("/x"))
            await until(lambda: gate.server.connections)
            for _ in range(50):
                await asyncio.sleep(0.002)
            assert not sent
            if end == "leaves":
                client.close()
            else:
                client.setblocking(False)
                left = 8_000_000
                while left > 0:
                    with contextlib.suppress(BlockingIOError):
                        left -= len(client.recv(1 << 20))
                    await asyncio.sleep(0)
            await until(lambda: sent)
        await until(lambda: not gate.server.connections)
        assert sent == ["/x"]


@both_loops
async def test_a_small_answer_is_sent_at_once() -> None:
    """It is in the kernel when the next request is read."""
    sent: list[str] = []

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(200, b"x", on_sent=lambda: sent.append(request.path))

    async with edge(RecordingHandler(answer)) as gate:
        client = await gate.connect()
        for path in ("/1", "/2"):
            await client.send(get(path))
            await client.response()
        assert sent == ["/1", "/2"]


@both_loops
async def test_an_idle_connection_keeps_neither_its_last_body_nor_its_last_answer() -> None:
    """Hundreds of idle connections would hold what no budget counts."""

    async def answer(request: Request, read_body: ReadBody) -> Response:
        body = await read_body()
        return Response(200, body + b"x", b"text/plain")

    async with edge(RecordingHandler(answer)) as gate:
        gate.handler.requests = _Forgetful()
        client = await gate.connect()
        tracemalloc.start()
        try:
            for _ in range(2):
                await client.send(announced(5_000_000) + bytes(5_000_000))
                assert len((await client.response()).body) == 5_000_001
                await until(lambda: gate.server.connections)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert tracemalloc.get_traced_memory()[0] < 1_000_000
        finally:
            tracemalloc.stop()


@both_loops
async def test_the_heads_of_queued_requests_are_charged() -> None:
    """64 pipelined requests of a hundred headers each take more than their bytes."""
    budget = MemoryBudget()
    handler = Claiming(budget)
    async with edge(handler, memory=budget) as gate:
        client = await gate.connect()
        lines = b"".join(b"%d:\r\n" % number for number in range(100))
        await client.send((b"POST / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n") * 60)
        await until(lambda: budget.held_by_address(HERE) > 50 * 100 * HEADER_BYTES)
        handler.go.set()
        client.writer.transport.abort()
        await until(lambda: budget.in_use == 0)


@both_loops
async def test_a_large_head_is_charged_while_its_request_is_handled() -> None:
    """It lives as long as the request, which may wait for its upstream."""
    budget = MemoryBudget()
    held: list[int] = []

    async def answer(request: Request, read_body: ReadBody) -> Response:
        held.append(budget.held_by_address(HERE))
        return Response(200)

    async with edge(RecordingHandler(answer), memory=budget) as gate:
        assert b" 200 " in await gate.talk(HEAD + b"\r\n\r\n")
        assert held[0] > 60_000
        await until(lambda: budget.in_use == 0)


@both_loops
async def test_a_connection_that_is_lost_keeps_no_byte_of_a_body() -> None:
    """Something may refer to it until the next collection of garbage, as TLS transports do."""
    budget = MemoryBudget()
    handler = Claiming(budget)
    async with edge(handler, memory=budget) as gate:
        [client] = await fill(gate, announced(10_000_000) + bytes(5_000_000), 1)
        [connection] = gate.server.connections
        await until(lambda: connection.parser.buffered == 5_000_000)
        client.writer.transport.abort()
        await until(lambda: not gate.server.connections)
        assert connection.parser.buffered == 0
        assert not connection.queue


class _Forgetful(list[Request]):
    """A list that keeps no request."""

    def append(self, item: Request) -> None:
        return


async def test_a_refusal_for_lack_of_memory_says_when_to_come_again() -> None:
    """The error has a time for Retry-After."""
    budget = MemoryBudget(16)
    with pytest.raises(Unavailable) as caught:
        budget.for_principal("p").resize(17)
    assert caught.value.retry_after == 1
