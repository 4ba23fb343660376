"""What a client with a timetable saw."""

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

import httptools


@dataclass(slots=True)
class Seen:
    """Latencies in seconds by kind of call, sizes of pages in bytes, and what failed."""

    latencies: dict[str, list[float]] = field(default_factory=dict)
    page_bytes: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def timed(self, kind: str, due: float, call: Awaitable[tuple[int, bytes]]) -> bytes:
        """Await `call`; its latency counts from `due` (monotonic). A failure is noted."""
        try:
            status, body = await call
        except (OSError, httptools.HttpParserError) as error:
            self.errors.append(f"{kind}: {type(error).__name__} {error}")
            return b""
        self.latencies.setdefault(kind, []).append(time.monotonic() - due)
        if status != 200:
            self.errors.append(f"{kind}: {status} {body[:200]!r}")
        return body
