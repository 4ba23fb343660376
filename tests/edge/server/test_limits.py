"""What one client may take of the edge: time, bytes, and nothing from anyone else."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.edge.server.connection import REFUSED, Connection
from proxy.edge.server.limits import Limits, Timing
from proxy.edge.server.request_parser import IDLE
from proxy.edge.tls import server_context, upstream_context
from proxy.errors import Rejected, Unavailable
from proxy.model import Reason, Request, Response
from tests.support.edge_server import (
    QUICK,
    Client,
    Edge,
    ReadBody,
    RecordingHandler,
    certificate,
    echo,
    edge,
    get,
    parse_responses,
    post,
    silent_socket,
    until,
)
from tests.support.loops import both_loops

SHORT = 0.05  # seconds; a deadline that is meant to pass
HOUR = 3600.0


def only(gate: Edge) -> Connection:
    """The one open connection."""
    [connection] = gate.server.connections
    return connection


async def refuse_all(request: Request, read_body: ReadBody) -> Response:
    """Refuse before the body is read, as the gate does with a stranger."""
    raise Rejected(Reason.NO_CREDENTIAL)


class Parts:
    """A streamed body; an exception among the parts is raised in its place."""

    def __init__(self, *parts: bytes | Exception, endless: bool = False) -> None:
        self._parts = list(parts)
        self._endless = endless
        self.closed = asyncio.Event()

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if not self._parts:
            raise StopAsyncIteration
        part = self._parts[0] if self._endless else self._parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    async def aclose(self) -> None:
        self.closed.set()


def streaming(stream: Parts, length: int | None = None) -> RecordingHandler:
    """A handler that answers with `stream`."""

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(200, stream=stream, length=length)

    return RecordingHandler(answer)


@contextlib.asynccontextmanager
async def held(
    limits: Limits | None = None, timing: Timing = QUICK
) -> AsyncIterator[tuple[Edge, asyncio.Event]]:
    """An edge whose handler waits for the event before it echoes."""
    go = asyncio.Event()

    async def answer(request: Request, read_body: ReadBody) -> Response:
        await go.wait()
        return await echo(request, read_body)

    async with edge(RecordingHandler(answer), limits, timing=timing) as gate:
        yield gate, go


# -- time


@pytest.mark.parametrize("said", [b"", b"\r\n\r\n"], ids=["nothing", "blank lines"])
async def test_a_client_that_says_nothing_is_closed_without_a_word(said: bytes) -> None:
    """Opening a connection is no request: nothing is answered or recorded."""

    handler = RecordingHandler()
    async with edge(handler, Limits(header_seconds=SHORT)) as gate:
        client = await gate.connect()
        await client.send(said)
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
async def test_a_request_that_does_not_arrive_is_refused(begun: bytes) -> None:
    """Head, small body, large body and chunked body each have a deadline; its passing is answered
    and recorded once.
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
    """One byte at a time is as late as none."""

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
    """A kept-alive client that says no more is let go without a word."""

    handler = RecordingHandler()
    async with edge(handler, Limits(idle_seconds=SHORT)) as gate:
        client = await gate.connect()
        await client.send(get())
        assert (await client.response()).status == 200
        assert await client.rest() == b""
        assert not handler.rejections


async def test_nobody_is_late_while_the_gate_works() -> None:
    """While a request is in hand, neither idle time nor the next request's body is the client's
    fault.
    """

    async with held(Limits(early_bytes=10)) as (gate, go):
        client = await gate.connect()
        await client.send(get("/1") + post(b"b" * 1000, path="/2")[:-500])
        await until(lambda: gate.handler.requests)
        only(gate).check_deadlines(gate.server.now() + HOUR)
        await client.send(b"b" * 500)
        go.set()
        assert (await client.response()).body == b"GET /1 "
        assert (await client.response()).body == b"POST /2 " + b"b" * 1000
        assert not gate.handler.rejections


@pytest.mark.parametrize("header", ["Accept: */*", "Expect: 100-continue"])
async def test_a_large_body_has_its_deadline_only_once_it_is_asked_for(header: str) -> None:
    """The time it takes to learn who is calling is not taken from the client's."""

    async with held(Limits(early_bytes=100 if "Expect" in header else 10)) as (gate, go):
        client = await gate.connect()
        await client.send(post(b"b" * 50, header)[:-50])
        await until(lambda: gate.handler.requests)
        only(gate).check_deadlines(gate.server.now() + HOUR)
        assert only(gate).state < REFUSED
        go.set()
        await until(lambda: only(gate).deadline)
        only(gate).check_deadlines(gate.server.now() + HOUR)
        if "Expect" in header:
            await client.reader.readuntil(b"\r\n\r\n")
        assert (await client.response()).status == 408
        assert gate.handler.reasons == [Reason.REQUEST_TIMEOUT]


