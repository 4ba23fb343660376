"""Plain HTTP on a port that speaks TLS: recognised by its first byte, and answered as what it is.

A TLS connection begins with a handshake record, whose first byte is 0x16 (RFC 8446 section 5.1). A
request in plain HTTP begins with a letter of its method. The byte is looked at where it waits in
the kernel, so TLS still reads all of it, and no parser of ours reads a byte of plain HTTP: the
request is neither parsed nor answered by what it asks for. It gets one fixed response, which names
the URL to use, and the connection is closed. All other bytes are left to TLS, which refuses what it
cannot read.

The client may still be sending when the response is written. Unread bytes would reset the
connection, and the client would lose the response; so they are discarded for a while (RFC 9112
section 9.6).
"""

import asyncio
import socket

# Bytes of a plain request that are discarded before the connection is closed.
MAX_DISCARDED_BYTES = 1_048_576
_PIECE_BYTES = 65_536


async def peek_first_byte(loop: asyncio.AbstractEventLoop, client: socket.socket) -> bytes:
    """Return the first byte that `client` sends and leave it unread; nothing at an end of file.

    `client` is not blocking. Raises `OSError`.
    """
    while True:
        first = _peek(client)
        if first is not None:
            return first
        await _readable(loop, client)


def is_plain_http(first: bytes) -> bool:
    """Return whether a connection that begins with the byte `first` is plain HTTP."""
    return first.isalpha()


async def answer_and_discard(
    loop: asyncio.AbstractEventLoop, client: socket.socket, response: bytes
) -> None:
    """Send `response`, end the sending side, and discard what the client still sends.

    Raises `OSError`. The response is small: it fits into the kernel's buffer or is cut.
    """
    client.send(response)
    client.shutdown(socket.SHUT_WR)
    left = MAX_DISCARDED_BYTES
    while left > 0:
        piece = await loop.sock_recv(client, _PIECE_BYTES)
        if not piece:
            return
        left -= len(piece)


def _peek(client: socket.socket) -> bytes | None:
    try:
        return client.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return None


async def _readable(loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
    readable = loop.create_future()
    fd = client.fileno()
    loop.add_reader(fd, _resolve, readable)
    try:
        await readable
    finally:
        loop.remove_reader(fd)


def _resolve(readable: "asyncio.Future[None]") -> None:
    if not readable.done():
        readable.set_result(None)
