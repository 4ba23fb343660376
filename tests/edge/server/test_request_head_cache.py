"""A parser with cached heads reads any bytes as one that parses every head."""

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.edge.server.limits import Limits
from proxy.edge.server.request_parser import BODY, RequestParser
from proxy.errors import Rejected
from proxy.model import Peer, Request
from tests.support.amount import examples, some
from tests.support.raw_client import get, post

LIMITS = Limits(header_bytes=2048, body_bytes=300, early_bytes=60)


class RecordingSink:
    """A sink that records what a parser delivers."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.requests: list[Request] = []
        self._ids = 0

    def next_id(self) -> str:
        self._ids += 1
        return str(self._ids)

    def peer(self, headers: Mapping[bytes, bytes]) -> Peer:
        user_agent = headers.get(b"user-agent", b"")
        return Peer("127.0.0.1", 4711, None, user_agent.decode("latin-1"))

    def on_request(self, request: Request, *, expect_continue: bool) -> None:
        self.requests.append(request)
        heads = list(request.headers.items())  # their order too
        self.events.append(
            (
                request.id,
                request.http_method,
                request.path,
                request.query,
                heads,
                request.body,
                request.peer,
                request.body_complete,
                expect_continue,
                request.http_1_0,
            )
        )

    def on_body(self, body: bytes) -> None:
        self.events.append(body)


def read(
    packets: list[bytes], *, uncached: bool, limits: Limits = LIMITS
) -> tuple[list[object], RequestParser, RecordingSink]:
    """Return what a parser delivers for `packets`, and its phase after each of them."""
    sink = RecordingSink()
    parser = RequestParser(sink, limits)
    for packet in packets:
        if uncached:
            # A cached head is looked up at the start of a packet.
            parser.clear_cache()
        try:
            parser.feed(packet)
        except Rejected as error:
            sink.events.append((error.reason, error.detail))
            break
        sink.events.append((parser.phase, parser.body_size if parser.phase == BODY else None))
    return sink.events, parser, sink


def assert_same(packets: list[bytes], limits: Limits = LIMITS) -> None:
    """Assert that parsers with and without cached heads deliver the same."""
    assert (
        read(packets, uncached=False, limits=limits)[0]
        == read(packets, uncached=True, limits=limits)[0]
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` in packets that end at `places`."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if end > start]


PLAIN = [
    get("/a?b"),
    get("/a", "User-Agent: x"),
    post(b"abc"),
    post(b"0123456789"),
    post(b"", path="/e"),
    post(b"x" * 61),
    post(b"y" * 299),
]
ODD = [
    post(b"abc", "Connection: keep-alive"),
    post(b"abc", "Connection: close"),
    post(b"abc", "Connection: Keep-Alive, close"),
    post(b"abc", "Proxy-Connection: close"),
    post(b"abc", "Expect: 100-continue"),
    post(b"abc", "Upgrade: websocket"),
    post(b"abc", "X-Length: 3", "Authorization: Bearer a"),
    post(b"abc", "X: Content-Length: 4"),
    post(b"z" * 301),
    get("/long", "X: " + "x" * 2000),
    b"\r\n" + get("/blank"),
    b"\r\n\r\n" + get("/blanks"),
    b"\r",
    b"POST / HTTP/1.1\r\nHost: gate\r\ncontent-length:  003\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: 3 \r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: gate\r\nContent-Length:3\r\nX: y\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: 000000003\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: 3, 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: \r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: +3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: gate\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: gate\r\n\r\n",
    b"garbage\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: gate\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    post(b"abc", "Connection: Upgrade", "Upgrade: h2c"),
    b"GET http://gate/a HTTP/1.1\r\nHost: gate\r\n\r\n",
]


@pytest.mark.interpreted
@pytest.mark.parametrize("request_", PLAIN, ids=range(len(PLAIN)))
def test_a_repeated_head_is_not_parsed_again(
    request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is pipelined, or its body arrives apart; the headers are the same object."""
    sink = RecordingSink()
    parser = RequestParser(sink, LIMITS)
    parser.feed(request_)
    assert len(parser.head_cache.entries) == 1
    monkeypatch.setattr(parser, "_parse", None)
    head = request_.index(b"\r\n\r\n") + 4
    for packets in (
        [request_],
        [request_ * 2],
        [request_[:head], request_[head : head + 2], request_[head + 2 :]],
    ):
        for packet in packets:
            parser.feed(packet)
    assert [request.http_method for request in sink.requests] == [sink.requests[0].http_method] * 5
    assert all(request.headers is sink.requests[0].headers for request in sink.requests)


def test_lengths_may_differ() -> None:
    """Heads that differ in the length only are one entry.

    Each request has its own length among its headers.
    """
    bodies = [b"a" * size for size in (1, 22, 3, 57, 0, 58)]
    _, parser, sink = read([post(body) for body in bodies], uncached=False)
    assert len(parser.head_cache.entries) == 1
    assert [request.body for request in sink.requests] == bodies
    assert [request.headers[b"content-length"] for request in sink.requests] == [
        b"%d" % len(body) for body in bodies
    ]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("before", [b"", PLAIN[2]], ids=["first", "after"])
