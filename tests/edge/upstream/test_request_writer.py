"""Requests are written in slices: no step of the event loop takes a large body as a whole."""

import asyncio
from typing import cast

from proxy.edge.upstream.request_writer import SLICE_BYTES, RequestWriter


class Transport:
    """A transport that notes each write, and pauses its protocol when it is told to."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closing = False
        self.buffered = 0

    def write(self, data: bytes | memoryview) -> None:
        self.writes.append(bytes(data))

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.writes.append(b"".join(parts))

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.buffered


def make() -> tuple[Transport, RequestWriter]:
    """Make a transport and its writer."""
    transport = Transport()
    return transport, RequestWriter(cast(asyncio.Transport, transport), asyncio.get_running_loop())


BODY = bytes(range(256)) * (3 * SLICE_BYTES // 256) + b"end"


async def test_a_request_of_usual_size_is_one_write() -> None:
    """Whether its body is apart or not."""
    transport, writer = make()
    writer.write(b"head+body", b"")
    writer.write(b"head", b"x" * SLICE_BYTES)
    assert transport.writes == [b"head+body", b"head" + b"x" * SLICE_BYTES]
    assert not writer.unsent


async def test_a_large_body_is_written_a_slice_a_step() -> None:
    """Complete and in order, with the loop in between; the old way was one write of all."""
    transport, writer = make()
    writer.write(b"head", BODY)
    steps = 0
    while writer.unsent:
        assert len(transport.writes) == 2 + steps
        await asyncio.sleep(0)
        steps += 1
    assert steps == 3
    assert b"".join(transport.writes) == b"head" + BODY
    assert max(map(len, transport.writes)) == SLICE_BYTES


async def test_a_full_transport_gets_no_more() -> None:
    """Until it has room again."""
    transport, writer = make()
    writer.write(b"head", BODY)
    writer.pause()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(transport.writes) == 2
    assert writer.unsent
    writer.resume()
    for _ in range(5):
        await asyncio.sleep(0)
    assert b"".join(transport.writes) == b"head" + BODY


async def test_a_closed_connection_ends_the_writing() -> None:
    """What is left of the body is forgotten."""
    transport, writer = make()
    writer.write(b"head", BODY)
    transport.closing = True
    await asyncio.sleep(0)
    assert len(transport.writes) == 2
    assert not writer.unsent


async def test_bytes_in_the_transport_are_unsent() -> None:
    """The connection must not be used again before they have left."""
    transport, writer = make()
    transport.buffered = 1
    assert writer.unsent
