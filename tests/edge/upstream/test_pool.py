"""The pool of connections: reuse, addresses, and an upstream that is not there."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.edge.tls import server_context, upstream_context
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.circuit_breaker import FAILURES
from proxy.errors import Unavailable
from proxy.model import Reason
from tests.support.edge_server import certificate, until
from tests.support.loops import both_loops
from tests.support.scripted_upstream import (
    OK,
    READ,
    RECEIPT,
    WRITE,
    pool_and_upstream,
    pool_to,
    responding,
    scripted_upstream,
    serve_all,
)


async def test_connections_are_reused() -> None:
    """Consecutive calls share a connection, and a request has our own headers only."""
    async with pool_and_upstream(serve_all) as (pool, scripted):
        for _ in range(5):
            await pool.forward(RECEIPT, WRITE)
        assert scripted.connections == 1
        head, body = scripted.requests[0].split(b"\r\n\r\n")
        assert body == WRITE.body
        assert head.split(b"\r\n") == [
            b"POST /api/add_task HTTP/1.1",
            b"Host: 127.0.0.1:%d" % scripted.port,
            b"Content-Type: application/x-www-form-urlencoded",
            b"Content-Length: 11",
        ]


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    """An upstream that closes between calls makes no call fail, not even a write."""
    async with pool_and_upstream(responding(OK)) as (pool, scripted):
        for number in range(1, 4):
            await pool.forward(RECEIPT, WRITE)
            await until(lambda: not pool.stats().idle)
            assert scripted.connections == number


async def test_an_upstream_that_is_down_is_unreachable() -> None:
    """Nothing was sent, and the caller may retry."""
    async with scripted_upstream(serve_all) as scripted:
        port = scripted.port
    async with pool_to(UpstreamAddress(port=port)) as pool:
        # more often than the pool has places: each failure gives its place back
        for _ in range(100):
            with pytest.raises(Unavailable) as refused:
                await pool.forward(RECEIPT, WRITE)
            assert refused.value.reason is Reason.UPSTREAM_UNREACHABLE
            assert not refused.value.sent
            assert refused.value.retry_after


@both_loops
@pytest.mark.parametrize("socket_path", ["", "upstream.sock"], ids=["tcp", "unix"])
async def test_a_lack_of_file_descriptors_does_not_open_the_circuit(
    socket_path: str, tmp_path: Path
) -> None:
    """Calls fail with ``overloaded``, however many, and the first one afterwards is served."""
    path = tmp_path / socket_path if socket_path else None
    async with (
        scripted_upstream(serve_all, path=path) as scripted,
        pool_to(UpstreamAddress(port=scripted.port, socket=str(path or ""))) as pool,
    ):
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))  # which are open already
        try:
            for _ in range(FAILURES + 1):
                with pytest.raises(Unavailable) as refused:
                    await pool.forward(RECEIPT, WRITE)
                assert (refused.value.reason, refused.value.status) == (Reason.OVERLOADED, 503)
                assert (refused.value.retry_after, refused.value.sent) == (1, False)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert not pool.breaker.open
        assert (await pool.forward(RECEIPT, WRITE)).status == 200


@both_loops
async def test_an_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    """A scheduler that listens on a socket file of this machine is reached there."""
    async with (
        scripted_upstream(serve_all, path=tmp_path / "s") as scripted,
        pool_to(UpstreamAddress(socket=str(tmp_path / "s"))) as pool,
    ):
        assert (await pool.forward(RECEIPT, READ)).body == b"{}"
        assert b"\r\nHost: localhost\r\n" in scripted.requests[0]
    async with pool_to(UpstreamAddress(socket=str(tmp_path / "none"))) as pool:
        with pytest.raises(Unavailable) as refused:
            await pool.forward(RECEIPT, READ)
        assert refused.value.reason is Reason.UPSTREAM_UNREACHABLE


@both_loops
async def test_an_upstream_behind_tls(tmp_path: Path) -> None:
    """Its certificate is verified against the given CA, and calls share the connection. One of
    another CA is refused.
    """
    files = certificate(tmp_path / "a")
    other = certificate(tmp_path / "b")

    async with scripted_upstream(
        serve_all, tls=server_context(files.certificate, files.key)
    ) as scripted:
        target = UpstreamAddress(
            port=scripted.port, tls=upstream_context(files.ca), server_hostname="localhost"
        )
        async with pool_to(target) as pool:
            assert (await pool.forward(RECEIPT, READ)).body == b"{}"
            assert (await pool.forward(RECEIPT, WRITE)).body == b"{}"
            assert scripted.connections == 1
        async with pool_to(replace(target, tls=upstream_context(other.ca))) as pool:
            with pytest.raises(Unavailable) as refused:
                await pool.forward(RECEIPT, READ)
            assert refused.value.reason is Reason.UPSTREAM_UNREACHABLE
            assert not refused.value.sent