def test_odd_requests_are_read_alike_in_any_two_pieces(before: bytes, odd: bytes) -> None:
    """An odd request twice, then a plain one, cut at every point.

    The plain one shows where the parser is in the stream.
    """
    data = before + odd + odd + PLAIN[2] + odd
    assert_same(
        [before, odd, odd, PLAIN[2], PLAIN[2], odd]
        if before
        else [odd, odd, PLAIN[2], PLAIN[2], odd]
    )
    for at in some(range(1, len(data) if len(data) < 1500 else 400)):
        assert_same([data[:at], data[at:]])
        assert_same([odd, data[:at], data[at:]])


def test_plain_requests_are_read_alike_in_any_pieces() -> None:
    """Requests with cached heads, cut at every point into two and three packets."""
    cached = [PLAIN[2], PLAIN[0], PLAIN[5]]
    data = PLAIN[3] + PLAIN[0] + PLAIN[5] + PLAIN[2]
    for at in range(1, len(data)):
        assert_same([*cached, data[:at], data[at:]])
        assert_same([*cached, data[:at], data[at : at + 7], data[at + 7 :]])
    assert_same([*cached, *(data[at : at + 1] for at in range(len(data)))])


@pytest.mark.parametrize("position", range(len(PLAIN[2])))
def test_a_head_with_one_other_byte_is_parsed(position: int) -> None:
    """Any byte may take the place of any byte of a cached head."""
    for byte in b"\0\t\n\r :0123456789aAzZ-\x7f\xff":
        changed = bytearray(PLAIN[2])
        changed[position] = byte
        assert_same([PLAIN[2], PLAIN[2], bytes(changed) + PLAIN[2]])


@settings(max_examples=examples(1500), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.sampled_from(PLAIN),
            st.sampled_from(PLAIN),
            st.sampled_from(ODD),
            st.binary(max_size=20),
        ),
        max_size=12,
    ),
    st.lists(
        st.tuples(
            st.integers(0, 1 << 16),
            st.sampled_from(["change", "insert", "delete"]),
            st.integers(0, 255),
        ),
        max_size=2,
    ),
    st.lists(st.integers(0, 1 << 16), max_size=8),
    st.booleans(),
)
@example([PLAIN[2], b"\x16"], [], [], True)  # TLS is looked for at the first byte only
def test_any_bytes_are_read_alike(
    pieces: list[bytes], mangling: list[tuple[int, str, int]], places: list[int], cached: bool
) -> None:
    """Repeated requests, some odd, some mutated, in any packets."""
    data = bytearray(b"".join(pieces))
    for place, how, byte in mangling:
        at = place % (len(data) + 1)
        data[at : at + (how != "insert")] = b"" if how == "delete" else bytes([byte])
    assert_same((PLAIN[:4] if cached else []) + cut(bytes(data), places))


def test_a_client_that_never_repeats_a_head_is_no_longer_cached() -> None:
    """After `MAX_MISSES` heads without a hit the cache takes no more."""
    _, parser, sink = read([get(f"/{number}") for number in range(100)], uncached=False)
    assert len(sink.requests) == 100
    assert [head.path for head in parser.head_cache.entries] == ["/12", "/13", "/14", "/15"]


def test_long_heads_are_not_cached() -> None:
    """The memory of an idle connection is bounded."""
    _, parser, _ = read([get("/", "X: " + "x" * 4100)] * 2, uncached=False, limits=Limits())
    assert not parser.head_cache.entries


def test_heads_of_many_headers_are_not_cached() -> None:
    """A hundred empty headers take thirty times their bytes."""
    many = [f"{number}:" for number in range(40)]
    _, parser, sink = read([get("/", *many)] * 2, uncached=False, limits=Limits())
    assert len(sink.requests[1].headers) > 40
    assert not parser.head_cache.entries
    _, parser, _ = read([get("/", *many[:20])] * 2, uncached=False, limits=Limits())
    assert parser.head_cache.entries


def test_the_cache_reads_nothing_behind_the_last_request() -> None:
    """After ``Connection: close`` no request follows, with a cached head or without."""
    events, parser, sink = read([PLAIN[2], PLAIN[2], ODD[1], PLAIN[2]], uncached=False)
    assert len(sink.requests) == 3
    assert not parser.head_cache.entries
    assert events[-1] == read([PLAIN[2], PLAIN[2], ODD[1], PLAIN[2]], uncached=True)[0][-1]


def test_the_cache_can_be_cleared_at_any_time() -> None:
    """Eviction changes nothing that is delivered."""
    sink = RecordingSink()
    parser = RequestParser(sink, LIMITS)
    for _ in range(3):
        parser.feed(PLAIN[2])
        parser.clear_cache()
        assert not parser.head_cache.entries
    assert [request.body for request in sink.requests] == [b"abc"] * 3
