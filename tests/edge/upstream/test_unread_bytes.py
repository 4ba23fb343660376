"""Bytes that no request asked for never become the response to a call, wherever they wait."""

import asyncio
import select
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.edge.tls import server_context, upstream_context
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.pool import ConnectionPool
from proxy.edge.upstream.unread_bytes import UnreadBytes, has_ended
from proxy.errors import Unavailable
from proxy.model import Reason, UpstreamResponse
from tests.support.edge_server import certificate, until
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
    pool_to,
    scripted_upstream,
)

WRONG = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
CHUNKED = HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
TRAILED = HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n"
BEHIND = {
    "a response": WRONG,
    "an interim response": b"HTTP/1.1 100 Continue\r\n\r\n",
    "the beginning of a response": WRONG[:20],
    "a line end": b"\r\n",
    "a line feed": b"\n",
    "a carriage return": b"\r",
    "two line ends": b"\r\n\r\n",
    "line ends before a response": b"\r\n\r\n" + WRONG,
    "a last chunk": b"0\r\n\r\n",
    "a blank": b" ",
    "a NUL": b"\0",
}
FRAMINGS = {
    "length": OK,
    "chunks": CHUNKED,
    "trailers": TRAILED,
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no length of a body": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "length behind an interim response": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    "a body of line ends": HEAD_200 + b"Content-Length: 4\r\n\r\n\r\n\r\n",
}
LONG = HEAD_200 + b"Content-Length: 400000\r\n\r\n" + bytes(400_000)


class _BlindUnreadBytes(UnreadBytes):
    """The old behaviour: what the kernel has is not asked for."""

    def find(self, *, reused: bool) -> int:
        return 0


class _RawUpstream:
    """An upstream whose test sends bytes at the moment that it chooses, by plain system calls.

    It needs no turn of the loop, so it can send between two lines of a test.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.accepted: list[socket.socket] = []

    @property
    def has_new_connection(self) -> bool:
        """Whether `accept` would return at once."""
        return bool(select.select([self._listening], [], [], 0)[0])

    def accept(self) -> socket.socket:
        """Return the next connection, which the pool has made already."""
        client, _ = self._listening.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted.append(client)
        return client

    def close(self) -> None:
        for one in (self._listening, *self.accepted):
            one.close()


async def _receive(upstream: socket.socket, end: bytes) -> None:
    """Read a request, which ends with `end`."""
    received = b""
    while not received.endswith(end):
        with suppress(BlockingIOError):
            received += upstream.recv(65_536, socket.MSG_DONTWAIT)
        await asyncio.sleep(0)


async def _exchange(
    pool: ConnectionPool, upstream: socket.socket | None, response: bytes, raw: _RawUpstream
) -> tuple[socket.socket, UpstreamResponse]:
    """Make a call that `upstream`, or the next connection, answers with `response`."""
    call = asyncio.ensure_future(pool.forward(RECEIPT, READ))
    await until(lambda: pool.stats().in_use)
    upstream = upstream or raw.accept()
    await _receive(upstream, READ.body)
    upstream.sendall(response)
    return upstream, await call


async def _answer_new_connection(raw: _RawUpstream) -> None:
    """Answer one call on the next connection that the pool makes, with `OK`."""
    await until(lambda: raw.has_new_connection)
    upstream = raw.accept()
    await _receive(upstream, WRITE.body)
    upstream.sendall(OK)


async def _second_call(late: bytes) -> bytes:
    """Return what a second call gets when `late` arrives just before it takes the connection."""
    raw = _RawUpstream()
    try:
        async with pool_to(UpstreamAddress(port=raw.port)) as pool:
            upstream, first = await _exchange(pool, None, OK, raw)
            assert first.body == b"{}"
            assert pool.stats().idle == 1
            helper = asyncio.ensure_future(_answer_new_connection(raw))
            upstream.sendall(late)
            # The loop has no turn between these two lines: the bytes wait in the kernel.
            response = await pool.forward(RECEIPT, WRITE)
            helper.cancel()
            return response.body
    finally:
        raw.close()


@both_loops
async def test_bytes_in_the_kernel_just_before_the_next_call_are_not_its_response() -> None:
    """The call goes out on another connection and gets its own response."""
    assert await _second_call(WRONG) == b"{}"


@both_loops
@pytest.mark.interpreted
async def test_the_old_behaviour_took_them_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel is not asked, the second call gets the bytes that came before it."""
    monkeypatch.setattr("proxy.edge.upstream.connection.UnreadBytes", _BlindUnreadBytes)
    assert await _second_call(WRONG) == b"wrong"


