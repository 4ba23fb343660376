"""The receive buffer of a TLS client's socket, in the kernel.

What has arrived at once is copied twice on its way through TLS, into two buffers that grow with it
and stay with the connection until it is closed. The memory budget cannot refuse these copies, since
they are made before a byte is read. So a client may send little ahead (`TLS_RECEIVE_BYTES`) until a
handler asks for a body that is charged to a principal.
"""

import asyncio
import contextlib
import socket
from typing import Any

# Bytes that the kernel takes of a TLS client; it reserves twice as much for its own needs. An
# ordinary call is one packet of a few kilobytes.
TLS_RECEIVE_BYTES = 16_384
# The same while a large body is read that was admitted: enough for a line with a long round trip.
BODY_RECEIVE_BYTES = 1 << 20
# Encrypted bytes that a loop reads of a connection whose reading is paused.
READ_AHEAD_BYTES = 65_536


def receive_little(client: socket.socket) -> None:
    """Bound what `client` may send before it is read. Raises `OSError` if it is gone."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TLS_RECEIVE_BYTES)


def read_little_ahead(transport: Any) -> None:
    """Bound the encrypted bytes that are read while a TLS `transport` is paused.

    asyncio.Transport does not name the method; the TLS transports of both loops have it.
    """
    transport.set_read_buffer_limits(high=READ_AHEAD_BYTES)


def receive_faster(transport: asyncio.BaseTransport) -> None:
    """Let the client of `transport` send more ahead: its body was admitted."""
    found = transport.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):  # the client is gone
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BODY_RECEIVE_BYTES)
