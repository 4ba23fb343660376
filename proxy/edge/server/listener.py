"""Accepting connections: caps in number, total and per address, before a TLS handshake is paid for.

asyncio's own servers tell of a connection only after its handshake, so a client that never finishes
one would not be counted. Here the socket is accepted, counted, and only then given to TLS with a
deadline. One host has a whole /64 of IPv6 addresses to choose from, so those are counted together.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable

from proxy.common.address import address_key
from proxy.edge.server.connection_limit import ConnectionLimit
from proxy.edge.server.server import Connection, Server
from proxy.errors import Rejected
from proxy.model import Peer, Reason

_BACKLOG = 1024
# bytes of answers the kernel may hold unsent per client: with more, a slow reader's progress would
# show in megabytes
_UNSENT = 131_072
# seconds to wait when the process has no file descriptor left for the next client
_OUT_OF_FILES_PAUSE = 0.1


def bind(
    address: str, port: int, *, reuse_port: bool = False, listen: bool = True
) -> socket.socket:
    """A listening socket. Raises `OSError`. With `reuse_port` several processes share the port.

    Without `listen` it gets no clients before a `Listener` has it.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted sockets inherit both (tcp(7)), which saves two system calls a connection.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        listening.bind((address, port))
        if listen:
            listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


class Listener:
    """Takes the clients of one listening socket and hands them to a `Server`."""

    def __init__(
        self,
        listening: socket.socket,
        server: Server,
        tls: ssl.SSLContext | None,
        *,
        limit: ConnectionLimit,
        handshake_seconds: float,
        closed: Callable[[str], None],
    ) -> None:
        """`tls` is None for a plain listener. `closed` is told the address of each client turned
        away.
        """
        self._listening = listening
        self._server = server
        self._tls = tls
        self.limit = limit
        self._handshake_seconds = handshake_seconds
        self._closed = closed
        self._handshakes: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        listening.listen(_BACKLOG)
        self._fileno = listening.fileno()
        self._loop.add_reader(self._fileno, self._accept)

    def _accept(self) -> None:
        """Take one client. One a turn of the loop: a flood at the door would have the loop alone.

        Not with `sock_accept`: a client that it has taken just when it is cancelled would be lost.
        """
        try:
            client, peer = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return  # another process was first, or the client has left already
        except OSError:
            self._loop.remove_reader(self._fileno)
            self._loop.call_later(_OUT_OF_FILES_PAUSE, self._accept_again)
            return
        client.setblocking(False)
        address = _peer_address(str(peer[0]))
        counted_as = address_key(address)
        if not self.limit.acquire(counted_as):
            client.close()
            self._closed(address)
        else:
            self._server.expect()
            task = self._loop.create_task(self._admit(client, address, int(peer[1]), counted_as))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _accept_again(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._fileno, self._accept)

    async def _admit(self, client: socket.socket, address: str, port: int, counted_as: str) -> None:
        """The handshake, then the connection is its own."""
        loop = asyncio.get_running_loop()
        connection = Connection(
            self._server,
            address,
            port,
            tls=self._tls is not None,
            released=lambda: self.limit.release(counted_as),
        )
        try:
            if self._tls is None:
                await loop.connect_accepted_socket(lambda: connection, client)
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    client,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._handshake_seconds,
                    # The end of an answer may still be on its way: the connection's own deadline
                    # decides how long it may take.
                    ssl_shutdown_timeout=self._server.limits.write_seconds,
                )
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            client.close()
            connection.release()
        finally:
            self._server.arrived()

    def close(self) -> None:
        """Accept no more; handshakes under way end with their deadline."""
        self._loop.remove_reader(self._fileno)
        self._listening.close()


def _peer_address(peer: str) -> str:
    """Return the address of a peer; an IPv4 client of a socket for both families has its IPv4 one."""
    if peer.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(peer).ipv4_mapped
        return peer if mapped is None else str(mapped)
    return peer


def turn_away(server: Server, address: str) -> None:
    """Record that a client was turned away at the door; it gets no answer, since an answer would
    cost a handshake.
    """
    server.handler.refuse(
        server.next_id(), Peer(address, 0, None, ""), Rejected(Reason.TOO_MANY_CONNECTIONS)
    )
