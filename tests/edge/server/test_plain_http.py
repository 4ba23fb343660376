"""Plain HTTP on a TLS port: answered in plain HTTP, recorded, and closed."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from proxy.edge.server.limits import Timing
from proxy.edge.server.plain_http import MAX_DISCARDED_BYTES, is_plain_http
from proxy.edge.tls import server_context, upstream_context
from proxy.errors import Rejected
from proxy.model import Peer, Reason, Response
from proxy.protocol.refusal import Refusal, json_refusal
from tests.support.edge_server import QUICK, RecordingHandler, certificate, edge, until
from tests.support.loops import both_loops
from tests.support.raw_client import get, parse_responses, post

PLAIN = {
    "GET": get("/api/ping"),
    "POST": post(b"data={}"),
    "a method in lower case": b"get / HTTP/1.1\r\n\r\n",
    "half a request line": b"GE",
    "one letter": b"P",
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT gate:443 HTTP/1.1\r\nHost: gate:443\r\n\r\n",
    "a PROXY header": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get(),
    "a request that a parser would refuse": b"GET / HTTP/9.9\r\nContent-Length: x\r\n\r\n",
}


class RefusingHandler(RecordingHandler):
    """A handler whose refusals are the gate's."""

    def refuse(self, request_id: str, peer: Peer, error: Rejected) -> Response:
        super().refuse(request_id, peer, error)
        return json_refusal(Refusal.from_error(error, request_id))


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """Make the context of a listener for localhost, with its CA in `tmp_path`."""
    files = certificate(tmp_path)
    return server_context(files.certificate, files.key)


@both_loops
@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
async def test_plain_http_is_answered_with_the_url_to_use(
    data: bytes, context: ssl.SSLContext
) -> None:
    """One 400 in plain HTTP, a record with a reason of its own, and the place is free again."""
    handler = RefusingHandler()
    async with edge(handler, tls=context, per_address=1) as gate:
        for number in range(1, 4):
            [response] = parse_responses(await gate.talk(data))
            assert response.status == 400
            assert "TLS" in response.phrase
            assert "https://gate.example.org" in response.phrase
            assert b"https://gate.example.org" in response.body
            assert response.headers["connection"] == "close"
            await until(lambda: gate.listener.limit.open == 0)
            assert handler.reasons == [Reason.PLAIN_HTTP] * number
        assert not handler.requests
        assert not gate.server.failed_handshakes


