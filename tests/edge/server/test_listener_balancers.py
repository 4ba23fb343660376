"""A listener behind balancers: who may connect, whose connection it is, and what is counted."""

from pathlib import Path

import pytest

from proxy.common.address import Networks
from proxy.edge.server import listener
from proxy.edge.tls import server_context, upstream_context
from proxy.model import Reason
from tests.support.edge_server import RecordingHandler, certificate, edge, until
from tests.support.loops import both_loops
from tests.support.raw_client import get

HERE = Networks(["127.0.0.0/8"])
LINE = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n"


@both_loops
async def test_the_client_is_the_one_that_the_balancer_names() -> None:
    """The record has the balancer's address, too."""
    handler = RecordingHandler()
    async with edge(handler, balancers=HERE) as gate:
        client = await gate.connect()
        await client.send(LINE + get())
        assert (await client.response()).status == 200
        peer = handler.requests[0].peer
        assert (peer.address, peer.port, peer.hop) == ("192.0.2.7", 4711, "127.0.0.1")


@both_loops
@pytest.mark.parametrize("line", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"])
async def test_a_balancers_own_connection_keeps_its_address(line: bytes) -> None:
    """A health check of the balancer itself."""
    handler = RecordingHandler()
    async with edge(handler, balancers=HERE) as gate:
        client = await gate.connect()
        await client.send(line + get())
        assert (await client.response()).status == 200
        peer = handler.requests[0].peer
        assert (peer.address, peer.hop) == ("127.0.0.1", None)


@both_loops
async def test_the_header_comes_before_tls(tmp_path: Path) -> None:
    """TLS without it is refused before a handshake, and TLS behind it is served."""
    files = certificate(tmp_path)
    handler = RecordingHandler()
    context = server_context(files.certificate, files.key)
    async with edge(handler, tls=context, balancers=HERE) as gate:
        bare = await gate.connect()
        await bare.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32))
        assert await bare.rest() == b""
        assert handler.reasons == [Reason.BAD_CLIENT_ADDRESS]
        client = await gate.connect()
        await client.send(LINE)
        await client.writer.start_tls(upstream_context(files.ca), server_hostname="localhost")
        await client.send(get())
        assert (await client.response()).status == 200
        assert handler.requests[0].peer.address == "192.0.2.7"
        assert gate.server.failed_handshakes == 0


@both_loops
@pytest.mark.parametrize("data", [get(), LINE + LINE + get(), LINE[:-2] + b" x\r\n" + get()])
async def test_without_one_header_nothing_is_served(data: bytes) -> None:
    """No header, two headers, and a malformed one. The place is free again."""
    handler = RecordingHandler()
    async with edge(handler, balancers=HERE) as gate:
        client = await gate.connect()
        await client.send(data)
        client.writer.write_eof()
        assert b"200" not in await client.rest()
        assert not handler.requests
        assert handler.reasons[0] in (Reason.BAD_CLIENT_ADDRESS, Reason.BAD_REQUEST)
        await until(lambda: gate.listener.limit.open == 0)


@both_loops
async def test_a_peer_that_is_not_listed_is_closed() -> None:
    """Whatever it says of itself, and before it has said it."""
    handler = RecordingHandler()
    async with edge(handler, balancers=Networks(["192.0.2.0/24"])) as gate:
        client = await gate.connect()
        assert await client.rest() == b""
        assert handler.reasons == [Reason.BAD_CLIENT_ADDRESS]
        assert gate.listener.limit.open == 0


@both_loops
async def test_a_silent_connection_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is free again, and the record says why."""
    monkeypatch.setattr(listener, "PROXY_HEADER_SECONDS", 0.1)
    handler = RecordingHandler()
    async with edge(handler, balancers=HERE) as gate:
        client = await gate.connect()
        await client.send(LINE[:20])
        assert await client.rest() == b""
        assert handler.reasons == [Reason.BAD_CLIENT_ADDRESS]
        await until(lambda: gate.listener.limit.open == 0)


@both_loops
async def test_connections_count_for_the_client_and_not_for_its_balancer() -> None:
    """One client over its limit is refused; others come through the same balancer."""
    handler = RecordingHandler()
    async with edge(handler, balancers=HERE, per_address=2) as gate:
        for number in range(6):
            client = await gate.connect()
            await client.send(LINE.replace(b".7", b".%d" % (number // 2)) + get())
            assert (await client.response()).status == 200
        over = await gate.connect()
        await over.send(LINE.replace(b".7", b".1") + get())
        assert await over.rest() == b""
        assert handler.reasons == [Reason.TOO_MANY_CONNECTIONS]
        assert gate.listener.limit.open == 6
        peer = handler.rejected_peers[0]
        assert (peer.address, peer.port, peer.hop) == ("192.0.2.1", 4711, "127.0.0.1")
