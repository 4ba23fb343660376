"""Bytes that make two parsers disagree are refused, and odd but clear requests are served."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.edge.server.limits import Limits
from proxy.model import Reason, Request, Response
from tests.support.amount import examples
from tests.support.edge_server import Parts, ReadBody, RecordingHandler, echo, edge, streaming
from tests.support.loops import both_loops
from tests.support.raw_client import SeenResponse, get, parse_responses, post

H = b"Host: gate\r\n"
GET = b"GET / HTTP/1.1\r\n" + H
POST = b"POST / HTTP/1.1\r\n" + H
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH_3 = b"Content-Length: 3\r\n"
LENGTH_5 = b"Content-Length: 5\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
AFTER = b"GET /smuggled HTTP/1.1\r\n" + H + b"\r\n"

REFUSED: dict[str, tuple[bytes, int]] = {
    # lengths (RFC 9112 section 6.3)
    "length and coding": (POST + LENGTH_5 + CODING + b"\r\n0\r\n\r\n", 400),
    "coding and length": (POST + CODING + LENGTH_5 + b"\r\n0\r\n\r\n", 400),
    "differing lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
    "equal lengths": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", 400),
    "length with a sign": (POST + b"Content-Length: +5\r\n\r\nabcde", 400),
    "negative length": (POST + b"Content-Length: -5\r\n\r\nabcde", 400),
    "length list": (POST + b"Content-Length: 5, 5\r\n\r\nabcde", 400),
    "length and more": (POST + b"Content-Length:  5 x\r\n\r\nabcde", 400),
    "hexadecimal length": (POST + b"Content-Length: 0x5\r\n\r\nabcde", 400),
    "length with underscore": (POST + b"Content-Length: 1_0\r\n\r\nabcdeabcde", 400),
    "length in other digits": (POST + "Content-Length: ٥\r\n\r\n".encode() + b"abcde", 400),
    "empty length": (POST + b"Content-Length:\r\n\r\nabcde", 400),
    "length over 64 bits": (POST + b"Content-Length: 18446744073709551617\r\n\r\nabcde", 400),
    # codings
    "unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "two codings": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked is not last": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "coding twice": (POST + CODING + CODING + b"\r\n0\r\n\r\n", 400),
    "coding after a tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "empty coding": (POST + b"Transfer-Encoding:\r\n\r\n", 400),
    # chunks (section 7.1)
    "chunk size over 64 bits": (CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with 0x": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "negative chunk size": (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size and space": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", 400),
    "chunk size ends in LF": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400),
    "chunk without CRLF": (CHUNKED + b"3\r\nabcXX0\r\n\r\n", 400),
    "chunk longer than its size": (CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n", 400),
    "chunk extension ends in LF": (CHUNKED + b"3;a=b\nabc\r\n0\r\n\r\n", 400),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", 400),
    "trailing credential": (CHUNKED + b"3\r\nabc\r\n0\r\nAuthorization: Bearer x\r\n\r\n", 400),
    # lines and headers (sections 2.2 and 5)
    "folded header": (GET + b"X: a\r\n b\r\n\r\n", 400),
    "folded first header": (b"GET / HTTP/1.1\r\n X: a\r\n" + H + b"\r\n", 400),
    "bare LF after the request line": (b"GET / HTTP/1.1\n" + H + b"\r\n", 400),
    "bare LF after a header": (GET + b"X: a\nY: b\r\n\r\n", 400),
    "bare LF as the end": (GET + b"\n", 400),
    "bare CR in a header": (GET + b"X: a\rY: b\r\n\r\n", 400),
    "NUL in a header": (GET + b"X: a\0b\r\n\r\n", 400),
    "NUL in a name": (GET + b"X\0: a\r\n\r\n", 400),
    "control character in a header": (GET + b"X: a\x01b\r\n\r\n", 400),
    "space before the colon": (b"GET / HTTP/1.1\r\nHost : gate\r\n\r\n", 400),
    "no colon": (GET + b"abc\r\n\r\n", 400),
    "empty name": (GET + b": a\r\n\r\n", 400),
    "name with a separator": (GET + b"X(y): a\r\n\r\n", 400),
    # Host (section 3.2)
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", 400),
    "two hosts, differing case": (GET + b"hOST: other\r\n\r\n", 400),
    "empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "host with a path": (b"GET / HTTP/1.1\r\nHost: gate/x\r\n\r\n", 400),
    "host with user": (b"GET / HTTP/1.1\r\nHost: a@gate\r\n\r\n", 400),
    "host list": (b"GET / HTTP/1.1\r\nHost: gate, other\r\n\r\n", 400),
    "host with a word as port": (b"GET / HTTP/1.1\r\nHost: gate:http\r\n\r\n", 400),
    # the request line (section 3)
    "absolute target of another host": (b"GET http://other/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "absolute target of another port": (b"GET http://gate:81/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "absolute target with user": (b"GET http://a@gate/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "absolute target without host": (b"GET http:/// HTTP/1.1\r\n" + H + b"\r\n", 400),
    "absolute target and no host": (b"GET http://gate/ HTTP/1.1\r\n\r\n", 400),
    "CONNECT of a path": (b"CONNECT / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "CONNECT": (b"CONNECT gate:443 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "target in UTF-8": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "target without slash": (b"GET a HTTP/1.1\r\n" + H + b"\r\n", 400),
    "control character in the target": (b"GET /\x01 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "tab for a space": (b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "space after the version": (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400),
    "lower-case verb": (b"get / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "unknown verb": (b"FROB / HTTP/1.1\r\n" + H + b"\r\n", 400),
    # other versions and protocols
    "HTTP/1.0 with a coding": (
        b"POST / HTTP/1.0\r\n" + H + CODING + b"\r\n3\r\nabc\r\n0\r\n\r\n",
        400,
    ),
    "HTTP/1.0 with two hosts": (b"GET / HTTP/1.0\r\n" + H + H + b"\r\n", 400),
    "HTTP/1.0 with a bad host": (b"GET / HTTP/1.0\r\nHost: ga te\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2.0 as a version": (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
    "offer with two lengths": (
        POST + OFFER + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        400,
    ),
    "offer with length and coding": (POST + OFFER + LENGTH_5 + CODING + b"\r\n0\r\n\r\n", 400),
    "offer with trailers": (POST + OFFER + CODING + b"\r\n0\r\nX: y\r\n\r\n", 400),
    "offer with a chunk too long": (POST + OFFER + CODING + b"\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
    # expectations
    "unknown expectation": (POST + b"Expect: 200-ok\r\n" + LENGTH_3 + b"\r\nabc", 417),
    "two expectations": (
        POST + b"Expect: 100-continue\r\nExpect: x\r\n" + LENGTH_3 + b"\r\nabc",
        417,
    ),
    # credentials and other headers of which there may be one
    "two credentials": (GET + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 400),
    "two cookies": (GET + b"Cookie: a=b\r\nCookie: c=d\r\n\r\n", 400),
    "two types": (
        POST + b"Content-Type: text/xml\r\nContent-Type: a/b\r\n" + LENGTH_3 + b"\r\nabc",
        400,
    ),
    "two content codings": (
        POST + b"Content-Encoding: gzip\r\nContent-Encoding: a\r\n" + LENGTH_3 + b"\r\nabc",
        400,
    ),
    # sizes
    "long target": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + H + b"\r\n", 431),
    "long header": (GET + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    "many repeats": (GET + b"X: a\r\n" * 200 + b"\r\n", 431),
    "many headers": (GET + b"".join(b"X%d: a\r\n" % n for n in range(200)) + b"\r\n", 431),
    "unending header": (GET + b"X: " + b"a" * 600_000, 431),
    "long body": (POST + b"Content-Length: 2000001\r\n\r\nabc", 413),
    "long chunked body": (CHUNKED + b"200000\r\n" + b"a" * 0x200000 + b"\r\n0\r\n\r\n", 413),
}  # fmt: skip

ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "plain": (get("/a?b=c"), b"GET /a?b=c "),
    "empty query": (get("/a?"), b"GET /a? "),
    "path unchanged": (get("/a/../%2e%2e//b"), b"GET /a/../%2e%2e//b "),
    "body": (post(b"abc"), b"POST / abc"),
    "length with spaces around": (
        POST + b"Content-Length:  3 \r\n\r\nabc",
        b"POST / abc",
    ),
    "body of a GET": (GET + b"Content-Length: 3\r\n\r\nabc", b"GET / abc"),
    "chunks": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"POST / abcde"),
    "chunk sizes with zeros": (CHUNKED + b"003\r\nabc\r\n00\r\n\r\n", b"POST / abc"),
    "chunk extensions": (CHUNKED + b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n', b"POST / abc"),
    "coding in capitals": (CHUNKED.replace(b"chunked", b"Chunked") + b"0\r\n\r\n", b"POST / "),
    "underscored length is no length": (
        GET + b"Content_Length: 3\r\n\r\n",
        b"GET / ",
    ),
    "upgrade that is not asked for": (get("/", "Upgrade: websocket"), b"GET / "),
    "websocket": (get("/", "Connection: Upgrade", "Upgrade: websocket"), b"GET / "),
    "h2c": (GET + OFFER + b"\r\n", b"GET / "),
    "h2c and a body": (POST + OFFER + LENGTH_3 + b"\r\nabc", b"POST / abc"),
    "h2c and chunks": (POST + OFFER + CODING + b"\r\n3\r\nabc\r\n0\r\n\r\n", b"POST / abc"),
    "h2c and an empty body": (POST + OFFER + b"Content-Length: 0\r\n\r\n", b"POST / "),
    "absolute target": (b"GET http://gate/a?b HTTP/1.1\r\n" + H + b"\r\n", b"GET /a?b "),
    "absolute target without path": (b"GET http://gate HTTP/1.1\r\n" + H + b"\r\n", b"GET / "),
    "absolute target, query only": (b"GET HTTP://GATE?b HTTP/1.1\r\n" + H + b"\r\n", b"GET /?b "),
    "absolute target, default port": (
        b"GET https://gate:443/ HTTP/1.1\r\n" + H + b"\r\n",
        b"GET / ",
    ),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", b"OPTIONS * "),
    "probe without host": (b"GET /-/readyz HTTP/1.1\r\n\r\n", b"GET /-/readyz "),
    "OPTIONS without host": (b"OPTIONS / HTTP/1.1\r\nHost:\r\n\r\n", b"OPTIONS / "),
    "empty expectation": (get("/", "Expect:"), b"GET / "),
    "blank lines first": (b"\r\n\r\n" + get(), b"GET / "),
    "host with port": (b"GET / HTTP/1.1\r\nHost: gate.example:8443\r\n\r\n", b"GET / "),
    "IPv6 host": (b"GET / HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n", b"GET / "),
    "host with spaces around": (b"GET / HTTP/1.1\r\nHost:  gate \r\n\r\n", b"GET / "),
}


@both_loops
@pytest.mark.parametrize("name", REFUSED)
async def test_what_two_parsers_could_read_differently_is_refused(name: str) -> None:
    """A refusal is recorded once and ends the connection; requests behind it are not handled."""
    data, status = REFUSED[name]

    handler = RecordingHandler()
    async with edge(handler, Limits(body_bytes=2_000_000)) as gate:
        responses = parse_responses(await gate.talk(data + AFTER))
        assert [response.status for response in responses] == [status]
        assert responses[0].headers["connection"] == "close"
        assert [error.status for error in handler.rejections] == [status]
        assert all(not request.body_complete for request in handler.requests)


async def test_an_endless_header_is_refused() -> None:
    """The memory for an unfinished head is bounded."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        client = await gate.connect()
        await client.send(GET + b"X: " + b"a" * 600_000)
        assert (await client.response()).status == 431
        assert handler.reasons == [Reason.HEADERS_TOO_LARGE]


async def test_an_unread_body_is_not_the_next_request() -> None:
    """A response without the body read ends the connection, because the body follows."""

    async def heedless(request: Request, read_body: ReadBody) -> Response:
        return Response(200, b"done")

    handler = RecordingHandler(heedless)
    async with edge(handler, Limits(early_bytes=10)) as gate:
        client = await gate.connect()
        await client.send(post(AFTER * 10)[:-1])
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        await client.send(AFTER[-1:] + AFTER)
        assert await client.rest() == b""
        assert [request.path for request in handler.requests] == ["/"]


async def test_a_large_body_that_breaks_its_framing_is_refused_once() -> None:
    """The handler that reads the body gets the error, and the connection ends."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        responses = parse_responses(
            await gate.talk(CHUNKED + b"20000\r\n" + b"a" * 0x20000 + b"\r\nzz\r\n" + AFTER)
        )
        assert [response.status for response in responses] == [400]
        assert handler.reasons == [Reason.BAD_REQUEST]
        assert [request.path for request in handler.requests] == ["/"]


@pytest.mark.parametrize("name", ACCEPTED)
async def test_what_has_one_reading_is_served(name: str) -> None:
    """Odd but clear requests reach the handler unchanged, and the next request is served."""
    data, body = ACCEPTED[name]

    handler = RecordingHandler()
    async with edge(handler) as gate:
        responses = parse_responses(await gate.talk(data + get("/next")))
        assert [response.body for response in responses] == [body, b"GET /next "]
        assert not handler.rejections


OLD: dict[str, tuple[bytes, bytes]] = {
    "nginx": (
        b"POST /a HTTP/1.0\r\nHost: gate\r\nConnection: close\r\n" + LENGTH_3 + b"\r\nabc",
        b"POST /a abc",
    ),
    "ab -k": (b"GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n" + H + b"\r\n", b"GET /a "),
    "no host": (b"GET /a HTTP/1.0\r\n\r\n", b"GET /a "),
    "empty host": (b"GET /a HTTP/1.0\r\nHost:\r\n\r\n", b"GET /a "),
    "absolute target": (b"GET http://gate/a HTTP/1.0\r\n\r\n", b"GET /a "),
    "an offer": (b"POST /a HTTP/1.0\r\n" + OFFER + LENGTH_3 + b"\r\nabc", b"POST /a abc"),
    "an expectation": (
        b"POST /a HTTP/1.0\r\nExpect: 100-continue\r\n" + LENGTH_3 + b"\r\nabc",
        b"POST /a abc",
    ),
    "HAProxy": (b"OPTIONS / HTTP/1.0\r\n\r\n", b"OPTIONS / "),
}


@both_loops
@pytest.mark.parametrize("name", OLD)
async def test_http_1_0_is_answered_and_the_connection_closed(name: str) -> None:
    """Nothing is chunked, and what follows on the connection is not read, kept alive or not."""
    data, body = OLD[name]

    handler = RecordingHandler()
    async with edge(handler) as gate:
        for after in (b"", AFTER, data):
            [response] = parse_responses(await gate.talk(data + after))
            assert (response.status, response.body) == (200, body)
            assert response.headers["connection"] == "close"
        assert [request.path for request in handler.requests] == [handler.requests[0].path] * 3


@both_loops
async def test_a_stream_over_http_1_0_ends_with_the_connection() -> None:
    """A body of unknown length has no chunks: the client would take them for content."""
    async with edge(streaming(Parts(b"abc", b"de"))) as gate:
        answer = await gate.talk(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert b"content-length" not in head.lower()
        assert body == b"abcde"


@both_loops
@pytest.mark.parametrize("offered", [b"", OFFER])
async def test_an_expectation_is_met_in_any_case(offered: bytes) -> None:
    """A large body is asked for by 100 Continue, also behind an offer to upgrade."""
    handler = RecordingHandler()
    async with edge(handler, Limits(early_bytes=2)) as gate:
        client = await gate.connect()
        await client.send(POST + b"EXPECT: 100-Continue\r\n" + offered + LENGTH_3 + b"\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.response()).body == b"POST / abc"


async def test_the_host_of_an_absolute_target_stands_in_for_a_missing_one() -> None:
    """What asks for the Host sees the authority (RFC 9112 section 3.2.2)."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        await gate.talk(b"GET http://gate.example:8443/ HTTP/1.0\r\n\r\n")
        assert handler.requests[0].headers[b"host"] == b"gate.example:8443"


