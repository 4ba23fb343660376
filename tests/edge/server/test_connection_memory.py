"""A long response streams through the edge in little memory."""

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest

from proxy.edge.tls import upstream_context
from tests.support.edge_server import certificate
from tests.support.loops import LOOP_FACTORIES
from tests.support.paths import ROOT
from tests.support.raw_client import Client, get, parse_head
from tests.support.scripted_upstream import Conversation, scripted_upstream

pytestmark = pytest.mark.process  # starts the command, or another program

SIZE = 50_000_000
ALLOWED = 2_500_000  # bytes of memory that one such response may take
PART = bytes(range(256)) * 256


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
async def test_a_long_response_takes_little_memory(
    loop: str, framing: str, tls: bool, tmp_path: Path
) -> None:
    """50 MB for a client that starts reading when every buffer is full.

    The response is complete, and the process hardly grew.
    """
    files = certificate(tmp_path)
    length = 0  # of the next response
    sent = 0

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        while True:
            await conversation.read_request()
            head = (
                b"Content-Length: %d" % length
                if framing == "length"
                else b"Transfer-Encoding: chunked"
            )
            await conversation.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
            sent = 0
            while sent < length:
                part = PART[: length - sent]
                await conversation.send(
                    part if framing == "length" else b"%x\r\n%b\r\n" % (len(part), part)
                )
                sent += len(part)
            if framing == "chunks":
                await conversation.send(b"0\r\n\r\n")

    async def read_response(client: Client) -> bytes:
        """Return the hash of the body of the next response."""
        seen = parse_head(await client.reader.readuntil(b"\r\n\r\n"))
        digest = hashlib.sha256()
        if "content-length" in seen.headers:
            left = int(seen.headers["content-length"])
            while left:
                part = await client.reader.read(min(left, 65_536))
                assert part
                left -= len(part)
                digest.update(part)
        else:
            while size := int(await client.reader.readuntil(b"\r\n"), 16):
                digest.update((await client.reader.readexactly(size + 2))[:-2])
            await client.reader.readexactly(2)
        return digest.digest()

    async with scripted_upstream(script) as seen:
        names = [str(files.certificate), str(files.key)] if tls else []
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.relay_process",
            loop,
            str(seen.port),
            *names,
            stdin=-1,
            stdout=-1,
            cwd=ROOT,
        )
        assert process.stdin
        assert process.stdout
        port = int(await process.stdout.readline())

        async def memory() -> int:
            assert process.stdin
            assert process.stdout
            process.stdin.write(b"\n")
            return int(await process.stdout.readline())

        context = upstream_context(files.ca) if tls else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost" if tls else None
        )
        client = Client(reader, writer)
        # What every process needs once: code, buffers of the loop and of TLS.
        for size in (1000, 400_000):
            length = size
            await client.send(get())
            await read_response(client)
        before = await memory()
        length, sent = SIZE, 0
        await client.send(get())
        stalled = 0
        while stalled != sent or not sent:
            stalled = sent
            await memory()  # an iteration of the other process's loop, and of ours
            for _ in range(50):
                await asyncio.sleep(0)
        assert sent < SIZE
        expected = hashlib.sha256((PART * (SIZE // len(PART) + 1))[:SIZE]).digest()
        assert await read_response(client) == expected
        grown = await memory() - before
        writer.close()
        process.stdin.close()
        assert await process.wait() == 0
        assert grown <= ALLOWED, f"it grew by {grown} bytes"