@both_loops
async def test_an_end_in_the_kernel_makes_no_write_fail() -> None:
    """An upstream that closes just before a write costs a connection, and the write is sent once."""
    raw = _RawUpstream()
    try:
        async with pool_to(UpstreamAddress(port=raw.port)) as pool:
            upstream, _ = await _exchange(pool, None, OK, raw)
            upstream.close()
            _, response = await _exchange(pool, None, OK, raw)
            assert response.body == b"{}"
            assert pool.stats().unsolicited == 0
    finally:
        raw.close()


@both_loops
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
async def test_bytes_behind_a_response_close_its_connection(framing: bytes, behind: bytes) -> None:
    """In the same packet, whatever they are: line ends, too, which llhttp skips without a word."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.read_request()
            await conversation.send(framing + (behind if conversation.number == 1 else b""))

    async with pool_and_upstream(script) as (pool, scripted):
        for _ in range(3):
            body = await body_of(await pool.forward(RECEIPT, READ))
            assert body in (b"{}", b"", b"\r\n\r\n")
        assert scripted.connections == 2
        assert pool.stats().unsolicited == 1


@both_loops
@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
async def test_a_response_in_many_packets_has_nothing_behind_it(framing: bytes, size: int) -> None:
    """However its bytes are cut, the connection is used again."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.read_request()
            for begin in range(0, len(framing), size):
                await conversation.send(framing[begin : begin + size])
                await asyncio.sleep(0)

    async with pool_and_upstream(script) as (pool, scripted):
        for _ in range(3):
            await pool.forward(RECEIPT, READ)
        assert scripted.connections == 1
        assert pool.stats().unsolicited == 0


@both_loops
@pytest.mark.parametrize("behind", [WRONG, b"\r\n"], ids=["a response", "a line end"])
async def test_bytes_behind_a_stream_close_its_connection(behind: bytes) -> None:
    """Whether they come with its last part or while its reader takes it."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.read_request()
            await conversation.send(LONG + (behind if conversation.number == 1 else b""))

    async with pool_and_upstream(script) as (pool, scripted):
        for _ in range(3):
            assert len(await body_of(await pool.forward(RECEIPT, READ))) == 400_000
        assert scripted.connections == 2


@both_loops
async def test_bytes_before_the_first_request_are_no_response() -> None:
    """A new connection on which the upstream speaks first fails its call, which is not sent."""
    raw = _RawUpstream()
    try:
        async with pool_to(UpstreamAddress(port=raw.port)) as pool:
            call = asyncio.ensure_future(pool.forward(RECEIPT, WRITE))
            # The kernel has connected, and the pool has not heard of it.
            await until(lambda: raw.has_new_connection)
            upstream = raw.accept()
            upstream.sendall(WRONG)
            upstream.setblocking(False)
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.reason is Reason.UPSTREAM_INVALID
            assert not caught.value.sent
            assert not pool.stats().open
            assert pool.stats().unsolicited == 1
            with suppress(ConnectionResetError):
                assert await pool.loop.sock_recv(upstream, 1) == b""
    finally:
        raw.close()


@both_loops
async def test_session_tickets_of_a_tls_upstream_are_not_unsolicited(tmp_path: Path) -> None:
    """OpenSSL sends two behind each handshake; the connection is used for every call."""
    files = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # with tickets, unlike ours
    context.load_cert_chain(files.certificate, files.key)
    assert server_context(files.certificate, files.key).num_tickets == 0

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.read_request()
            await conversation.send(OK)

    async with scripted_upstream(script, tls=context) as scripted:
        address = UpstreamAddress(
            port=scripted.port, tls=upstream_context(files.ca), server_hostname="localhost"
        )
        async with pool_to(address) as pool:
            for _ in range(5):
                assert (await pool.forward(RECEIPT, WRITE)).body == b"{}"
                await asyncio.sleep(0.01)
            assert scripted.connections == 1
            assert pool.stats().unsolicited == 0


def test_events_say_whether_the_upstream_has_closed() -> None:
    """Bytes are POLLIN alone; an end has another event with it."""
    assert not has_ended(select.POLLIN)
    for event in (select.POLLRDHUP, select.POLLHUP, select.POLLERR):
        assert has_ended(select.POLLIN | event)
