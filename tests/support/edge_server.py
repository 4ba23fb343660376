"""The edge on a real socket, with a handler in place of the gate."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from proxy.cli.demo.certificate import SelfSigned, make_self_signed
from proxy.common.address import Networks
from proxy.common.memory_budget import MemoryBudget
from proxy.edge.server.connection import Connection
from proxy.edge.server.connection_limit import ConnectionLimit
from proxy.edge.server.limits import Limits, Timing
from proxy.edge.server.listener import Listener, bind, record_rejected_connection
from proxy.edge.server.request_ids import new_request_id_source
from proxy.edge.server.server import Server
from proxy.errors import Rejected
from proxy.gate.ports import ReadBody as ReadBody
from proxy.model import Peer, Reason, Request, Response
from tests.support.raw_client import Client

Answer = Callable[[Request, ReadBody], Awaitable[Response]]

# Seconds after which a test that waits for a condition has failed. No test comes near it.
WAIT = 20.0
# A server that checks deadlines often, so that a test of one does not take half a second.
QUICK = Timing(sweep=0.02, linger=5.0, close=0.2, drain_idle=0.2)


async def until(condition: Callable[[], object]) -> None:
    """Run the loop until `condition` holds."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110  (the code under test has no event for its states)
            await asyncio.sleep(0)


# -- handlers


async def echo(request: Request, read_body: ReadBody) -> Response:
    """Answer with HTTP method, target and body as they were read."""
    body = request.body if request.body_complete else await read_body()
    target = request.path if request.query is None else f"{request.path}?{request.query}"
    return Response(200, f"{request.http_method} {target} ".encode() + body, b"text/plain")


async def refuse_all(request: Request, read_body: ReadBody) -> Response:
    """Refuse before the body is read, as the gate does without a credential."""
    raise Rejected(Reason.NO_CREDENTIAL)


@dataclass
class RecordingHandler:
    """A handler in place of the gate, which records requests and rejections."""

    answer: Answer = echo
    requests: list[Request] = field(default_factory=list)
    rejections: list[Rejected] = field(default_factory=list)
    rejected_peers: list[Peer] = field(default_factory=list)
    rejected: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: Request, read_body: ReadBody) -> Response:
        """Answer `request`, and turn a `Rejected` into a response, as the gate does."""
        self.requests.append(request)
        try:
            return await self.answer(request, read_body)
        except Rejected as error:
            return self.refuse(request.id, request.peer, error)

    def refuse(self, request_id: str, peer: Peer, error: Rejected) -> Response:
        """Record the rejection."""
        assert request_id
        assert peer.address
        self.rejections.append(error)
        self.rejected_peers.append(peer)
        self.rejected.set()
        return Response(error.status, error.reason.encode(), b"text/plain", close=True)

    @property
    def reasons(self) -> list[Reason]:
        """The reasons of all rejections."""
        return [error.reason for error in self.rejections]


class Parts:
    """A stream of given parts; an exception among them is raised in its place."""

    def __init__(self, *parts: bytes | Exception, endless: bool = False) -> None:
        """An endless stream repeats its first part."""
        self.parts = list(parts)
        self._endless = endless
        self.closed = asyncio.Event()

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if not self.parts:
            raise StopAsyncIteration
        part = self.parts[0] if self._endless else self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    async def aclose(self) -> None:
        """Record that the stream was closed."""
        self.closed.set()


def streaming(stream: Parts, length: int | None = None) -> RecordingHandler:
    """Return a handler that answers with `stream`."""

    async def answer(request: Request, read_body: ReadBody) -> Response:
        return Response(200, stream=stream, length=length)

    return RecordingHandler(answer)


# -- the edge


@dataclass
class Edge:
    """A listening edge and its handler."""

    handler: RecordingHandler
    server: Server
    listener: Listener
    port: int

    async def connect(self, tls: ssl.SSLContext | None = None) -> Client:
        """Connect a client."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=tls, server_hostname="localhost" if tls else None
        )
        return Client(reader, writer)

    async def talk(self, data: bytes) -> bytes:
        """Send `data` and an end of file; return all bytes until the edge closes."""
        client = await self.connect()
        await client.send(data)
        with contextlib.suppress(OSError):
            client.writer.write_eof()
        return await client.rest()


@contextlib.asynccontextmanager
async def edge(
    handler: RecordingHandler,
    limits: Limits | None = None,
    *,
    timing: Timing = QUICK,
    tls: ssl.SSLContext | None = None,
    connections: int = 1000,
    per_address: int = 1000,
    handshake_seconds: float = 5.0,
    https_url: str = "https://gate.example.org",
    memory: MemoryBudget | None = None,
    balancers: Networks | None = None,
) -> AsyncIterator[Edge]:
    """Run an edge on 127.0.0.1; close it with all its connections at the end."""
    server = Server(handler, limits or Limits(), new_request_id_source(), timing, memory)
    listening = bind("127.0.0.1", 0)
    listener = Listener(
        listening,
        server,
        tls,
        limit=ConnectionLimit(connections, per_address),
        handshake_seconds=handshake_seconds,
        on_rejected=lambda peer: record_rejected_connection(server, peer),
        https_url=https_url,
        balancers=balancers,
    )
    try:
        yield Edge(handler, server, listener, listening.getsockname()[1])
    finally:
        listener.close()
        await server.drain(0.0)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def held(
    limits: Limits | None = None, timing: Timing = QUICK
) -> AsyncIterator[tuple[Edge, asyncio.Event]]:
    """Run an edge whose handler waits for the event before it echoes."""
    go = asyncio.Event()

    async def answer(request: Request, read_body: ReadBody) -> Response:
        await go.wait()
        return await echo(request, read_body)

    async with edge(RecordingHandler(answer), limits, timing=timing) as gate:
        yield gate, go


def only_connection(server: Server) -> Connection:
    """Return the one open connection."""
    [connection] = server.connections
    return connection


def certificate(directory: Path) -> SelfSigned:
    """Make a certificate for localhost, with its CA."""
    directory.mkdir(parents=True, exist_ok=True)
    return make_self_signed(["localhost", "127.0.0.1"], directory, now=time.time())
