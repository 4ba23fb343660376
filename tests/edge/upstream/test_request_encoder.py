"""Requests as the upstream receives them."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.edge.tls import server_context, upstream_context
from proxy.edge.upstream.address import UpstreamAddress
from tests.support.edge_server import certificate
from tests.support.loops import both_loops
from tests.support.scripted_upstream import (
    READ,
    RECEIPT,
    WRITE,
    pool_and_upstream,
    pool_to,
    scripted_upstream,
    serve_all,
)


@both_loops
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_request_of_any_length_arrives_complete(tls: bool, tmp_path: Path) -> None:
    """Head and body are sent joined or apart. The upstream receives the same bytes, and nothing
    after them.
    """
    files = certificate(tmp_path) if tls else None

    serving = server_context(files.certificate, files.key) if files else None
    async with scripted_upstream(serve_all, tls=serving) as scripted:
        asking = upstream_context(files.ca) if files else None
        target = UpstreamAddress(
            port=scripted.port, tls=asking, server_hostname="localhost" if files else None
        )
        async with pool_to(target) as pool:
            sizes = (0, 1, 16_383, 16_384, 16_385, 300_000, 3_000_000)
            for size in sizes:
                assert (
                    await pool.forward(
                        RECEIPT,
                        replace(
                            WRITE, body=bytes(range(256)) * (size // 256) + b"a" * (size % 256)
                        ),
                    )
                ).status == 200
            for size, request in zip(sizes, scripted.requests, strict=True):
                head, _, body = request.partition(b"\r\n\r\n")
                assert head.endswith(b"\r\nContent-Length: %d" % size)
                assert body == bytes(range(256)) * (size // 256) + b"a" * (size % 256)
            assert scripted.connections == 1


async def test_the_upstream_gets_the_configured_credential() -> None:
    """An upstream with a password of its own gets it from the settings."""
    async with pool_and_upstream(
        serve_all, address=UpstreamAddress(authorization=b"Basic YTpi")
    ) as (
        pool,
        scripted,
    ):
        await pool.forward(RECEIPT, replace(READ, accept_gzip=True))
        assert b"\r\nAuthorization: Basic YTpi\r\n" in scripted.requests[0]
        assert b"\r\nAccept-Encoding: gzip\r\n" in scripted.requests[0]
