"""Accepting: limits, handshakes that fail or never end, and certificates that change."""

import asyncio
import contextlib
import gc
import os
import socket
from pathlib import Path

import pytest

from proxy.common.address import address_key
from proxy.edge.server.connection import Connection
from proxy.edge.server.listener import _peer_address, bind
from proxy.edge.tls import ReloadingCertificate, server_context, upstream_context
from proxy.model import Reason
from tests.support.edge_server import RecordingHandler, certificate, edge, until
from tests.support.loops import both_loops
from tests.support.raw_client import get


@both_loops
async def test_an_unfinished_handshake_counts_until_its_deadline(tmp_path: Path) -> None:
    """A silent client holds a place until the deadline of the handshake."""
    files = certificate(tmp_path)

    handler = RecordingHandler()
    context = server_context(files.certificate, files.key)
    async with edge(handler, tls=context, per_address=1, handshake_seconds=0.5) as gate:
        silent = await gate.connect()
        await until(lambda: gate.listener.limit.open == 1)
        refused = await gate.connect()
        assert await refused.rest() == b""
        assert handler.reasons == [Reason.TOO_MANY_CONNECTIONS]
        assert await silent.rest() == b""
        await until(lambda: gate.listener.limit.open == 0)
        gate.listener.handshake_seconds = 20.0  # for a handshake that is meant to succeed
        client = await gate.connect(upstream_context(files.ca))
        await client.send(get())
        assert (await client.response()).status == 200


@both_loops
@pytest.mark.parametrize(
    "hello",
    [b"\x16\x03\x01\x00\x05hello", b"\x00" + os.urandom(300), b"\x80" + os.urandom(300), b""],
    ids=["bad hello", "noise", "noise like SSL 2", "nothing"],
)
async def test_a_failed_handshake_releases_its_place(hello: bytes, tmp_path: Path) -> None:
    """Bytes that are not TLS are closed at once and counted, and the loop logs nothing."""
    files = certificate(tmp_path)

    handler = RecordingHandler()
    async with edge(
        handler, tls=server_context(files.certificate, files.key), per_address=1
    ) as gate:
        for _ in range(3):
            client = await gate.connect()
            await client.send(hello)
            client.writer.write_eof()
            assert b"HTTP" not in await client.rest()
            await until(lambda: gate.listener.limit.open == 0)
        assert gate.server.failed_handshakes == 3
        assert not handler.requests
        assert not handler.rejections


@both_loops
@pytest.mark.parametrize("caps", [(2, 100), (100, 2)], ids=["total", "per address"])
async def test_connections_are_limited(caps: tuple[int, int]) -> None:
    """A connection over the limit is closed without a response and recorded.

    Open connections are served, and a place that becomes free is used.
    """
    handler = RecordingHandler()
    async with edge(handler, connections=caps[0], per_address=caps[1]) as gate:
        first, second = await gate.connect(), await gate.connect()
        third = await gate.connect()
        assert await third.rest() == b""
        assert handler.reasons == [Reason.TOO_MANY_CONNECTIONS]
        for client in (first, second):
            await client.send(get())
            assert (await client.response()).status == 200
        first.writer.close()
        await until(lambda: gate.listener.limit.open == 1)
        fourth = await gate.connect()
        await fourth.send(get())
        assert (await fourth.response()).status == 200
        assert len(handler.rejections) == 1


@both_loops
async def test_a_flood_of_connections_does_not_stop_open_ones() -> None:
    """An open connection is answered, call after call, while hundreds are rejected."""
    handler = RecordingHandler()
    async with edge(handler, per_address=1) as gate:
        inside = await gate.connect()
        await inside.send(get())
        await inside.response()
        turned_away = 0
        for _ in range(10):
            with contextlib.ExitStack() as flood:
                for _ in range(100):
                    client = flood.enter_context(socket.socket())
                    client.setblocking(False)
                    client.connect_ex(("127.0.0.1", gate.port))
                await inside.send(get())
                assert (await inside.response()).status == 200
                turned_away += 100
                await until(lambda: len(handler.rejections) == turned_away)  # noqa: B023  (it is called before the next round)


@both_loops
async def test_a_new_certificate_is_used_without_dropping_a_connection(tmp_path: Path) -> None:
    """New handshakes use the new certificate; open connections go on."""
    files = certificate(tmp_path / "live")
    old = upstream_context(files.ca)
    watched = ReloadingCertificate(files.certificate, files.key)

    async with edge(RecordingHandler(), tls=watched.context) as gate:
        before = await gate.connect(old)
        await before.send(get("/1"))
        assert (await before.response()).body == b"GET /1 "
        fresh = certificate(tmp_path / "live")
        assert watched.reload_if_changed()
        after = await gate.connect(upstream_context(fresh.ca))
        for client in (before, after):
            await client.send(get("/2"))
            assert (await client.response()).body == b"GET /2 "
        with pytest.raises(OSError):
            await gate.connect(old)


@both_loops
async def test_a_closed_listener_accepts_no_client() -> None:
    """The kernel refuses new clients; open connections stay open."""
    async with edge(RecordingHandler()) as gate:
        inside = await gate.connect()
        await inside.send(get())
        await inside.response()
        gate.listener.close()
        with pytest.raises(OSError):
            await gate.connect()
        await inside.send(get())
        assert (await inside.response()).status == 200


@both_loops
async def test_accepted_sockets_inherit_their_options() -> None:
    """Small responses leave at once, and the kernel buffers little of a long one."""
    async with edge(RecordingHandler()) as gate:
        await gate.connect()
        await until(lambda: gate.server.connections)
        [connection] = gate.server.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 131_072


@both_loops
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_closed_connection_is_freed_at_once(tls: bool, tmp_path: Path) -> None:
    """Workers make one connection a call; its memory must not wait for the garbage collector."""
    files = certificate(tmp_path)
    context = server_context(files.certificate, files.key) if tls else None
    gc.collect()
    gc.freeze()  # what was there before is not looked through
    gc.disable()
    try:
        async with edge(RecordingHandler(), tls=context) as gate:
            for _ in range(5):
                client = await gate.connect(upstream_context(files.ca) if tls else None)
                await client.send(get("/", "Connection: close"))
                await client.rest()
            await until(lambda: not gate.listener.limit.open)
            await asyncio.sleep(0)
            await until(
                lambda: not any(isinstance(thing, Connection) for thing in gc.get_objects())
            )
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize(
    ("peer", "address", "counted_as"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::1", "::/64"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::/64"),
    ],
)
def test_addresses_are_counted_by_host(peer: str, address: str, counted_as: str) -> None:
    """An IPv6 host has a /64; an IPv4 host is one, however the socket spells it."""
    assert _peer_address(peer) == address
    assert address_key(address) == counted_as


def test_processes_can_share_a_port() -> None:
    """With `reuse_port` a second socket binds the same port; without it the port is taken."""
    with bind("127.0.0.1", 0, reuse_port=True) as first:
        port = first.getsockname()[1]
        with bind("127.0.0.1", port, reuse_port=True) as second:
            assert second.getsockname()[1] == port
        with pytest.raises(OSError):
            bind("127.0.0.1", port)
