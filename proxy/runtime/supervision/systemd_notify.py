"""Messages to systemd about the state of the service: sd_notify(3), without its library.

A service of ``Type=notify-reload`` says when it is ready, when a reload begins and when it is over.
A message is one datagram to the socket that NOTIFY_SOCKET names. systemd ignores what it does not
know, and a message that cannot be sent changes nothing for clients, so an error is not reported.
"""

import contextlib
import socket
import time
from collections.abc import MutableMapping

# Seconds to wait if systemd does not read its socket.
_SEND_TIMEOUT = 1.0


class SystemdNotifier:
    """The notification socket of a service; without an address it does nothing."""

    def __init__(self, address: str | None = None) -> None:
        """`address` is a path, or ``@name`` for an abstract socket (unix(7))."""
        self._address = address

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> "SystemdNotifier":
        """Take the address out of `environ`, so that child processes do not inherit it."""
        return cls(environ.pop("NOTIFY_SOCKET", None))

    def ready(self, status: str) -> None:
        """Say that the service is up, or that a reload is over; `status` is for people."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the service is shutting down."""
        self._send("STOPPING=1")

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = f"\0{address[1:]}"
        message = "\n".join(assignments).encode("utf-8")
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.settimeout(_SEND_TIMEOUT)
            sender.sendto(message, address)
