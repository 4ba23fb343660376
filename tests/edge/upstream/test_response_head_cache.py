"""Known heads: an answer read without a parser is the answer a parser reads, whatever the upstream
says and in whatever pieces.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.edge.upstream.connection import UpstreamConnection
from proxy.edge.upstream.response_head_cache import ResponseHeadCache
from proxy.errors import Unavailable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 3\r\n\r\n"
ANSWER = HEAD + b"abc"


class Forgetful(ResponseHeadCache):
    """Heads of which none is known: every answer is parsed."""

    def remember(
        self, data: bytes, status: int, headers: Mapping[bytes, bytes], length: int
    ) -> None:
        return


@dataclass
class Wire(asyncio.Transport):
    """A transport that sends nowhere; `unsent` bytes are still with it."""

    unsent: int = 0
    written: list[bytes] = field(default_factory=list)

    def write(self, data: Any) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return

    def abort(self) -> None:
        return


@dataclass
class Pool:
    """Notes what a connection tells its pool."""

    loop: asyncio.AbstractEventLoop
    heads: ResponseHeadCache
    told: list[object] = field(default_factory=list)

    def finished(self, connection: UpstreamConnection, reusable: bool) -> None:
        self.told.append(reusable)
        if not reusable:
            connection.drop()

    def gone(self, connection: UpstreamConnection) -> None:
        self.told.append("gone")


def outcome(
    pool: Pool,
    pieces: list[bytes],
    *,
    head_only: bool = False,
    whole: int = 65_536,
    unsent: int = 0,
) -> object:
    """What one exchange on a new connection comes to when the upstream says `pieces` and closes:
    all that anybody can see of it.
    """
    connection = UpstreamConnection(pool, 60.0, 30.0, 15.0)
    connection.connection_made(Wire(unsent))
    answer = connection.ask(b"request", b"", whole, head_only)
    for piece in pieces:
        if not connection.closed:
            connection.data_received(piece)
    before = list(pool.told)
    connection.connection_lost(None)
    pool.told.clear()
    if answer.exception() is not None:
        error = answer.exception()
        assert isinstance(error, Unavailable)
        return before, error.reason, error.detail, error.sent
    found = answer.result()
    streamed = found.stream is not None
    return (
        before,
        found.status,
        dict(found.headers),
        found.body,
        streamed,
        found.length,
        connection.kept,
        connection.closed,
    )


def on_both_roads(
    loop: asyncio.AbstractEventLoop, known: list[bytes], pieces: list[bytes], **how: Any
) -> ResponseHeadCache:
    """Hold that `pieces` come to the same whether the heads of `known` are remembered or not; the
    heads that are.
    """
    remembering, forgetful = Pool(loop, ResponseHeadCache()), Pool(loop, Forgetful())
    for answer in known:
        outcome(remembering, [answer])
    seen = [outcome(pool, pieces, **how) for pool in (remembering, remembering, forgetful)]
    assert seen[0] == seen[2]
    assert seen[1] == seen[2], "read a second time"
    return remembering.heads


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
        ANSWER,
        b"abc" + ANSWER,
        b"\x00\xff",
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer in about the shape of one; good ones are not rare."""
    if draw(st.booleans()):
        body = draw(BODY)
        headers = [*draw(HEADERS), b"Content-Length: %d" % len(body)]
    else:
        body, headers = draw(BODY), draw(HEADERS)
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"http/1.1"]))
    return b"\r\n".join([version + b" " + draw(STATUS), *headers, b"", b""]) + body


@st.composite
def mangled(draw: st.DrawFn, data: bytes) -> bytes:
    """`data`, with a byte changed, left out or put in, cut short, or with something behind it."""
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


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.data(),
    st.lists(answers(), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([2, 65_536]),
    st.sampled_from([0, 1]),
)
def test_both_roads_agree(
    data: st.DataObject, known: list[bytes], head_only: bool, whole: int, unsent: int
) -> None:
    """Answer, refusal, and whether the connection is kept: the same, for any bytes, whatever was
    said on it before.
    """
    said = data.draw(st.sampled_from(known).flatmap(mangled) | answers())
    cuts = sorted(data.draw(st.just([]) | st.lists(st.integers(0, len(said)), max_size=2)))
    pieces = [said[start:end] for start, end in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    with asyncio.Runner() as runner:
        on_both_roads(
            runner.get_loop(),
            known,
            [piece for piece in pieces if piece],
            head_only=head_only,
            whole=whole,
            unsent=unsent,
        )


@pytest.mark.parametrize("behind", [b"", b"x", b"\r\n", b"\r\n\r\n", ANSWER, HEAD], ids=repr)
def test_a_known_head_split_anywhere(behind: bytes) -> None:
    """The same answer in two pieces, and with too much behind it, cut at every byte."""
    said = ANSWER + behind
    with asyncio.Runner() as runner:
        for at in range(1, len(said) + 1):
            heads = on_both_roads(
                runner.get_loop(), [ANSWER], [piece for piece in (said[:at], said[at:]) if piece]
            )
            assert [head for head, _, _ in heads.values()] == [HEAD]


def test_the_parser_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer whose head was read before is whole without a parser, and its connection is kept."""
    with asyncio.Runner() as runner:
        pool = Pool(runner.get_loop(), ResponseHeadCache())
        first = outcome(pool, [ANSWER])
        monkeypatch.setattr("httptools.HttpResponseParser", None)
        assert outcome(pool, [ANSWER]) == first
        other = outcome(pool, [HEAD + b"xyz"])
        assert other == (
            [True],
            200,
            {b"content-type": b"text/xml", b"content-length": b"3"},
            b"xyz",
            False,
            None,
            True,
            True,
        )


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\n\r\nabc",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER,
        b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\n",
        ANSWER + b"x",
        ANSWER + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 03\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 4096 + b"\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=lambda said: repr(said[:60]),
)
def test_what_is_not_remembered(said: bytes) -> None:
    """Anything but a kept connection and one plain length is read by the parser every time."""
    with asyncio.Runner() as runner:
        assert not on_both_roads(runner.get_loop(), [], [said])


def test_an_answer_to_head_is_neither_remembered_nor_known() -> None:
    """It has the head of an answer with a body, and none."""
    with asyncio.Runner() as runner:
        assert not on_both_roads(runner.get_loop(), [], [HEAD], head_only=True)
        for said in (HEAD, ANSWER):
            assert list(on_both_roads(runner.get_loop(), [ANSWER], [said], head_only=True)) == [
                len(ANSWER)
            ]


def test_what_is_remembered_is_bounded() -> None:
    """An upstream whose heads never repeat costs a parser each, and no memory."""
    heads = ResponseHeadCache()
    for number in range(1000):
        body = b"a" * (number % 100)
        head = b"HTTP/1.1 200 OK\r\nX: %04d\r\nContent-Length: %d\r\n\r\n" % (number, len(body))
        heads.remember(head + body, 200, {b"content-length": b"%d" % len(body)}, len(body))
        assert len(heads) <= 64
        assert heads[len(head + body)][0] == head


def test_headers_of_known_answers_cannot_be_changed() -> None:
    """Many answers have the same ones."""
    with asyncio.Runner() as runner:
        pool = Pool(runner.get_loop(), ResponseHeadCache())
        outcome(pool, [ANSWER])
        with pytest.raises(TypeError):
            pool.heads[len(ANSWER)][2][b"x"] = b"y"  # type: ignore[index]  # the type has no such operation either