@both_loops
@pytest.mark.interpreted
async def test_the_old_behaviour_was_an_empty_reply_without_a_trace(
    context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first byte is not looked at, TLS closes the connection and nothing is recorded."""
    monkeypatch.setattr("proxy.edge.server.listener.is_plain_http", lambda first: False)
    handler = RefusingHandler()
    async with edge(handler, tls=context) as gate:
        assert b"HTTP" not in await gate.talk(get())
        assert not handler.rejections


@both_loops
@pytest.mark.interpreted
async def test_no_byte_of_it_reaches_a_parser(
    context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that reads requests is never made, and the answer depends on no byte."""
    made: list[object] = []
    handler = RefusingHandler()
    async with edge(handler, tls=context) as gate:
        monkeypatch.setattr(gate.server, "connection_opened", made.append)
        answers = set()
        for data in PLAIN.values():
            [response] = parse_responses(await gate.talk(data))
            answers.add(response.phrase.partition("[")[0])
        assert len(answers) == 1
        assert not made


@both_loops
async def test_a_client_that_is_still_sending_gets_the_answer(context: ssl.SSLContext) -> None:
    """Bytes behind the first are discarded, so that no reset destroys the answer on its way."""
    async with edge(RefusingHandler(), tls=context) as gate:
        client = await gate.connect()
        await client.send(post(bytes(MAX_DISCARDED_BYTES // 2)))
        client.writer.write_eof()
        [response] = parse_responses(await client.rest())
        assert response.status == 400


@both_loops
@pytest.mark.parametrize("more", [b"", bytes(3 * MAX_DISCARDED_BYTES)], ids=["stays", "floods"])
async def test_a_client_that_does_not_leave_is_left(more: bytes, context: ssl.SSLContext) -> None:
    """Neither time nor bytes without end: the place is free after the time for lingering."""
    timing = Timing(sweep=0.02, linger=0.1)
    async with edge(RefusingHandler(), tls=context, timing=timing, per_address=1) as gate:
        client = await gate.connect()
        sending = asyncio.ensure_future(client.send(get() + more))
        assert b"HTTP/1.1 400" in await client.rest()
        await until(lambda: gate.listener.limit.open == 0)
        await sending
        assert gate.handler.reasons == [Reason.PLAIN_HTTP]


@both_loops
async def test_the_first_byte_has_the_deadline_of_the_handshake(context: ssl.SSLContext) -> None:
    """A silent client, and one whose first byte came late, have that time and not twice as long."""
    handler = RefusingHandler()
    async with edge(handler, tls=context, per_address=2, handshake_seconds=0.4) as gate:
        loop = asyncio.get_running_loop()
        began = loop.time()
        silent, late = await gate.connect(), await gate.connect()
        await asyncio.sleep(0.25)
        await late.send(b"\x16")
        await until(lambda: gate.listener.limit.open == 0)
        assert loop.time() - began < 0.65
        assert await silent.rest() == await late.rest() == b""
        assert gate.server.failed_handshakes == 2
        assert not handler.rejections


@both_loops
@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["at once", "later"])
async def test_a_tls_client_is_served_whenever_its_first_byte_comes(
    pause: float, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """The byte that was looked at is still there for TLS, also where it had to be waited for."""
    async with edge(RefusingHandler(), tls=context) as gate:
        for _ in range(3):
            client = await gate.connect()
            await asyncio.sleep(pause)
            await client.writer.start_tls(
                upstream_context(tmp_path / "ca.pem"), server_hostname="localhost"
            )
            await client.send(get("/x"))
            assert (await client.response()).body == b"GET /x "
            client.writer.close()


@both_loops
async def test_it_counts_to_the_limit_of_its_address(context: ssl.SSLContext) -> None:
    """A client that speaks plain HTTP holds a place until it is closed, as any other does."""
    timing = Timing(sweep=QUICK.sweep, linger=20.0)
    handler = RefusingHandler()
    async with edge(handler, tls=context, timing=timing, per_address=1) as gate:
        first = await gate.connect()
        await first.send(get())
        assert (await first.response()).status == 400
        assert await (await gate.connect()).rest() == b""
        assert handler.reasons == [Reason.PLAIN_HTTP, Reason.TOO_MANY_CONNECTIONS]
        first.writer.close()
        await until(lambda: gate.listener.limit.open == 0)


@both_loops
async def test_a_client_that_leaves_at_once_is_no_error(context: ssl.SSLContext) -> None:
    """A reset while the answer is written closes the connection, and the loop logs nothing."""
    handler = RefusingHandler()
    async with edge(handler, tls=context) as gate:
        for _ in range(5):
            client = socket.create_connection(("127.0.0.1", gate.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(get())
            client.close()
        await until(lambda: gate.listener.limit.open == 0 and not gate.server.handshakes)


@both_loops
async def test_tls_on_a_plain_port_is_told_apart(tmp_path: Path) -> None:
    """The record says what came, not only that it was no request."""
    handler = RefusingHandler()
    certificate(tmp_path)
    async with edge(handler) as gate:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await gate.connect(upstream_context(tmp_path / "ca.pem"))
        await until(lambda: handler.rejections)
        assert handler.reasons == [Reason.BAD_REQUEST]
        assert "TLS" in handler.rejections[0].detail


def test_every_byte_but_a_letter_is_left_to_tls() -> None:
    """HTTP methods begin with letters; a handshake, an alert and a PROXY 2 header do not."""
    letters = {byte for byte in range(256) if is_plain_http(bytes([byte]))}
    assert letters == {*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"}
    assert not is_plain_http(b"")
