"""After a framing error the edge closes: earlier requests are answered, later ones are not."""

import asyncio

import pytest

from proxy.edge.server.limits import Limits
from tests.edge.server.test_request_parser import (
    AFTER,
    CHUNKED,
    CODING,
    LENGTH_3,
    POST,
    REFUSED,
    H,
)
from tests.support.amount import some
from tests.support.edge_server import RecordingHandler, edge
from tests.support.loops import both_loops
from tests.support.raw_client import get, parse_responses, post

MORE: dict[str, tuple[bytes, int]] = {
    # targets (RFC 9112 section 3.2)
    "absolute target of https elsewhere": (b"GET https://x/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "absolute target elsewhere": (
        b"PUT http://other/ HTTP/1.1\r\n" + H + LENGTH_3 + b"\r\nabc",
        400,
    ),
    "absolute target of no scheme we know": (b"GET gopher://gate/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "authority as a target": (b"GET gate:443 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "asterisk of another verb": (b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400),
    "asterisk behind a slash's place": (b"OPTIONS *x HTTP/1.1\r\n" + H + b"\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "no target": (b"GET  HTTP/1.1\r\n" + H + b"\r\n", 400),
    # hosts
    "host with a space": (b"GET / HTTP/1.1\r\nHost: ga te\r\n\r\n", 400),
    "host with a fragment": (b"GET / HTTP/1.1\r\nHost: gate#x\r\n\r\n", 400),
    "host with a port too long": (b"GET / HTTP/1.1\r\nHost: gate:844300\r\n\r\n", 400),
    "host of half an IPv6 address": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "three hosts": (b"GET / HTTP/1.1\r\n" + 3 * H + b"\r\n", 400),
    "a folded host": (b"GET / HTTP/1.1\r\nHost:\r\n gate\r\n\r\n", 400),
    # lengths and codings together, in odd spellings
    "odd cases": (POST + b"content-length: 4\r\ntransfer-ENCODING: chunked\r\n\r\n0\r\n\r\n", 400),
    "length twice in other cases": (POST + LENGTH_3 + b"content-length: 4\r\n\r\nabcd", 400),
    "length 0, coding": (POST + b"Content-Length: 0\r\n" + CODING + b"\r\n0\r\n\r\n", 400),
    "folded length": (POST + b"Content-Length:\r\n 5\r\n\r\nabcde", 400),
    "folded coding": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    # chunks and trailers
    "chunk size with a plus": (CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size of nothing": (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size in letters beyond F": (CHUNKED + b"g\r\nabc\r\n0\r\n\r\n", 400),
    "chunk's data ends in LF": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", 400),
    "last chunk ends in LF": (CHUNKED + b"3\r\nabc\r\n0\n\r\n", 400),
    "trailing length": (CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n", 400),
    "trailing host": (CHUNKED + b"0\r\nHost: other\r\n\r\n", 400),
    "folded trailer": (CHUNKED + b"0\r\n X: y\r\n\r\n", 400),
}  # fmt: skip
BAD = REFUSED | MORE
SMALL = {name: (data, status) for name, (data, status) in BAD.items() if len(data) < 400}
LIMITS = Limits(body_bytes=2_000_000)


@both_loops
@pytest.mark.parametrize("name", MORE)
async def test_more_that_two_parsers_could_read_differently_is_refused(name: str) -> None:
    """A refusal is recorded once, then the connection ends."""
    data, status = MORE[name]

    handler = RecordingHandler()
    async with edge(handler, LIMITS) as gate:
        responses = parse_responses(await gate.talk(data + AFTER))
        assert [response.status for response in responses] == [status]
        assert [error.status for error in handler.rejections] == [status]
        assert all(not request.body_complete for request in handler.requests)


@both_loops
async def test_the_edge_closes_if_the_client_does_not() -> None:
    """After every kind of framing error the edge closes, and later bytes are ignored."""

    async def one(name: str, data: bytes, status: int) -> None:
        handler = RecordingHandler()
        async with edge(handler, LIMITS) as gate:
            client = await gate.connect()
            await client.send(data)
            response = await client.response()
            assert (response.status, response.headers["connection"]) == (status, "close"), name
            assert await client.reader.read(1) == b"", name
            await client.send(AFTER)
            assert await client.rest() == b""
            assert all(not request.body_complete for request in handler.requests), name

    await asyncio.gather(*(one(name, data, status) for name, (data, status) in BAD.items()))


@pytest.mark.parametrize(
    "good",
    [
        get("/good"),
        post(b"abc", path="/good"),
        CHUNKED.replace(b"/ ", b"/good ") + b"3\r\nabc\r\n0\r\n\r\n",
    ],
)
async def test_a_good_request_before_bad_bytes_is_answered_once(good: bytes) -> None:
    """The good request of a packet is answered first, the bad one is refused, and that is all."""

    async def one(name: str, data: bytes, status: int) -> None:
        handler = RecordingHandler()
        async with edge(handler, LIMITS) as gate:
            responses = parse_responses(await gate.talk(good + data + AFTER))
            assert [response.status for response in responses] == [200, status], name
            assert responses[0].body.split()[1] == b"/good", name
            assert [request.path for request in handler.requests if request.body_complete] == [
                "/good"
            ], name
            assert len(handler.rejections) == 1, name

    await asyncio.gather(*(one(name, data, status) for name, (data, status) in SMALL.items()))


@pytest.mark.parametrize(
    "garbage",
    [b"\x00", b"\xff" * 10, b"garbage\r\n", b"\r\r\n", b"GET", b"\x16\x03\x01", b"}", b"0\r\n\r\n"],
)
async def test_garbage_behind_a_good_request_is_no_request(garbage: bytes) -> None:
    """Bytes behind a body are part neither of the body nor of a request."""
    handler = RecordingHandler()
    async with edge(handler, LIMITS) as gate:
        responses = parse_responses(await gate.talk(post(b"abc", path="/good") + garbage))
        assert responses[0].body == b"POST /good abc"
        assert [response.status for response in responses[1:]] in ([], [400])
        assert [request.path for request in handler.requests] == ["/good"]


async def test_bad_bytes_cut_at_every_byte_are_refused_alike() -> None:
    """Packet boundaries change nothing: one refusal with the same status, and no request."""
    handler = RecordingHandler()
    async with edge(handler, LIMITS) as gate:

        async def one(name: str, data: bytes, status: int) -> None:
            for at in some(range(1, len(data))):
                client = await gate.connect()
                await client.send(data[:at])
                await asyncio.sleep(0)
                await client.send(data[at:])
                client.writer.write_eof()
                responses = parse_responses(await client.rest())
                assert [response.status for response in responses] == [status], (name, at)

        for name, (data, status) in SMALL.items():
            await one(name, data, status)
        assert all(not request.body_complete for request in handler.requests)