async def test_an_answer_may_take_longer_than_any_deadline_of_the_clients() -> None:
    """Once a large body is here, the connection waits for the handler alone."""

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
        await until(lambda: gate.handler.requests and only(gate).deadline)
        await client.send(b"b" * 1000)
        await read.wait()
        only(gate).check_deadlines(gate.server.now() + HOUR)
        go.set()
        assert (await client.response()).body == b"1000"


async def test_a_body_on_a_slow_line_may_take_as_long_as_it_moves_on() -> None:
    """At each deadline enough of it must have come since the last."""

    handler = RecordingHandler()
    async with edge(handler) as gate:
        client = await gate.connect()
        await client.send(post(b"a" * 400_000)[:-300_000])
        await until(lambda: handler.requests and only(gate).deadline)
        await client.send(b"a" * 100_000)
        await until(lambda: only(gate).parser.body_size == 200_000)
        only(gate).check_deadlines(gate.server.now() + HOUR)
        assert only(gate).state < REFUSED
        only(gate).check_deadlines(gate.server.now() + HOUR)
        await handler.rejected.wait()
        assert handler.reasons == [Reason.REQUEST_TIMEOUT]
        assert (await client.response()).status == 408


# -- readers that do not read


@both_loops
@pytest.mark.parametrize("kind", ["whole", "stream"])
async def test_a_reader_that_never_reads_is_cut(kind: str) -> None:
    """Its answer waits for the write deadline and no longer, and a streamed body is let go."""
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
async def test_a_reader_that_never_reads_is_cut_behind_tls_too(tmp_path: Path) -> None:
    """What TLS has encrypted and cannot send counts as unsent."""
    files = certificate(tmp_path)
    stream = Parts(b"a" * 65_536, endless=True)

    handler = streaming(stream)
    async with edge(
        handler, Limits(write_seconds=SHORT), tls=server_context(files.certificate, files.key)
    ) as gate:
        client = await gate.connect(upstream_context(files.ca))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a whole transport
        client.writer.write(get())
        await stream.closed.wait()
        await until(lambda: not gate.server.connections)
        client.writer.transport.abort()


# -- bytes


@both_loops
async def test_a_strangers_large_body_is_not_read() -> None:
    """The refusal comes before the body, and reaches a client that is still sending it."""

    handler = RecordingHandler(refuse_all)
    async with edge(handler, Limits(early_bytes=1000)) as gate:
        client = await gate.connect()
        sending = asyncio.ensure_future(client.send(post(b"a" * 10_000_000)))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (401, "close")
        assert not handler.requests[0].body_complete
        await sending
        await client.rest()


async def test_a_large_body_stays_in_the_socket_until_it_is_asked_for() -> None:
    """What is read of it before its sender is known is one packet more than the limit."""

    async with held(Limits(early_bytes=1000)) as (gate, go):
        client = await gate.connect()
        sending = asyncio.ensure_future(client.send(post(b"a" * 10_000_000)))
        await until(lambda: gate.handler.requests)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert only(gate).parser.body_size <= 1000 + 262_144
        assert gate.handler.requests[0].body == b""
        go.set()
        assert len((await client.response()).body) == 10_000_007
        await sending


async def test_a_refused_client_that_never_stops_sending_is_cut() -> None:
    """Listening to the rest of a refused body has an end, in time and in bytes."""
    async with edge(
        RecordingHandler(refuse_all),
        Limits(early_bytes=1000, body_bytes=50_000_000),
        timing=replace(QUICK, linger=0.2),
    ) as gate:
        client = await gate.connect()
        await client.send(post(b"a" * 40_000_000)[:100_000])
        assert (await client.response()).status == 401
        await until(lambda: not gate.server.connections)


async def test_the_next_request_waits_in_the_socket() -> None:
    """A client cannot make the edge hold more than one request beside the one in hand."""

    async with held() as (gate, go):
        client = await gate.connect()
        await client.send(get("/1"))
        await until(lambda: gate.handler.requests)
        for number in range(2, 40):
            await client.send(get(f"/{number}"))
            await asyncio.sleep(0.001)
        assert len(only(gate).queue) <= 2
        go.set()
        assert [(await client.response()).body for _ in range(39)] == [
            b"GET /%d " % n for n in range(1, 40)
        ]


