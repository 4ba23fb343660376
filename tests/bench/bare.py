"""The least that a proxy in Python can do: ``python tests/bench/bare.py PORT TLS_PORT UPSTREAM
LUIGID CERT KEY``.

It receives a call, hashes its body once (SHA-256, as a record that says what was sent has to),
sends the same bytes on and passes the answer back. It looks at no token, reads no call, decides
nothing, records nothing and writes nothing afresh. What it takes is the floor under Callgate's
column, as "upstream alone" is the floor under everybody's.
"""

import asyncio
import hashlib
import re
import ssl
import sys
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_LUIGID = b"POST /luigid/"


class _Message:
    """The bytes of one message after another, each with a Content-Length."""

    __slots__ = ("_have", "_parts", "_whole")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._have = self._whole = 0

    def take(self, data: bytes) -> tuple[bytes, int] | None:
        """The whole message and where its body begins, once it is there: nobody here sends a second
        before the first is answered.
        """
        self._parts.append(data)
        self._have += len(data)
        if self._have < self._whole:
            return None
        message = b"".join(self._parts) if len(self._parts) > 1 else data
        body = message.find(b"\r\n\r\n") + 4
        if body < 4:
            return None
        found = _LENGTH.search(message, 0, body)
        self._whole = body + (int(found[1]) if found else 0)
        if self._have < self._whole:
            return None
        self._parts.clear()
        self._have = self._whole = 0
        return message, body


class _Upstream(asyncio.Protocol):
    """One connection to the upstream; it is in its pool when nobody waits for an answer on it."""

    def __init__(self, pool: "list[_Upstream]") -> None:
        self._pool = pool
        self._message = _Message()
        self._client: asyncio.Transport | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, client: asyncio.Transport, call: bytes) -> None:
        self._client = client
        self._transport.write(call)

    def data_received(self, data: bytes) -> None:
        answer = self._message.take(data)
        if answer is not None and self._client is not None:
            self._client.write(answer[0])
            self._client = None
            self._pool.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._pool:
            self._pool.remove(self)
        if self._client is not None:
            self._client.close()


class _Client(asyncio.Protocol):
    """One connection of a caller."""

    def __init__(self, pools: dict[int, list[_Upstream]], upstream: int, luigid: int) -> None:
        self._pools, self._upstream, self._luigid = pools, upstream, luigid
        self._message = _Message()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        taken = self._message.take(data)
        if taken is None:
            return
        call, body = taken
        hashlib.sha256(memoryview(call)[body:]).digest()
        port = self._upstream
        if call.startswith(_LUIGID):
            port, call = self._luigid, b"POST /" + call[len(_LUIGID) :]
        pool = self._pools.setdefault(port, [])
        if pool:
            pool.pop().ask(self._transport, call)
        else:
            self._waiting = asyncio.get_running_loop().create_task(self._connect(port, pool, call))

    async def _connect(self, port: int, pool: list[_Upstream], call: bytes) -> None:
        _, upstream = await asyncio.get_running_loop().create_connection(
            lambda: _Upstream(pool), "127.0.0.1", port
        )
        upstream.ask(self._transport, call)


async def main(
    port: int, tls_port: int, upstream: int, luigid: int, certificate: str, key: str
) -> None:
    """Serve until ended."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    pools: dict[int, list[_Upstream]] = {}
    loop = asyncio.get_running_loop()
    for number, context in ((tls_port, tls), (port, None)):
        await loop.create_server(
            lambda: _Client(pools, upstream, luigid), "127.0.0.1", number, ssl=context
        )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    port, tls_port, upstream, luigid = map(int, sys.argv[1:5])
    asyncio.run(main(port, tls_port, upstream, luigid, *sys.argv[5:7]))
