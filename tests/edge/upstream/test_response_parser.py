"""Responses in every framing, good and bad, from an upstream that fails in every way it can."""

import pytest

from proxy.edge.upstream.response_parser import MAX_BYTES_OUTSIDE_BODY
from proxy.errors import Unavailable
from proxy.model import Reason, UpstreamRequest
from tests.support.loops import both_loops
from tests.support.scripted_upstream import (
    HEAD_200,
    OK,
    READ,
    RECEIPT,
    WRITE,
    Conversation,
    body_of,
    pool_and_upstream,
    responding,
)

GOOD: dict[str, tuple[bytes, int, bytes]] = {
    "length": (HEAD_200 + b"Content-Length: 3\r\n\r\nabc", 200, b"abc"),
    "chunks": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        200,
        b"abc",
    ),
    "chunks and trailers": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        200,
        b"abc",
    ),
    "no length, until the end": (HEAD_200 + b"\r\nabc", 200, b"abc"),
    "no length and no body": (HEAD_200 + b"\r\n", 200, b""),
    "an error": (b"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nabc", 500, b"abc"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "304 with the length of the representation": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
        304,
        b"",
    ),
    "after 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"{}"),
    "after two 103": (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Type: a\r\n\r\n" * 2 + OK,
        200,
        b"{}",
    ),
    "no phrase": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b""),
    "more than it should": (OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", 200, b"{}"),
    "garbage behind": (OK + b"garbage", 200, b"{}"),
    "body of a 204": (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", 204, b""),
}
BAD: dict[str, tuple[bytes, Reason]] = {
    "nothing": (b"", Reason.UPSTREAM_CLOSED),
    "half a head": (HEAD_200 + b"Content-Le", Reason.UPSTREAM_CLOSED),
    "too short": (HEAD_200 + b"Content-Length: 5\r\n\r\nabc", Reason.UPSTREAM_CLOSED),
    "half a chunk": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
        Reason.UPSTREAM_CLOSED,
    ),
    "no last chunk": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        Reason.UPSTREAM_CLOSED,
    ),
    "nothing after 100": (b"HTTP/1.1 100 Continue\r\n\r\n", Reason.UPSTREAM_CLOSED),
    "HTML without HTTP": (b"<html>hello</html>", Reason.UPSTREAM_INVALID),
    "garbage": (bytes(range(256)), Reason.UPSTREAM_INVALID),
    "TLS alert": (b"\x15\x03\x01\x00\x02\x02\x46", Reason.UPSTREAM_INVALID),
    "length and chunks": (
        HEAD_200 + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Reason.UPSTREAM_INVALID,
    ),
    "two lengths": (
        HEAD_200 + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        Reason.UPSTREAM_INVALID,
    ),
    "other coding": (HEAD_200 + b"Transfer-Encoding: gzip\r\n\r\nabc", Reason.UPSTREAM_INVALID),
    "two codings": (
        HEAD_200 + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Reason.UPSTREAM_INVALID,
    ),
    "bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", Reason.UPSTREAM_INVALID),
    "another protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc",
        Reason.UPSTREAM_INVALID,
    ),
    "101 out of nowhere": (
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK,
        Reason.UPSTREAM_INVALID,
    ),
    "status 000": (b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n", Reason.UPSTREAM_INVALID),
    "status 999": (b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n", Reason.UPSTREAM_INVALID),
    "endless header": (
        HEAD_200 + b"X: " + b"a" * (MAX_BYTES_OUTSIDE_BODY + 400_000),
        Reason.UPSTREAM_INVALID,
    ),
    "endless headers": (HEAD_200 + b"X: a\r\n" * 80_000, Reason.UPSTREAM_INVALID),
    "endless interim answers": (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, Reason.UPSTREAM_INVALID),
    "endless chunk extension": (
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n3;a=" + b"a" * 500_000,
        Reason.UPSTREAM_INVALID,
    ),
}


@both_loops
@pytest.mark.parametrize("name", GOOD)
async def test_every_framing_gives_the_complete_body(name: str) -> None:
    """Each framing that HTTP/1.1 allows gives the complete body, and the next call gets its own
    response, never a leftover.
    """
    data, status, body = GOOD[name]

    async def script(conversation: Conversation) -> None:
        await conversation.read_request()
        await conversation.send(data if conversation.number == 1 else OK)

    async with pool_and_upstream(script) as (pool, _):
        response = await pool.forward(RECEIPT, READ)
        assert (response.status, await body_of(response)) == (status, body)
        again = await pool.forward(RECEIPT, READ)
        assert (again.status, again.body) == (200, b"{}")


@both_loops
@pytest.mark.parametrize("call", [READ, WRITE], ids=["read", "write"])
@pytest.mark.parametrize("name", BAD)
async def test_a_broken_response_is_one_error(name: str, call: UpstreamRequest) -> None:
    """Each violation gives one reason. Nothing is sent twice, and the connection is closed."""
    data, reason = BAD[name]

    async with pool_and_upstream(responding(data)) as (pool, scripted):
        with pytest.raises(Unavailable) as refused:
            await pool.forward(RECEIPT, call)
        assert refused.value.reason is reason
        assert refused.value.sent
        assert len(scripted.requests) == 1
        assert pool.stats().in_use == 0


async def test_a_response_may_come_in_any_pieces() -> None:
    """The packets into which a response falls change nothing."""
    data, _, body = GOOD["chunks"]

    for at in range(1, len(data)):
        async with pool_and_upstream(responding(data[:at], data[at:], stay=True)) as (pool, _):
            assert (await pool.forward(RECEIPT, READ)).body == body


async def test_headers_of_interim_responses_are_dropped() -> None:
    """Headers of a 103 are not taken for those of the response."""
    async with pool_and_upstream(responding(GOOD["after two 103"][0], stay=True)) as (pool, _):
        response = await pool.forward(RECEIPT, READ)
        assert response.headers == {b"content-type": b"application/json", b"content-length": b"2"}
