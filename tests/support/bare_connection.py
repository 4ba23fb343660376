"""An `UpstreamConnection` without a socket: its transport sends nowhere, and its pool records."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from proxy.edge.upstream.connection import UpstreamConnection
from proxy.edge.upstream.response_head_cache import ResponseHeadCache


@dataclass
class RecordingTransport(asyncio.Transport):
    """A transport that sends nowhere; `unsent` bytes are still in its buffer."""

    unsent: int = 0
    written: list[bytes] = field(default_factory=list)

    def write(self, data: Any) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return

    def abort(self) -> None:
        return


@dataclass
class RecordingPool:
    """A pool that records what its connections report."""

    loop: asyncio.AbstractEventLoop
    response_heads: ResponseHeadCache = field(default_factory=ResponseHeadCache)
    reported: list[str] = field(default_factory=list)
    unsolicited: int = 0

    def on_idle(self, connection: UpstreamConnection) -> None:
        self.reported.append("idle")

    def count_buffered(self) -> None:
        self.reported.append("buffered")

    def on_closed(self, connection: UpstreamConnection) -> None:
        self.reported.append("closed")


def bare_connection(pool: RecordingPool, *, unsent: int = 0) -> UpstreamConnection:
    """A connection with timeouts of 60, 30 and 15 seconds: response, read and keep-alive."""
    connection = UpstreamConnection(pool, 60.0, 30.0, 15.0)
    connection.connection_made(RecordingTransport(unsent))
    return connection
