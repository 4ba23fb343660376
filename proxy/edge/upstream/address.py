"""Where an upstream listens, and with which credential the proxy presents itself there."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """The address of one upstream.

    `socket` is the path of a Unix socket, or empty for `host` and `port`. `authorization` is the
    value of the Authorization header that the proxy sends, or empty.
    """

    host: str = "127.0.0.1"
    port: int = 80
    socket: str = ""
    tls: ssl.SSLContext | None = None
    server_hostname: str | None = None
    authorization: bytes = b""

    @property
    def authority(self) -> bytes:
        """The value of the Host header."""
        if self.socket:
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode("ascii")
