"""Writes requests to one connection, a large body in slices.

TLS encrypts what it is given at once: 16 MiB of it would hold the event loop for longer than a step
may. The next slice is written when the loop has run and the transport has room.
"""

import asyncio

# Bytes of a body that are written at once.
SLICE_BYTES = 262_144


class RequestWriter:
    """The writing side of one connection."""

    __slots__ = ("_loop", "_paused", "_rest", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._rest: memoryview | None = None
        self._paused = False

    @property
    def unsent(self) -> bool:
        """Whether a part of the request has not left."""
        return self._rest is not None or self._transport.get_write_buffer_size() > 0

    def write(self, request: bytes, body: bytes) -> None:
        """Write a request, which may have its body apart."""
        if not body:
            self._transport.write(request)
        elif len(body) <= SLICE_BYTES:
            # Two writes would be two system calls.
            self._transport.writelines((request, body))
        else:
            self._transport.write(request)
            self._rest = memoryview(body)
            self._write_slice()

    def pause(self) -> None:
        """Write no more for now: the transport is full."""
        self._paused = True

    def resume(self) -> None:
        """Go on writing."""
        self._paused = False
        self._write_slice()

    def _write_slice(self) -> None:
        rest = self._rest
        if rest is None or self._paused:
            return
        if self._transport.is_closing():
            self._rest = None
            return
        self._rest = rest[SLICE_BYTES:] if len(rest) > SLICE_BYTES else None
        self._transport.write(rest[:SLICE_BYTES])
        if self._rest is not None and not self._paused:
            self._loop.call_soon(self._write_slice)
