"""The HTTP edge: any bytes give responses or a closed connection, and never an exception.

The first byte gives the size of the pieces in which the rest arrives.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

from proxy.edge.server.connection import Connection
from proxy.edge.server.limits import Limits
from proxy.edge.server.server import Server
from proxy.errors import Rejected
from proxy.model import Peer, Request, Response

LIMITS = Limits(header_bytes=2048, body_bytes=8192, early_bytes=256)
HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [ -~]*\r\n(?:[A-Za-z-]+: [ -~]*\r\n)*\r\n")
LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")
DATE = re.compile(rb"\r\nDate: [^\r]*")
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
TURNS = 12  # of the loop, in which everything that does not wait for the client happens
Seen = tuple[str, str, str | None, bytes]


@dataclass
class Handler:
    """A double of the gate."""

    seen: list[Seen] = field(default_factory=list)
    answers: list[tuple[str, int]] = field(default_factory=list)

    async def handle(self, request: Request, read_body: Callable[[], Awaitable[bytes]]) -> Response:
        """Respond with the length of the body; refuse an unreadable one, as the gate does."""
        try:
            body = request.body if request.body_complete else await read_body()
        except Rejected as error:
            self.answers.append((request.http_method, error.status))
            return Response(error.status, error.reason.encode())
        self.seen.append((request.http_method, request.path, request.query, body))
        self.answers.append((request.http_method, 200))
        return Response(200, b"%d" % len(body))

    def refuse(self, request_id: str, origin: Peer, error: Rejected) -> Response:
        """Return the response to bytes that are no request."""
        self.answers.append(("", error.status))
        return Response(error.status, error.reason.encode(), close=True)


class Transport:
    """A socket that accepts everything and does nothing."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.reading, self.closing = True, False

    def get_extra_info(self, _name: str) -> None:
        """Return no TLS."""

    def set_write_buffer_limits(self, *, high: int) -> None:
        """Ignore them: nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """Return zero: nothing is buffered."""
        return 0

    def write(self, data: bytes) -> None:
        """Record the bytes."""
        assert not self.closing, "nothing is written to a closed connection"
        self.sent += data

    def write_eof(self) -> None:
        """Leave the reading side open."""

    def pause_reading(self) -> None:
        """Record it."""
        self.reading = False

    def resume_reading(self) -> None:
        """Record it."""
        self.reading = True

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self.closing

    def close(self) -> None:
        """Record it."""
        self.closing = True

    abort = close


class Bench:
    """One loop and one server for all inputs, since making them takes longer than using them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.problems: list[str] = []
        self.loop.set_exception_handler(
            lambda _, context: self.problems.append(repr(context.get("exception") or context))
        )
        self.server = self.loop.run_until_complete(self._server())

    async def _server(self) -> Server:
        return Server(Handler(), LIMITS, lambda: "REF")

    def talk(self, data: bytes, size: int) -> tuple[list[Seen], bytes]:
        """Send `data` in pieces of `size`; return the requests and the bytes that came back."""
        handler = self.server.handler = Handler()
        transport = Transport()
        connection = Connection(self.server, "127.0.0.1", 1, tls=False)
        self.loop.run_until_complete(self._drive(connection, transport, data, size))
        assert not self.problems, self.problems
        assert not self.server.connections, "a connection that is gone is not counted"
        assert connection.task is None, "the task has ended"
        _check_replies(
            bytes(transport.sent).replace(INTERIM, b""), handler.answers, closed=transport.closing
        )
        return handler.seen, DATE.sub(b"", bytes(transport.sent).replace(INTERIM, b""))

    async def _drive(
        self, connection: Connection, transport: Transport, data: bytes, size: int
    ) -> None:
        connection.connection_made(cast(asyncio.BaseTransport, transport))
        for at in range(0, len(data), size):
            await _turns(until=lambda: transport.reading or transport.closing)
            if transport.closing or not transport.reading:
                break
            connection.data_received(data[at : at + size])
        await _turns()
        if not transport.closing and not connection.eof_received():
            transport.close()
        await _turns()
        connection.connection_lost(None)
        await _turns()


async def _turns(until: Callable[[], bool] = lambda: False) -> None:
    for _ in range(TURNS):
        if until():
            return
        await asyncio.sleep(0)


def _check_replies(sent: bytes, answers: list[tuple[str, int]], *, closed: bool) -> None:
    """Assert that every response was written completely and in order, and nothing else."""
    at = 0
    for number, (verb, status) in enumerate(answers):
        if at == len(sent) and closed and number == len(answers) - 1:
            return  # the client had left before this one was written
        head = HEAD.match(sent, at)
        assert head is not None, "a reply has a head"
        assert int(head[1]) == status, "the replies are in the order of the requests"
        length = LENGTH.search(head[0])
        assert length is not None, "a reply says how long it is"
        at = head.end() + (0 if verb == "HEAD" else int(length[1]))
    assert at == len(sent), "nothing else is sent"


BENCH = Bench()


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    if not data:
        return
    size, data = data[0] or 1, data[1:20_000]
    pieces, sent = BENCH.talk(data, size)
    # Beyond, what is sent ahead in one piece is refused and what comes slowly is not, and a head's
    # size is known sooner or later.
    if len(pieces) < 32 and len(data) <= LIMITS.header_bytes:
        assert BENCH.talk(data, len(data) or 1) == (pieces, sent), (
            "in what pieces it arrives changes nothing"
        )