async def test_a_second_credential_has_a_reason_of_its_own() -> None:
    """Two Authorization headers give `two-credentials`."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        await gate.talk(REFUSED["two credentials"][0])
        assert handler.reasons == [Reason.TWO_CREDENTIALS]


@both_loops
async def test_the_folded_credential_of_supervisorctl_is_read_at_any_cut() -> None:
    """``supervisorctl tail -f`` breaks it with line feeds; on every other path that is refused."""
    line = b"x" * 76
    head = (
        b"GET /logtail/a/stdout HTTP/1.1\r\nHost: gate\r\nAuthorization: Basic "
        + line
        + b"\n"
        + line
        + b"\n"
        + b"yw==\r\n\r\n"
    )
    begun = len(b"GET /logtail/")
    handler = RecordingHandler()
    async with edge(handler) as gate:
        for cut in range(begun, len(head)):
            client = await gate.connect()
            await client.send(head[:cut])
            await asyncio.sleep(0)
            await client.send(head[cut:] + b"\r\n")
            client.writer.write_eof()
            await client.rest()
        await gate.talk(head.replace(b"/logtail/", b"/tailing/"))
        assert handler.reasons == [Reason.BAD_REQUEST]
        sent = [r.headers[b"authorization"] for r in handler.requests]
        assert sent == [b"Basic " + line * 2 + b"yw=="] * (len(head) - begun)


@both_loops
async def test_requests_cut_at_every_byte_give_the_same_responses() -> None:
    """Packet boundaries change nothing: pipelined requests are answered in order and once."""
    large = b"b" * 300
    data = (
        get("/1")
        + post(b"abc", path="/2")
        + CHUNKED
        + b"3\r\nabc\r\n0\r\n\r\n"
        + post(large, path="/3")
        + get("/4?x")
        + b"\r\n"
        + get("/5")
    )
    expected = [
        b"GET /1 ",
        b"POST /2 abc",
        b"POST / abc",
        b"POST /3 " + large,
        b"GET /4?x ",
        b"GET /5 ",
    ]

    handler = RecordingHandler()
    # The large request is handed over before its body.
    async with edge(handler, Limits(early_bytes=200)) as gate:

        async def cut(at: int) -> list[SeenResponse]:
            client = await gate.connect()
            await client.send(data[:at])
            if at < len(data):
                sent = len(handler.requests)
                await client.send(data[at:])
                assert len(handler.requests) >= sent
            client.writer.write_eof()
            return parse_responses(await client.rest())

        for at in range(1, len(data) + 1):
            assert [response.body for response in await cut(at)] == expected, at
        assert not handler.rejections


async def test_requests_sent_byte_by_byte_give_the_same_responses() -> None:
    """The parser has no state that the end of a packet could disturb."""
    data = get("/1", "X: y") + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + post(b"abcdef", path="/2")

    async with edge(RecordingHandler(), Limits(early_bytes=4)) as gate:
        client = await gate.connect()
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await asyncio.sleep(0)
        client.writer.write_eof()
        assert [response.body for response in parse_responses(await client.rest())] == [
            b"GET /1 ",
            b"POST / abc",
            b"POST /2 abcdef",
        ]


async def test_each_of_two_large_bodies_reaches_its_own_request() -> None:
    """A body that arrives with the start of the next request is not taken for that one's."""
    held = asyncio.Event()

    async def slow(request: Request, read_body: ReadBody) -> Response:
        await held.wait()
        return await echo(request, read_body)

    handler = RecordingHandler(slow)
    async with edge(handler, Limits(early_bytes=10)) as gate:
        client = await gate.connect()
        await client.send(post(b"a" * 100, path="/a") + post(b"b" * 100, path="/b")[:-50])
        held.set()
        first = await client.response()
        await client.send(b"b" * 50)
        second = await client.response()
        assert (first.body, second.body) == (b"POST /a " + b"a" * 100, b"POST /b " + b"b" * 100)


