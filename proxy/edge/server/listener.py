"""Accepts connections and counts them, in total and per address, before the TLS handshake.

The first byte of a connection to a TLS port says whether it is TLS at all
(`proxy.edge.server.plain_http`). The deadline of the handshake is for that byte, too.

asyncio's servers report a connection after its handshake, so they cannot count a client that never
finishes one. Here a socket is accepted, counted, and then passed to TLS with a deadline. The
addresses of an IPv6 /64 count as one, since a host can choose among all of them.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Coroutine

from proxy.common.address import Networks, address_key
from proxy.edge.server.connection import Connection
from proxy.edge.server.connection_limit import ConnectionLimit
from proxy.edge.server.plain_http import answer_and_discard, is_plain_http, peek_first_byte
from proxy.edge.server.proxy_protocol import BadHeader, Client, read_header
from proxy.edge.server.receive_buffer import receive_little
from proxy.edge.server.response_writer import encode_head
from proxy.edge.server.server import Server
from proxy.edge.upstream.uncompiled import with_timeout
from proxy.errors import Rejected
from proxy.model import Peer, Reason

_BACKLOG = 1024
# Unsent bytes in the kernel for each client. With more, the progress of a slow reader would show in
# steps of megabytes.
NOTSENT_BYTES = 131_072
# Seconds without accepting after the process has run out of file descriptors.
_OUT_OF_FILES_PAUSE = 0.1
# Seconds that a handshake has when its first byte came in the last moment.
_MIN_HANDSHAKE_SECONDS = 0.001
# Seconds for a PROXY header: one lost packet, sent again (proxy-protocol.txt section 2).
PROXY_HEADER_SECONDS = 4.0


def bind(
    address: str, port: int, *, reuse_port: bool = False, listen: bool = True
) -> socket.socket:
    """Return a bound socket. Raises `OSError`.

    With `reuse_port` several processes share the port. Without `listen` it accepts no clients until
    a `Listener` has it.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted sockets inherit both options (tcp(7)): two system calls less a connection.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
        listening.bind((address, port))
        if listen:
            listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


