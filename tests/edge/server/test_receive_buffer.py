"""What a TLS client may send ahead: little, until a body of it was admitted."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from proxy.edge.server.connection import Connection
from proxy.edge.server.receive_buffer import BODY_RECEIVE_BYTES, TLS_RECEIVE_BYTES
from proxy.edge.tls import server_context, upstream_context
from proxy.gate.ports import ReadBody
from proxy.model import Request, Response
from tests.support.edge_server import RecordingHandler, certificate, edge, until
from tests.support.loops import both_loops

LENGTH = 2_000_000


def received(connection: Connection) -> int:
    """Return the bytes that the kernel takes for a server's connection."""
    found = connection.transport.get_extra_info("socket")
    size: int = found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return size // 2  # Linux reserves as much again for itself


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """Make the context of a listener for localhost, with its CA in `tmp_path`."""
    files = certificate(tmp_path)
    return server_context(files.certificate, files.key)


@both_loops
async def test_a_tls_client_sends_little_ahead_until_its_body_is_admitted(
    context: ssl.SSLContext, tmp_path: Path
) -> None:
    """The kernel takes more from the moment in which the handler asks for the body."""
    sizes: list[int] = []

    async def answer(request: Request, read_body: ReadBody) -> Response:
        [connection] = gate.server.connections
        sizes.append(received(connection))
        reading = asyncio.ensure_future(read_body())
        await asyncio.sleep(0)
        sizes.append(received(connection))
        return Response(200, b"%d" % len(await reading), b"text/plain")

    async with edge(RecordingHandler(answer), tls=context) as gate:
        client = await gate.connect(upstream_context(tmp_path / "ca.pem"))
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % LENGTH
        await client.send(head + bytes(LENGTH))
        assert (await client.response()).body == b"%d" % LENGTH
        assert sizes[0] <= TLS_RECEIVE_BYTES
        assert TLS_RECEIVE_BYTES < sizes[1] <= BODY_RECEIVE_BYTES


@both_loops
async def test_a_plain_client_has_the_buffer_of_the_system() -> None:
    """Its bytes are read into one buffer of the loop, and copied into what is counted."""
    async with edge(RecordingHandler()) as gate:
        await gate.connect()
        await until(lambda: gate.server.connections)
        [connection] = gate.server.connections
        assert received(connection) > TLS_RECEIVE_BYTES