async def test_a_request_before_bad_bytes_is_answered() -> None:
    """The response comes first, then the refusal of the garbage."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        responses = parse_responses(await gate.talk(get("/good") + b"garbage\r\n\r\n" + AFTER))
        assert [(response.status, response.body) for response in responses] == [
            (200, b"GET /good "),
            (400, b"bad-request"),
        ]
        assert handler.reasons == [Reason.BAD_REQUEST]


async def test_too_many_pipelined_requests_are_refused() -> None:
    """Small requests take more memory than their bytes, so their number is bounded."""
    handler = RecordingHandler()
    async with edge(handler) as gate:
        responses = parse_responses(await gate.talk(get() * 5000))
        assert responses[-1].status == 400
        assert len(responses) < 500
        assert handler.reasons == [Reason.BAD_REQUEST]


async def test_a_head_request_gets_no_body() -> None:
    """The length is that of the body for GET, and the next response follows at once."""
    async with edge(RecordingHandler()) as gate:
        data = await gate.talk(b"HEAD /a HTTP/1.1\r\n" + H + b"\r\n" + get("/b"))
        head, _, rest = data.partition(b"\r\n\r\n")
        assert b"Content-Length: 8" in head
        assert [response.body for response in parse_responses(rest)] == [b"GET /b "]


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([data for data, _ in REFUSED.values() if len(data) < 400]),
            st.sampled_from([data for data, _ in ACCEPTED.values()]),
        ),
        max_size=6,
    ),
    st.data(),
)
async def test_any_bytes_give_responses_or_a_close(
    pieces: list[bytes], data: st.DataObject
) -> None:
    """Any bytes in any packets give responses with a status, then a close.

    The loop has no error to log.
    """
    sent = bytearray(b"".join(pieces))
    for at in data.draw(st.lists(st.integers(0, max(len(sent) - 1, 0)), max_size=3)):
        if sent:
            sent[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(sent)))

    handler = RecordingHandler()
    async with edge(handler, Limits(early_bytes=16)) as gate:
        client = await gate.connect()
        await client.send(bytes(sent[:cut]))
        await client.send(bytes(sent[cut:]))
        client.writer.write_eof()
        statuses = _statuses(await client.rest())
        assert all(status in (200, 400, 408, 413, 417, 431, 499) for status in statuses)
        assert len(statuses) <= len(handler.requests) + len(handler.rejections)


def _statuses(data: bytes) -> list[int]:
    """Return the statuses of responses; bodies may be missing (HEAD) or arbitrary."""
    return [int(line[9:12]) for line in data.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