class Listener:
    """An accept loop, which passes the clients of one listening socket to a `Server`."""

    def __init__(
        self,
        listening: socket.socket,
        server: Server,
        tls: ssl.SSLContext | None,
        *,
        limit: ConnectionLimit,
        handshake_seconds: float,
        on_rejected: Callable[[Peer], None],
        https_url: str = "an https:// URL",
        balancers: Networks | None = None,
    ) -> None:
        """Accept from now on.

        `tls` is None for a plain listener. `on_rejected` is called with each client
        over the limit. `https_url` goes into the answer to plain HTTP on a TLS port. With
        `balancers`, only those connect, each with a PROXY header (`proxy_protocol`).
        """
        self._listening = listening
        self._server = server
        self._tls = tls
        self.limit = limit
        self.handshake_seconds = handshake_seconds
        self._on_rejected = on_rejected
        self._https_url = https_url
        self._balancers = balancers
        self._handshakes: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        listening.listen(_BACKLOG)
        self._fileno = listening.fileno()
        self._loop.add_reader(self._fileno, self._accept)

    def _accept(self) -> None:
        """Accept one client.

        One each turn of the loop: a flood of connections must not starve those that are open. Not
        with `sock_accept`, which loses a client if it is cancelled at the wrong moment.
        """
        try:
            client, peer = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return  # another process accepted the client, or it is gone already
        except OSError:
            self._loop.remove_reader(self._fileno)
            self._loop.call_later(_OUT_OF_FILES_PAUSE, self._resume)
            return
        client.setblocking(False)
        address, port = _peer_address(str(peer[0])), int(peer[1])
        if self._balancers is None:
            key = address_key(address)
            if self.limit.acquire(key):
                self._start(self._admit(client, address, port, key))
                return
        elif address not in self._balancers:
            client.close()
            self._refuse_address(address, port, "it is no listed balancer")
            return
        elif self.limit.acquire(None):
            self._start(self._admit_from_balancer(client, address, port))
            return
        client.close()
        self._on_rejected(Peer(address, port, None, ""))

    def _start(self, admission: Coroutine[object, object, None]) -> None:
        self._server.handshake_started()
        task = self._loop.create_task(admission)
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def _resume(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._fileno, self._accept)

    async def _admit_from_balancer(self, client: socket.socket, hop: str, port: int) -> None:
        """Read the PROXY header, count the client that it names, and go on as without one."""
        named: Client | None = None
        detail = ""
        try:
            named = await with_timeout(PROXY_HEADER_SECONDS, read_header(self._loop, client))
        except BadHeader as error:
            detail = str(error)
        except (OSError, asyncio.CancelledError):  # a `TimeoutError` is an OSError
            detail = "its PROXY header did not arrive in time"
        address = hop if named is None else named.address
        key = address_key(address)
        if not detail and self.limit.assign(key):
            if named is None:
                await self._admit(client, hop, port, key)
            else:
                await self._admit(client, address, named.port, key, hop=hop)
            return
        client.close()
        self.limit.release(None)
        self._server.handshake_finished()
        if detail:
            self._refuse_address(hop, port, detail)
        else:
            port, via = (port, None) if named is None else (named.port, hop)
            self._on_rejected(Peer(address, port, None, "", via))

    def _refuse_address(self, address: str, port: int, detail: str) -> None:
        """Record a connection whose client is not known. It gets no response."""
        server = self._server
        error = Rejected(Reason.BAD_CLIENT_ADDRESS, detail)
        server.handler.refuse(server.next_id(), Peer(address, port, None, ""), error)

    async def _admit(
        self, client: socket.socket, address: str, port: int, key: str, *, hop: str | None = None
    ) -> None:
        """Do the handshake; the connection runs by itself afterwards."""
        loop, tls = self._loop, self._tls
        ends = loop.time() + self.handshake_seconds
        connection = Connection(
            self._server,
            address,
            port,
            tls=tls is not None,
            hop=hop,
            on_released=lambda: self.limit.release(key),
        )
        admitted = False
        try:
            if tls is None:
                await loop.connect_accepted_socket(lambda: connection, client)
                admitted = True
            elif await self._speaks_tls(client, Peer(address, port, None, "", hop)):
                receive_little(client)
                await loop.connect_accepted_socket(
                    lambda: connection,
                    client,
                    ssl=tls,
                    ssl_handshake_timeout=max(_MIN_HANDSHAKE_SECONDS, ends - loop.time()),
                    # The client may still read the end of a response; the connection has a
                    # deadline of its own for that.
                    ssl_shutdown_timeout=self._server.limits.write_seconds,
                )
                admitted = True
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            if tls is not None:
                self._server.failed_handshakes += 1
        finally:
            if not admitted:
                client.close()
                connection.release()
            self._server.handshake_finished()

    async def _speaks_tls(self, client: socket.socket, peer: Peer) -> bool:
        """Return whether `client` may go on to a handshake; answer one that speaks plain HTTP.

        Raises `OSError`.
        """
        first = await with_timeout(self.handshake_seconds, peek_first_byte(self._loop, client))
        if not first:
            raise ConnectionAbortedError
        if not is_plain_http(first):
            return True
        server = self._server
        error = Rejected(Reason.PLAIN_HTTP, f"use {self._https_url}")
        response = server.handler.refuse(server.next_id(), peer, error)
        head = encode_head(response, server.date, head_only=False, close=True)
        with contextlib.suppress(OSError):  # the client has left, or goes on sending
            await with_timeout(
                server.timing.linger, answer_and_discard(self._loop, client, head + response.body)
            )
        return False

    def close(self) -> None:
        """Stop accepting; unfinished handshakes end with their deadline."""
        self._loop.remove_reader(self._fileno)
        self._listening.close()


def _peer_address(peer: str) -> str:
    """Return the address of a peer, an IPv4-mapped one as IPv4 (sockets of both families)."""
    if peer.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(peer).ipv4_mapped
        return peer if mapped is None else str(mapped)
    return peer


def record_rejected_connection(server: Server, peer: Peer) -> None:
    """Record a client over the limit. It gets no response, which would cost a handshake."""
    server.handler.refuse(server.next_id(), peer, Rejected(Reason.TOO_MANY_CONNECTIONS))
