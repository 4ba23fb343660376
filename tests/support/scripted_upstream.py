"""A scripted upstream: it reads requests as they come, and does with each connection what a test
tells it to.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from proxy.edge.upstream.pool import ConnectionPool, UpstreamAddress
from proxy.model import Receipt, UpstreamRequest, UpstreamResponse

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
VIEW = UpstreamRequest(
    "POST", b"/api/task_list", b"application/x-www-form-urlencoded", b"data=%7B%7D", kind="read"
)
ACT = UpstreamRequest(
    "POST", b"/api/add_task", b"application/x-www-form-urlencoded", b"data=%7B%7D"
)
RECEIPT = Receipt("id", 1, 0)


@dataclass
class Conversation:
    """One connection as the upstream sees it. `number` counts connections from 1."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: "Upstream"

    async def request(self) -> bytes:
        """The next request, head and body. Raises `EOFError` when there is none."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        request = head + await self.reader.readexactly(length)
        self.upstream.requests.append(request)
        return request

    async def say(self, data: bytes) -> None:
        """Send `data`."""
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the gate has closed."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65_536):
                pass


Script = Callable[[Conversation], Awaitable[None]]


@dataclass
class Upstream:
    """What the upstream has seen."""

    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    conversations: list[asyncio.Task[None]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def upstream(
    script: Script, *, tls: ssl.SSLContext | None = None, path: Path | None = None
) -> AsyncIterator[Upstream]:
    """Run `script` for every connection, then close that connection. With `path` on a Unix socket."""
    seen = Upstream()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        task = asyncio.current_task()
        assert task is not None
        seen.conversations.append(task)
        try:
            with contextlib.suppress(EOFError, OSError, asyncio.CancelledError):
                await script(Conversation(seen.connections, reader, writer, seen))
        finally:
            writer.close()

    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(converse, path)
    else:
        server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls)
        seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in seen.conversations:
            task.cancel()
        await asyncio.gather(*seen.conversations, return_exceptions=True)


async def serve_all(conversation: Conversation) -> None:
    """A well-behaved upstream."""
    while True:
        await conversation.request()
        await conversation.say(OK)


def saying(*data: bytes, stay: bool = False) -> Script:
    """An upstream that answers the first request of each connection with `data`, and then closes or
    stays silent.
    """

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        for part in data:
            await conversation.say(part)
            await asyncio.sleep(0)
        if stay:
            await conversation.gone()

    return script


@contextlib.asynccontextmanager
async def leg_to(target: UpstreamAddress) -> AsyncIterator[ConnectionPool]:
    """A leg, closed at the end."""
    leg = ConnectionPool(target)
    try:
        yield leg
    finally:
        leg.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def both(
    script: Script, target: UpstreamAddress | None = None
) -> AsyncIterator[tuple[ConnectionPool, Upstream]]:
    """An upstream and a leg to it; `target` gives the leg's limits."""
    async with (
        upstream(script) as seen,
        leg_to(replace(target or UpstreamAddress("test"), port=seen.port)) as leg,
    ):
        yield leg, seen


async def body_of(answer: UpstreamResponse) -> bytes:
    """The body, whole or streamed."""
    if answer.stream is None:
        return answer.body
    return b"".join([part async for part in answer.stream])