# -- Expect


@both_loops
async def test_100_continue_is_said_when_the_body_is_wanted() -> None:
    """A client that asks first sends its body once the caller is known, and only then."""

    async with edge(RecordingHandler()) as gate:
        client = await gate.connect()
        request = post(b"abc", "Expect: 100-continue")
        await client.send(request[:-3])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.response()).body == b"POST / abc"
        await client.send(request)  # a client that does not wait for its leave needs none
        assert (await client.response()).body == b"POST / abc"


async def test_a_refused_body_is_not_asked_for() -> None:
    """A stranger gets the refusal in place of ``100 Continue``."""

    async with edge(RecordingHandler(refuse_all)) as gate:
        client = await gate.connect()
        await client.send(post(b"abc", "Expect: 100-continue")[:-3])
        assert (await client.response()).status == 401
        assert await client.rest() == b""


# -- clients that leave


@both_loops
async def test_a_client_that_leaves_does_not_stop_its_call() -> None:
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


async def test_a_client_that_leaves_in_its_body_is_gone() -> None:
    """Half a body is never handed on."""

    handler = RecordingHandler()
    async with edge(handler, Limits(early_bytes=10)) as gate:
        client = await gate.connect()
        await client.send(post(b"a" * 100)[:-50])
        await until(lambda: handler.requests)
        client.writer.close()
        await handler.rejected.wait()
        assert handler.reasons == [Reason.CLIENT_GONE]


@both_loops
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_stream_ends_with_its_reader(tls: bool, tmp_path: Path) -> None:
    """A client that leaves in the middle of a body lets the upstream go."""
    files = certificate(tmp_path)

    stream = Parts(b"a" * 1000, endless=True)
    context = server_context(files.certificate, files.key) if tls else None
    async with edge(streaming(stream), tls=context) as gate:
        client = await gate.connect(upstream_context(files.ca) if tls else None)
        await client.send(get())
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.transport.abort()
        await stream.closed.wait()
        await until(lambda: not gate.server.connections)


@both_loops
async def test_a_stream_ends_with_its_reader_even_while_the_upstream_is_silent(
    tmp_path: Path,
) -> None:
    """A client known to have gone is reason enough to let the upstream go; it need not say anything
    more first.
    """
    files = certificate(tmp_path)

    class Silent(Parts):
        async def __anext__(self) -> bytes:
            if not self._parts:
                await asyncio.Event().wait()
            return await super().__anext__()

    stream = Silent(b"a" * 1000)
    async with edge(streaming(stream), tls=server_context(files.certificate, files.key)) as gate:
        client = await gate.connect(upstream_context(files.ca))
        await client.send(get())
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.transport.abort()
        await stream.closed.wait()
        await until(lambda: not gate.server.connections)


# -- streams


@both_loops
async def test_a_stream_without_length_is_chunked() -> None:
    """Parts arrive in order, an empty one ends nothing, and the connection serves the next request."""

    async with edge(streaming(Parts(b"ab", b"", b"c" * 300_000))) as gate:
        responses = parse_responses(await gate.talk(get() + get()))
        assert [response.body for response in responses] == [b"ab" + b"c" * 300_000, b""]
        assert [response.headers["transfer-encoding"] for response in responses] == [
            "chunked",
            "chunked",
        ]


async def test_a_stream_with_length_is_sent_as_it_is() -> None:
    """A length that is known is announced."""

    async with edge(streaming(Parts(b"ab", b"", b"cd"), 4)) as gate:
        [response] = parse_responses(await gate.talk(get()))
        assert (response.body, response.headers["content-length"]) == (b"abcd", "4")


@both_loops
@pytest.mark.parametrize("length", [None, 9], ids=["chunked", "length"])
async def test_a_stream_that_breaks_cuts_the_connection(length: int | None) -> None:
    """A body that the upstream did not finish never looks whole, and nothing more is answered."""

    stream = Parts(b"abc", Unavailable(Reason.UPSTREAM_CLOSED))
    async with edge(streaming(stream, length)) as gate:
        data = await gate.talk(get() + get())
        assert data.count(b"HTTP/1.1 ") <= 1
        assert not data.endswith(b"0\r\n\r\n")
        assert stream.closed.is_set()


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_has_no_length(status: int) -> None:
    """RFC 9112 section 6.3: the next answer starts after the headers."""

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(status, b"never sent")

    async with edge(RecordingHandler(answer)) as gate:
        responses = parse_responses(await gate.talk(get() + get()))
        assert [
            (response.status, response.body, "content-length" in response.headers)
            for response in responses
        ] == [(status, b"", False)] * 2


