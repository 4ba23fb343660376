"""Small XML-RPC servers in a thread of the test: CPython's own, and one that answers any bytes."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from typing import Any
from xmlrpc.server import SimpleXMLRPCServer


class Jobs:
    """Six methods, documented and not, as somebody's script has them."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def list_jobs(self) -> list[str]:
        """Return the names of all jobs."""
        return ["nightly", "weekly"]

    def get_state(self, name: str) -> str:
        """Return the state of a job.

        :param str name: the job
        """
        return "RUNNING" if name in self.started else "IDLE"

    def count_jobs(self) -> int:
        return 2

    def start_job(self, name: str, retries: int = 0) -> bool:
        """Start a <b>job</b>.

        @param string name     the job
        @param int    retries  how often it is tried again
        """
        self.started.append(name)
        return True

    def delete_job(self, name: str) -> bool:
        """Delete a job."""
        return True

    def ping(self) -> bool:
        """Return true."""
        return True


@contextlib.contextmanager
def served(server: TCPServer) -> Iterator[int]:
    """Serve until the block ends; give the port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def jobs_server(
    jobs: Jobs | None = None, system: Mapping[str, Callable[..., Any]] | None = None
) -> Iterator[int]:
    """Serve `Jobs` with introspection; `system` takes the place of its methods. Give the port."""
    server = SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False, allow_none=True)
    server.register_introspection_functions()
    server.register_instance(jobs or Jobs())
    for name, function in (system or {}).items():
        server.register_function(function, f"system.{name}")
    with served(server) as port:
        yield port


@contextlib.contextmanager
def raw_server(
    answer: Callable[[BaseHTTPRequestHandler], None], seen: list[dict[str, str]] | None = None
) -> Iterator[int]:
    """Answer each POST by `answer`; `seen` gets the headers. Give the port."""

    class Handler(BaseHTTPRequestHandler):
        """Reads the body, then answers."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if seen is not None:
                seen.append({name.lower(): value for name, value in self.headers.items()})
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with served(HTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


def reply(status: int, body: bytes, kind: str = "text/xml") -> Callable[..., None]:
    """Return an `answer` of `raw_server`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer
