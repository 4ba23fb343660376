"""An upstream that answers as luigid does and notes every call before it answers: what it notes, it
was sent.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

Seen = tuple[str, dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Note the call, then answer it."""
        assert isinstance(self.server, RecordingLuigid)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        args = json.loads(parse_qs(body.decode())["data"][0])
        method = self.path.removeprefix("/api/")
        self.server.note((method, args))
        content = json.dumps({"response": self.server.answer(method, args)}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.wfile.write(head.encode() + content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """As the base class, but a gate that is killed is no error."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True


class RecordingLuigid(ThreadingHTTPServer):
    """Listens from its construction to `end`. `seconds` is how long each call takes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[str, dict[str, Any]], Any] = lambda method, args: None,
        *,
        seconds: float = 0.0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.port = int(self.server_address[1])
        self._seconds = seconds
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def note(self, seen: Seen) -> None:
        """Remember a call, and take the time that a call takes."""
        with self._lock:
            self._seen.append(seen)
        if self._seconds:
            time.sleep(self._seconds)

    @property
    def seen(self) -> list[Seen]:
        """Every call so far, in order of arrival."""
        with self._lock:
            return list(self._seen)

    def end(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self._thread.join()
