"""A scripted upstream: a script says what each connection answers, and the upstream records what it
received.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from proxy.common.memory_budget import Reservation
from proxy.edge.upstream.address import UpstreamAddress
from proxy.edge.upstream.pool import ConnectionPool, UpstreamOptions
from proxy.model import Receipt, UpstreamRequest, UpstreamResponse

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
HEAD_200 = b"HTTP/1.1 200 OK\r\n"
READ = UpstreamRequest(
    "POST", b"/api/task_list", b"application/x-www-form-urlencoded", b"data=%7B%7D", kind="read"
)
WRITE = UpstreamRequest(
    "POST", b"/api/add_task", b"application/x-www-form-urlencoded", b"data=%7B%7D"
)
HEARTBEAT = replace(WRITE, path=b"/api/ping", kind="heartbeat")
RECEIPT = Receipt("id", 1, 0)
# Sweeps that do not make a test of a deadline wait.
QUICK = UpstreamOptions(sweep_interval=0.02)
# For responses that are meant to time out.
IMPATIENT = replace(QUICK, response_timeout=0.1, read_timeout=0.1)


@dataclass
class Conversation:
    """One connection as the upstream sees it. `number` counts connections from 1."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: "ScriptedUpstream"

    async def read_request(self) -> bytes:
        """Return the next request, head and body. Raise `EOFError` when there is none."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        request = head + await self.reader.readexactly(length)
        self.upstream.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        """Send `data`."""
        self.writer.write(data)
        await self.writer.drain()

    async def wait_closed(self) -> None:
        """Wait until the proxy has closed the connection."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65_536):
                pass


Script = Callable[[Conversation], Awaitable[None]]


@dataclass
class ScriptedUpstream:
    """What the upstream has received."""

    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    conversations: list[asyncio.Task[None]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def scripted_upstream(
    script: Script, *, tls: ssl.SSLContext | None = None, path: Path | None = None
) -> AsyncIterator[ScriptedUpstream]:
    """Run `script` for each connection, then close it. Listen on a Unix socket at `path`, if any."""
    scripted = ScriptedUpstream()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scripted.connections += 1
        task = asyncio.current_task()
        assert task is not None
        scripted.conversations.append(task)
        try:
            with contextlib.suppress(EOFError, OSError, asyncio.CancelledError):
                await script(Conversation(scripted.connections, reader, writer, scripted))
        finally:
            writer.close()

    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(converse, path)
    else:
        server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls)
        scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()
        for task in scripted.conversations:
            task.cancel()
        await asyncio.gather(*scripted.conversations, return_exceptions=True)


async def serve_all(conversation: Conversation) -> None:
    """Answer every request with `OK`."""
    while True:
        await conversation.read_request()
        await conversation.send(OK)


def responding(*data: bytes, stay: bool = False) -> Script:
    """Answer the first request of each connection with `data`; then close it, or `stay` silent."""

    async def script(conversation: Conversation) -> None:
        await conversation.read_request()
        for part in data:
            await conversation.send(part)
            await asyncio.sleep(0)
        if stay:
            await conversation.wait_closed()

    return script


@contextlib.asynccontextmanager
async def pool_to(
    address: UpstreamAddress,
    options: UpstreamOptions = QUICK,
    *,
    memory: Reservation | None = None,
) -> AsyncIterator[ConnectionPool]:
    """A pool, closed at the end."""
    pool = ConnectionPool(address, options, memory=memory)
    try:
        yield pool
    finally:
        pool.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def pool_and_upstream(
    script: Script, options: UpstreamOptions = QUICK, *, address: UpstreamAddress | None = None
) -> AsyncIterator[tuple[ConnectionPool, ScriptedUpstream]]:
    """An upstream and a pool to it. `address` needs no port."""
    async with (
        scripted_upstream(script) as scripted,
        pool_to(replace(address or UpstreamAddress(), port=scripted.port), options) as pool,
    ):
        yield pool, scripted


async def body_of(response: UpstreamResponse) -> bytes:
    """The body, complete or streamed."""
    if response.stream is None:
        return response.body
    return b"".join([part async for part in response.stream])
