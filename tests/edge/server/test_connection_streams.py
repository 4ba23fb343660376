"""Responses with a complete body or a stream, as a client sees them."""

import asyncio
from pathlib import Path

import pytest

from proxy.edge.tls import server_context, upstream_context
from proxy.errors import Unavailable
from proxy.model import Reason, Request, Response
from tests.support.edge_server import (
    Parts,
    ReadBody,
    RecordingHandler,
    certificate,
    edge,
    streaming,
    until,
)
from tests.support.loops import both_loops
from tests.support.raw_client import get, parse_responses


@both_loops
async def test_a_stream_without_length_is_chunked() -> None:
    """Parts arrive in order, an empty part does not end the body, and the connection stays open."""
    async with edge(streaming(Parts(b"ab", b"", b"c" * 300_000))) as gate:
        responses = parse_responses(await gate.talk(get() + get()))
        assert [response.body for response in responses] == [b"ab" + b"c" * 300_000, b""]
        assert [response.headers["transfer-encoding"] for response in responses] == [
            "chunked",
            "chunked",
        ]


async def test_a_stream_with_length_is_not_chunked() -> None:
    """A known length is announced."""
    async with edge(streaming(Parts(b"ab", b"", b"cd"), 4)) as gate:
        [response] = parse_responses(await gate.talk(get()))
        assert (response.body, response.headers["content-length"]) == (b"abcd", "4")


@both_loops
@pytest.mark.parametrize("length", [None, 9], ids=["chunked", "length"])
async def test_a_stream_that_fails_aborts_the_connection(length: int | None) -> None:
    """A truncated body is never framed as complete, and no further response follows."""
    stream = Parts(b"abc", Unavailable(Reason.UPSTREAM_CLOSED))
    async with edge(streaming(stream, length)) as gate:
        data = await gate.talk(get() + get())
        assert data.count(b"HTTP/1.1 ") <= 1
        assert not data.endswith(b"0\r\n\r\n")
        assert stream.closed.is_set()


@both_loops
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_stream_is_closed_when_its_client_leaves(tls: bool, tmp_path: Path) -> None:
    """The upstream is released."""
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
async def test_a_silent_stream_is_closed_when_its_client_leaves(
    tmp_path: Path,
) -> None:
    """The upstream need not send anything first."""
    files = certificate(tmp_path)

    class Silent(Parts):
        async def __anext__(self) -> bytes:
            if not self.parts:
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


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_has_no_length(status: int) -> None:
    """RFC 9112 section 6.3: the next response starts after the headers."""

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(status, b"never sent")

    async with edge(RecordingHandler(answer)) as gate:
        responses = parse_responses(await gate.talk(get() + get()))
        assert [
            (response.status, response.body, "content-length" in response.headers)
            for response in responses
        ] == [(status, b"", False)] * 2


@pytest.mark.parametrize("size", [0, 1, 65_536, 131_072, 131_073, 5_000_000])
async def test_a_complete_body_of_any_size_arrives(size: int) -> None:
    """Long bodies are written in slices, which a client cannot see."""
    body = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(200, body[:size])

    async with edge(RecordingHandler(answer)) as gate:
        assert [response.body for response in parse_responses(await gate.talk(get() + get()))] == [
            body[:size]
        ] * 2
