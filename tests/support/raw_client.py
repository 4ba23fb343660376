"""A raw HTTP client: bytes out, bytes in, and responses parsed by a strict reader of its own."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

# Seconds after which a client that waits for bytes has failed. No test comes near it.
WAIT = 20.0


class Client:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send `data`; a closed connection is no error."""
        with contextlib.suppress(OSError):
            self.writer.write(data)
            await self.writer.drain()

    async def response(self) -> "SeenResponse":
        """Return the next response, read by its own framing. Raises `EOFError` if there is none."""
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
        """Return all bytes until the connection closes or breaks."""
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
    """A response as a client sees it. Header names are lower case."""

    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes = b""


def parse_head(head: bytes) -> SeenResponse:
    """Parse a status line and headers; assert that they are well-formed."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    version, status, phrase = first.split(" ", 2)
    assert version == "HTTP/1.1"
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(": ")
        assert colon
        assert name.lower() not in headers, f"duplicate {name}"
        headers[name.lower()] = value
    return SeenResponse(int(status), phrase, headers)


def parse_responses(data: bytes) -> list[SeenResponse]:
    """Parse `data` into responses; assert that all of it is complete responses."""
    responses = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"truncated head: {head!r}"
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
            assert len(data) >= length, "truncated body"
            seen.body, data = data[:length], data[length:]
        responses.append(seen)
    return responses


def get(path: str = "/", *headers: str) -> bytes:
    """Return a plain GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: gate", *headers, "", ""]).encode("latin-1")


def post(body: bytes, *headers: str, path: str = "/") -> bytes:
    """Return a POST with a Content-Length."""
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
    """Connect a blocking socket; a small receive buffer makes it a slow reader."""
    with socket.socket() as client:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(True)
        client.connect(("127.0.0.1", port))
        yield client
