"""What the edge's tests share: a handler that stands in for the gate, a gate's edge on a real
socket, a raw client, a scripted upstream.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from proxy.cli.demo.certificate import SelfSigned, make_self_signed
from proxy.edge.server.connection_limit import ConnectionLimit
from proxy.edge.server.limits import Limits, Timing
from proxy.edge.server.listener import Listener, bind, record_rejected_connection
from proxy.edge.server.request_ids import new_request_id_source
from proxy.edge.server.server import Server
from proxy.errors import Rejected
from proxy.model import Peer, Reason, Request, Response

T = TypeVar("T")
ReadBody = Callable[[], Awaitable[bytes]]
Answering = Callable[[Request, ReadBody], Awaitable[Response]]

NewLoop = Callable[[], asyncio.AbstractEventLoop]
LOOPS: list[NewLoop] = [asyncio.new_event_loop, uvloop.new_event_loop]
LOOP_NAMES = ["asyncio", "uvloop"]
# seconds after which a test that waits for an event has failed; no test is meant to come near it
WAIT = 20.0
# A server that checks deadlines often, so that a test of one does not take half a second.
QUICK = Timing(sweep=0.02, linger=5.0, close=0.2, drain_idle=0.2)


def run(main: Coroutine[Any, Any, T], new_loop: NewLoop = asyncio.new_event_loop) -> T:
    """Run `main` on a loop of its own; an error that the loop would only have logged fails the
    test.
    """
    problems: list[str] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: problems.append(f"{context}")
        )
        result = await asyncio.wait_for(main, 3 * WAIT)
        await asyncio.sleep(0)
        return result

    with asyncio.Runner(loop_factory=new_loop) as runner:
        result = runner.run(watched())
    assert not problems, problems
    return result


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110  (what is awaited is a state of the code under test, which has no event for it)
            await asyncio.sleep(0)


async def echo(request: Request, read_body: ReadBody) -> Response:
    """Answer with what was understood: verb, target and body."""
    body = request.body if request.body_complete else await read_body()
    target = request.path if request.query is None else f"{request.path}?{request.query}"
    return Response(200, f"{request.http_method} {target} ".encode() + body, b"text/plain")


@dataclass
class RecordingHandler:
    """Stands where the gate stands, and remembers what reached it and what was refused."""

    answer: Answering = echo
    requests: list[Request] = field(default_factory=list)
    rejections: list[Rejected] = field(default_factory=list)
    rejected: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: Request, read_body: ReadBody) -> Response:
        """As the gate does: every refusal becomes a reply and is recorded."""
        self.requests.append(request)
        try:
            return await self.answer(request, read_body)
        except Rejected as error:
            return self.refuse(request.id, request.peer, error)

    def refuse(self, request_id: str, origin: Peer, error: Rejected) -> Response:
        """Record the refusal."""
        assert request_id
        assert origin.address
        self.rejections.append(error)
        self.rejected.set()
        return Response(error.status, error.reason.encode(), b"text/plain", close=True)

    @property
    def reasons(self) -> list[Reason]:
        """Why requests were refused."""
        return [error.reason for error in self.rejections]


@dataclass
class Edge:
    """A listening edge and its handler."""

    handler: RecordingHandler
    server: Server
    listener: Listener
    port: int

    async def connect(self, tls: ssl.SSLContext | None = None) -> "Client":
        """A new client."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=tls, server_hostname="localhost" if tls else None
        )
        return Client(reader, writer)

    async def talk(self, data: bytes) -> bytes:
        """Send `data`, say no more, and give all that comes back until the edge closes."""
        client = await self.connect()
        await client.send(data)
        with contextlib.suppress(OSError):
            client.writer.write_eof()
        return await client.rest()