@pytest.mark.parametrize("size", [0, 1, 65_536, 131_072, 131_073, 5_000_000])
async def test_a_whole_answer_of_any_size_arrives(size: int) -> None:
    """Long answers are written in slices, which nobody sees."""
    body = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(200, body[:size])

    async with edge(RecordingHandler(answer)) as gate:
        assert [response.body for response in parse_responses(await gate.talk(get() + get()))] == [
            body[:size]
        ] * 2


# -- keeping alive, and the end


@pytest.mark.parametrize("value", ["close", "Close", "keep-alive, close"])
async def test_a_client_that_wants_to_close_is_let_go(value: str) -> None:
    """The response says so too, and what follows is not served."""

    handler = RecordingHandler()
    async with edge(handler) as gate:
        client = await gate.connect()
        await client.send(get("/1", f"Connection: {value}") + get("/2"))
        [response] = parse_responses(await client.rest())
        assert response.headers["connection"] == "close"
        assert [request.path for request in handler.requests] == ["/1"]


@both_loops
async def test_a_client_at_rest_is_remembered_for_a_while_only() -> None:
    """The heads that it repeats are let go while it rests, and it is served as before when it comes
    back.
    """

    async with edge(RecordingHandler()) as gate:
        client = await gate.connect()
        for _ in range(3):
            await client.send(post(b"abc"))
            assert (await client.response()).body == b"POST / abc"
            await until(lambda: only(gate).idle)
            assert len(only(gate).parser.head_cache.entries) == 1
            only(gate).check_deadlines(gate.server.now() + 9.0)
            assert len(only(gate).parser.head_cache.entries) == 1
            only(gate).check_deadlines(gate.server.now() + 11.0)
            assert not only(gate).parser.head_cache.entries


@both_loops
@pytest.mark.parametrize("at", ["rest", "work"])
async def test_a_connection_ends_with_its_loop(at: str) -> None:
    """A task that waits for a request can be cancelled like any other, and so can one that has a
    request in hand.
    """

    async with held() as (gate, _):
        client = await gate.connect()
        await until(lambda: gate.server.connections)
        if at == "work":
            await client.send(get())
            await until(lambda: gate.handler.requests)
        task = only(gate).task
        assert task is not None
        await asyncio.sleep(0)
        assert task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await client.rest() == b""


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
        connection = only(gate)
        await until(lambda: connection.idle)

        def arrive() -> None:
            connection.data_received(get("/2") + get("/3"))
            order.append("received")
            gate.server.loop.call_soon(order.append, "next iteration")

        gate.server.loop.call_soon(arrive)
        assert [(await client.response()).status for _ in range(2)] == [200, 200]
        assert order == ["/1", "received", "/2", "/3", "next iteration"]


@both_loops
async def test_draining_answers_what_has_begun() -> None:
    """Idle connections close after a moment; a request in hand, one half sent, and a client that
    has just come are answered.
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
async def test_draining_answers_once_more_on_a_kept_connection() -> None:
    """A client that uses its idle connection at the moment of a hand-over is answered, told to
    close, and loses no call.
    """
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
async def test_draining_waits_for_a_handshake_under_way(tmp_path: Path) -> None:
    """A client that was accepted just before is served, though its connection does not stand yet."""
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


async def test_draining_does_not_wait_for_a_client_that_says_nothing() -> None:
    """A client that has just come gets a moment for its first bytes, and not the whole time of a
    head.
    """
    timing = replace(QUICK, first_byte=SHORT)
    async with edge(RecordingHandler(), Limits(header_seconds=HOUR), timing=timing) as gate:
        client = await gate.connect()
        await until(lambda: gate.server.connections)
        await gate.server.drain(HOUR)
        assert await client.rest() == b""


async def test_draining_has_an_end() -> None:
    """What is not done in time is cut."""

    async with held() as (gate, go):
        client = await gate.connect()
        await client.send(get())
        await until(lambda: gate.handler.requests)
        await gate.server.drain(SHORT)
        assert await client.rest() == b""
        go.set()


async def test_a_client_is_named_by_its_socket() -> None:
    """Where a call came from is read from the connection; what headers claim of it stays a header."""

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
async def test_tls_clients_are_served_alike(tmp_path: Path) -> None:
    """Keep-alive, large bodies both ways, refusals and closing work behind TLS as in front of it."""
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
