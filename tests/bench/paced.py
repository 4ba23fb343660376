"""Calls at given times, from a client that costs little: it shares a core with what it measures.

Everything that will be sent is written out beforehand, an answer is looked at no closer than for
its status and length, and the collector rests meanwhile. (With streams and a task for each call the
client took more of the core than the gate, and what it kept waiting counted as the gate's.)
"""

import asyncio
import gc
import time
from collections import deque
from typing import cast

from tests.bench.calls import cycle, worker_name
from tests.bench.seen import Seen

_LENGTH = b"\r\ncontent-length:"
_MOST_LATE = 30.0  # seconds that the last answers may take


class _Link(asyncio.Protocol):
    """One worker's connection: its calls follow each other, each sent when it is due and the one
    before it is answered.
    """

    def __init__(
        self, seen: Seen, latencies: list[float], whole: asyncio.Event, count: int
    ) -> None:
        """`whole` is set once there are `count` latencies."""
        self._seen = seen
        self._latencies = latencies
        self._whole = whole
        self._count = count
        # when it was due (monotonic), and the request; the first is under way
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """(asyncio)."""
        self._transport = cast(asyncio.Transport, transport)

    def call(self, due: float, request: bytes) -> None:
        """Send `request` now, or when those before it are answered."""
        self._waiting.append((due, request))
        if len(self._waiting) == 1:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """(asyncio) Count an answer that is whole."""
        self._data = data = self._data + data
        head, end, body = data.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            return
        self._data = b""
        due, _ = self._waiting.popleft()
        self._latencies.append(time.monotonic() - due)
        if data[9:12] != b"200":
            self._seen.errors.append(repr(data[:300]))
        if self._waiting:
            self._transport.write(self._waiting[0][1])
        elif len(self._latencies) == self._count:
            self._whole.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """(asyncio) An error unless all is answered, and the end of the measurement."""
        if self._waiting:
            self._seen.errors.append(f"the connection was lost: {exc}")
            self._whole.set()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def mix(ports: dict[str, int], token: str, rate: float, seconds: float, windows: int) -> Seen:
    """`rate` calls a second for `seconds`, to one port after the other, `windows` times; latencies
    by name of the port and window.
    """
    seen = Seen()
    for window in range(windows):
        for name, port in ports.items():
            await _window(seen, f"{name} {window}", port, token, rate, seconds)
    return seen


async def _window(
    seen: Seen, kind: str, port: int, token: str, rate: float, seconds: float, connections: int = 16
) -> None:
    """`rate` calls a second, spread over `connections` workers."""
    loop = asyncio.get_running_loop()
    latencies = seen.latencies.setdefault(kind, [])
    requests = _requests(port, token, round(rate * seconds), connections)
    whole = asyncio.Event()
    links = [
        (
            await loop.create_connection(
                lambda: _Link(seen, latencies, whole, len(requests)), "127.0.0.1", port
            )
        )[1]
        for _ in range(connections)
    ]
    begin = time.monotonic() + 0.05
    gc.collect()
    gc.disable()
    try:
        for number, request in enumerate(requests):
            due = begin + number / rate
            delay = due - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            links[number % connections].call(due, request)
        async with asyncio.timeout(_MOST_LATE):
            await whole.wait()
    except TimeoutError:
        seen.errors.append(f"{kind}: answers are missing")
    finally:
        gc.enable()
    for link in links:
        link.close()


def _requests(port: int, token: str, count: int, connections: int) -> list[bytes]:
    """The requests in the order in which they are due; each connection is a worker that goes
    through its cycle.
    """
    found: list[bytes] = []
    cycles: list[list[tuple[str, bytes]]] = [[] for _ in range(connections)]
    for number in range(count):
        which = number % connections
        if not cycles[which]:
            cycles[which] = cycle(worker_name(which), number)
        method, body = cycles[which].pop(0)
        lines = f"POST /api/{method} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        lines += f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        found.append(lines.encode() + body)
    return found


def _length(head: bytes) -> int:
    """The Content-Length of an answer; every answer here has one."""
    head = head.lower()
    at = head.index(_LENGTH) + len(_LENGTH)
    return int(head[at:].partition(b"\r\n")[0])