@contextlib.asynccontextmanager
async def edge(
    double: RecordingHandler,
    limits: Limits | None = None,
    *,
    timing: Timing = QUICK,
    tls: ssl.SSLContext | None = None,
    connections: int = 1000,
    per_address: int = 1000,
    handshake_seconds: float = 5.0,
) -> AsyncIterator[Edge]:
    """An edge on 127.0.0.1, closed at the end with everything it has open."""
    server = Server(double, limits or Limits(), new_request_id_source(), timing)
    listening = bind("127.0.0.1", 0)
    listener = Listener(
        listening,
        server,
        tls,
        limit=ConnectionLimit(connections, per_address),
        handshake_seconds=handshake_seconds,
        on_rejected=lambda address: record_rejected_connection(server, address),
    )
    try:
        yield Edge(double, server, listener, listening.getsockname()[1])
    finally:
        listener.close()
        await server.drain(0.0)
        await asyncio.sleep(0)


class Client:
    """A raw client: bytes out, bytes in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send; a connection that the edge has closed meanwhile is no error."""
        with contextlib.suppress(OSError):
            self.writer.write(data)
            await self.writer.drain()

    async def response(self) -> "SeenResponse":
        """The next reply, read by its own framing. Raises `EOFError` when there is none."""
        async with asyncio.timeout(WAIT):
            head = await self.reader.readuntil(b"\r\n\r\n")
            seen = parse_head(head)
            if "content-length" in seen.headers:
                seen.body = await self.reader.readexactly(int(seen.headers["content-length"]))
            elif seen.headers.get("transfer-encoding") == "chunked":
                while (size := int(await self.reader.readuntil(b"\r\n"), 16)) > 0:
                    seen.body += (await self.reader.readexactly(size + 2))[:-2]
                assert await self.reader.readexactly(2) == b"\r\n"
            return seen

    async def rest(self) -> bytes:
        """Everything until the edge closes, however it closes."""
        seen = b""
        async with asyncio.timeout(WAIT):
            try:
                while part := await self.reader.read(65_536):
                    seen += part
            except OSError:
                pass
        self.writer.close()
        return seen


@dataclass
class SeenResponse:
    """A reply as a client sees it. Header names are lower case."""

    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes = b""


def parse_head(head: bytes) -> SeenResponse:
    """A status line and headers; asserts that they are well-formed."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    version, status, phrase = first.split(" ", 2)
    assert version == "HTTP/1.1"
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(": ")
        assert colon
        assert name.lower() not in headers, f"{name} stands twice"
        headers[name.lower()] = value
    return SeenResponse(int(status), phrase, headers)


def parse_responses(data: bytes) -> list[SeenResponse]:
    """All replies in `data`, which must hold nothing else. No reply may be cut short."""
    replies = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"half a head: {head!r}"
        seen = parse_head(head + end)
        if seen.headers.get("transfer-encoding") == "chunked":
            while True:
                size, _, data = data.partition(b"\r\n")
                part, data = data[: int(size, 16)], data[int(size, 16) + 2 :]
                if not part:
                    break
                seen.body += part
        else:
            length = int(seen.headers.get("content-length", "0"))
            assert len(data) >= length, "half a body"
            seen.body, data = data[:length], data[length:]
        replies.append(seen)
    return replies


def certificate(directory: Path) -> SelfSigned:
    """A certificate for localhost, with its CA."""
    directory.mkdir(parents=True, exist_ok=True)
    return make_self_signed(["localhost", "127.0.0.1"], directory, now=time.time())


def get(path: str = "/", *headers: str) -> bytes:
    """A plain GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: gate", *headers, "", ""]).encode("latin-1")


def post(body: bytes, *headers: str, path: str = "/") -> bytes:
    """A plain POST with a length."""
    return (
        "\r\n".join(
            [
                f"POST {path} HTTP/1.1",
                "Host: gate",
                f"Content-Length: {len(body)}",
                *headers,
                "",
                "",
            ]
        ).encode()
        + body
    )


@contextlib.contextmanager
def silent_socket(port: int, *, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A connected socket that does only what it is told to; a small receive buffer makes it a poor
    reader.
    """
    with socket.socket() as client:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(True)
        client.connect(("127.0.0.1", port))
        yield client
