"""A response whose head is cached has the same outcome as one that is parsed, for any bytes in any
pieces.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.edge.upstream.response_head_cache import CACHE_SIZE, CachedHead, ResponseHeadCache
from proxy.errors import Unavailable
from tests.support.amount import examples
from tests.support.bare_connection import RecordingPool, bare_connection

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 3\r\n\r\n"
RESPONSE = HEAD + b"abc"


def outcome(
    pool: RecordingPool,
    pieces: list[bytes],
    *,
    head_only: bool = False,
    max_buffered: int = 65_536,
    unsent: int = 0,
) -> object:
    """All that callers can observe of one exchange, when the upstream sends `pieces` and closes."""
    pool.reported.clear()
    connection = bare_connection(pool, unsent=unsent)
    future = connection.send(b"request", b"", max_buffered, head_only)
    for piece in pieces:
        if not connection.closed:
            connection.data_received(piece)
    before = list(pool.reported)
    connection.connection_lost(None)
    error = future.exception()
    if error is not None:
        assert isinstance(error, Unavailable)
        return before, error.reason, error.detail, error.sent
    response = future.result()
    streamed = response.stream is not None
    return (
        before,
        response.status,
        dict(response.headers),
        response.body,
        streamed,
        response.length,
        connection.reused,
        connection.closed,
    )


def same_with_and_without_cache(
    loop: asyncio.AbstractEventLoop, seen: list[bytes], pieces: list[bytes], **how: Any
) -> Mapping[int, CachedHead]:
    """Hold that `pieces` have one outcome whether or not the heads of `seen` are cached.

    Returns the heads that are cached.
    """
    caching = RecordingPool(loop)
    for response in seen:
        outcome(caching, [response])
    outcomes = [outcome(pool, pieces, **how) for pool in (caching, caching, RecordingPool(loop))]
    assert outcomes[0] == outcomes[2]
    assert outcomes[1] == outcomes[2], "read a second time"
    return caching.response_heads.entries


STATUS = st.sampled_from(
    [
        *[b"200 OK"] * 8,
        b"200",
        b"404 Not Found",
        b"500 Oops",
        b"204 No Content",
        b"304 Not Modified",
        b"100 Continue",
        b"999 x",
    ]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"Content-Type: text/xml",
            b"Date: Mon, 01 Jan 2026 00:00:00 GMT",
            b"Connection: keep-alive",
            b"Connection: close",
            b"Connection: upgrade",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip",
            b"content-length: 3",
            b"Content-Length: 4",
            b"Content-Length: 03",
            b"Content-Length:3 ",
            b"Content-Length: 0",
            b"Content-Length: 3, 3",
            b"Content-Encoding: gzip",
            b"X: \r\n y",
            b"no colon",
        ]
    ),
    max_size=2,
)
BODY = st.sampled_from(
    [
        b"",
        b"abc",
        b"abcd",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"abc\r\n",
        b"\r\n\r\n",
        RESPONSE,
        b"abc" + RESPONSE,
        b"\x00\xff",
    ]
)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Something shaped like a response; valid ones are not rare."""
    if draw(st.booleans()):
        body = draw(BODY)
        headers = [*draw(HEADERS), b"Content-Length: %d" % len(body)]
    else:
        body, headers = draw(BODY), draw(HEADERS)
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"http/1.1"]))
    return b"\r\n".join([version + b" " + draw(STATUS), *headers, b"", b""]) + body


@st.composite
def mangled(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a byte changed, removed or inserted, cut short, or with a byte appended."""
    at = draw(st.integers(0, len(data)))
    byte = draw(
        st.sampled_from([b"", b"\r", b"\n", b" ", b":", b"0", b"9", b"\x00", b"\xff", b"H"])
    )
    how = draw(st.integers(0, 7))
    return [
        data,
        data,
        data,
        data,
        data[:at] + byte + data[at:],
        data[:at] + byte + data[at + 1 :],
        data[:at],
        data + byte,
    ][how]


@settings(max_examples=examples(600), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.data(),
    st.lists(responses(), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([2, 65_536]),
    st.sampled_from([0, 1]),
)
def test_a_cached_head_changes_no_outcome(
    data: st.DataObject, seen: list[bytes], head_only: bool, max_buffered: int, unsent: int
) -> None:
    """Response, error, and whether the connection is reused are the same for any bytes, whichever
    heads are cached.
    """
    sent = data.draw(st.sampled_from(seen).flatmap(mangled) | responses())
    cuts = sorted(data.draw(st.just([]) | st.lists(st.integers(0, len(sent)), max_size=2)))
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    with asyncio.Runner() as runner:
        same_with_and_without_cache(
            runner.get_loop(),
            seen,
            [piece for piece in pieces if piece],
            head_only=head_only,
            max_buffered=max_buffered,
            unsent=unsent,
        )


@pytest.mark.parametrize("extra", [b"", b"x", b"\r\n", b"\r\n\r\n", RESPONSE, HEAD], ids=repr)
def test_a_cached_head_may_be_split_anywhere(extra: bytes) -> None:
    """A response in two pieces, with or without extra data, is the same cut at every byte."""
    sent = RESPONSE + extra
    with asyncio.Runner() as runner:
        for at in range(1, len(sent) + 1):
            heads = same_with_and_without_cache(
                runner.get_loop(), [RESPONSE], [piece for piece in (sent[:at], sent[at:]) if piece]
            )
            assert [head for head, _, _ in heads.values()] == [HEAD]


def test_a_cached_head_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response whose head is cached needs no parser, and its connection is used again."""
    with asyncio.Runner() as runner:
        pool = RecordingPool(runner.get_loop())
        first = outcome(pool, [RESPONSE])
        monkeypatch.setattr("httptools.HttpResponseParser", None)
        assert outcome(pool, [RESPONSE]) == first
        other = outcome(pool, [HEAD + b"xyz"])
        assert other == (
            ["idle"],
            200,
            {b"content-type": b"text/xml", b"content-length": b"3"},
            b"xyz",
            False,
            None,
            True,
            True,
        )


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\n\r\nabc",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + RESPONSE,
        b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\n",
        RESPONSE + b"x",
        RESPONSE + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 03\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 4096 + b"\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:60]),
)
def test_what_is_not_cached(sent: bytes) -> None:
    """Anything but a persistent connection and one plain length is parsed every time."""
    with asyncio.Runner() as runner:
        assert not same_with_and_without_cache(runner.get_loop(), [], [sent])


def test_a_response_to_head_neither_fills_nor_uses_the_cache() -> None:
    """It has the head of a response with a body, and no body."""
    with asyncio.Runner() as runner:
        assert not same_with_and_without_cache(runner.get_loop(), [], [HEAD], head_only=True)
        for sent in (HEAD, RESPONSE):
            assert list(
                same_with_and_without_cache(runner.get_loop(), [RESPONSE], [sent], head_only=True)
            ) == [len(RESPONSE)]


def test_the_cache_is_bounded() -> None:
    """An upstream whose heads never repeat costs a parser for each, and no memory."""
    heads = ResponseHeadCache()
    for number in range(1000):
        body = b"a" * (number % 100)
        head = b"HTTP/1.1 200 OK\r\nX: %04d\r\nContent-Length: %d\r\n\r\n" % (number, len(body))
        heads.add(head + body, 200, {b"content-length": b"%d" % len(body)}, len(body))
        assert len(heads.entries) <= CACHE_SIZE
        assert heads.entries[len(head + body)][0] == head


def test_headers_of_cached_heads_cannot_be_changed() -> None:
    """Many responses share them."""
    with asyncio.Runner() as runner:
        pool = RecordingPool(runner.get_loop())
        outcome(pool, [RESPONSE])
        with pytest.raises(TypeError):
            pool.response_heads.entries[len(RESPONSE)][2][b"x"] = b"y"  # type: ignore[index]  # the type has no such operation either
