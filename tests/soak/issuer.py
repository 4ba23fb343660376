"""A small OpenID provider that can go away and come back: discovery and keys over HTTPS, and tokens
for whoever asks here.
"""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from proxy.cli.demo.certificate import make_self_signed
from tests.support.stage import free_port
from tests.support.tokens import jwk, key_set, token

AUDIENCE = "callgate-soak"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Discovery and keys; nothing else."""
        assert isinstance(self.server, _Server)
        content = self.server.pages.get(self.path)
        self.server.asked += 1
        self.send_response(200 if content else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    pages: dict[str, bytes]
    asked = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle is no news."""


class Provider:
    """The provider. Its keys outlive its server."""

    def __init__(self, directory: Path) -> None:
        """Start it."""
        files = make_self_signed(("localhost", "127.0.0.1"), directory, now=time.time())
        self.ca = files.ca
        self.port = free_port()
        self.issuer = f"https://localhost:{self.port}"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.certificate, files.key)
        self._keys: list[tuple[str, ec.EllipticCurvePrivateKey]] = []
        self._server: _Server | None = None
        self.rotate()
        self.start()

    def rotate(self) -> None:
        """Publish one more key. Tokens are signed with the one before until `switch`."""
        self._keys.append((f"key-{len(self._keys)}", ec.generate_private_key(ec.SECP256R1())))
        self._signing = self._keys[max(0, len(self._keys) - 2)]
        if self._server is not None:
            self._server.pages = self._pages()

    def switch(self) -> None:
        """Sign with the newest key."""
        self._signing = self._keys[-1]

    def token(
        self,
        subject: str,
        group: str,
        seconds: float,
        *,
        newest: bool = False,
        unknown: bool = False,
    ) -> str:
        """An access token, by the newest key if asked for, or by one that nobody ever published."""
        kid, private = (
            ("never-published", ec.generate_private_key(ec.SECP256R1()))
            if unknown
            else self._keys[-1]
            if newest
            else self._signing
        )
        now = time.time()
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now - 1,
            "exp": now + seconds,
            "groups": [group],
        }
        return token(private, {"alg": "ES256", "typ": "at+jwt", "kid": kid}, claims)

    def start(self) -> None:
        """Serve, on the same port every time."""
        self._server = server = _Server(("127.0.0.1", self.port), _Handler)
        server.pages = self._pages()
        server.socket = self._context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        ).start()

    def stop(self) -> None:
        """Be gone: connections are refused."""
        if self._server is not None:
            server, self._server = self._server, None
            server.shutdown()
            server.server_close()

    @property
    def asked(self) -> int:
        """How often it was asked for anything, since it was started last."""
        return 0 if self._server is None else self._server.asked

    def _pages(self) -> dict[str, bytes]:
        keys = key_set(*(jwk(private, kid) for kid, private in self._keys))
        configuration = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        return {
            "/.well-known/openid-configuration": json.dumps(configuration).encode(),
            "/keys": keys,
        }
