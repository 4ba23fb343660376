"""Reading strict HTTP/1.1 (RFC 9112) from a client. No sockets: bytes in, requests out.

httptools' llhttp, without any of its lenient modes, refuses differing, repeated or malformed
lengths, Content-Length beside Transfer-Encoding, folded headers, bare line feeds and carriage
returns, control characters, and white space before a colon. Refused here, since what follows could
be read in two ways or is never needed: HTTP other than 1.1, a missing or second Host, a target that
is not a plain path, a second credential, type, encoding or length header, a transfer coding other
than ``chunked``, trailers, and upgrades. After a refusal a reader must not be fed again: where the
next request would start is no longer known.

A head that was read and accepted before on the same connection
(`proxy.edge.server.request_head_cache`) is not read again, and neither is the body behind it, which
ends where the head says: the parser, which costs more than the rest of the reader, sees neither of
them and waits between two requests. A test holds that both roads say the same of any bytes.
"""

import re
import time
from dataclasses import dataclass
from typing import Protocol

import httptools

from proxy.edge.server.request_head_cache import Head, Heads
from proxy.errors import Rejected
from proxy.model import Peer, Reason, Request

BETWEEN, HEAD, BODY = range(3)  # where in the stream of requests a reader is

# headers, and as many repeated lines: each costs far more memory, or copying, than its bytes
_MAX_HEADERS = 128
_SINGLE = frozenset(
    {
        b"host",
        b"authorization",
        b"cookie",
        b"content-type",
        b"content-encoding",
        b"content-length",
        b"transfer-encoding",
    }
)
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PATH = re.compile(rb"/[!-\"$-~]*")  # printable ASCII without "#"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take, in bytes and seconds. The defaults are those of the settings.

    Up to `early_bytes` of a body are gathered before the caller is identified, the rest is left in
    the socket until then.
    """

    header_bytes: int = 65_536
    body_bytes: int = 16_777_216
    early_bytes: int = 65_536
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0


class Sink(Protocol):
    """What a reader tells of: the connection."""

    def next_id(self) -> str:
        """An id for a request."""

    def origin(self, user_agent: bytes) -> Peer:
        """Where the requests of this connection come from."""

    def on_request(self, request: Request, *, expects: bool) -> None:
        """A request is here, with its body; or without, when it is not `whole`. `expects`: it
        awaits ``100 Continue``.
        """

    def on_rest(self, body: bytes) -> None:
        """The body of the last request that was not whole is here."""


class RequestReader:
    """Reads one client's bytes into requests; the callbacks are httptools'."""

    __deletable__ = ("_parser", "_sink")  # by `close`; mypyc wants to know

    def __init__(self, sink: Sink, limits: Limits) -> None:
        self._sink = sink
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._heads = Heads(limits.header_bytes)
        self._head: Head | None = None  # the remembered head whose body is arriving
        self._missing = 0  # bytes of that body
        self.phase = BETWEEN
        self.body_size = 0  # bytes of the current body so far
        self._begun = 0  # heads in the bytes that are being read
        self._head_size = 0  # bytes of an unfinished head since its first packet
        self._fed = 0  # bytes of all packets that the head is in
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeats = 0
        self._repeated = b""
        self._expects = False
        self._path: tuple[str, str | None] = ("", None)
        self._received = 0
        self._body: bytes | bytearray = b""
        self._given = False  # the request whose body is arriving is with the sink already

    def feed(self, data: bytes) -> None:
        """Read `data`. Raises `Rejected`, after which nothing more may be fed."""
        if self._head is not None:
            data = self._take(self._head, data)
        while data and self.phase == BETWEEN:
            found = self._heads.find(data)
            if found is None or found[0].length > self._limits.body_bytes:
                break
            data = self._begin(*found, data)
        if data:
            self._parse(data)

    def forget(self) -> None:
        """Let go of the remembered heads: a client at rest may rest for long."""
        self._heads.forget()

    # -- what follows a remembered head

    def _begin(self, head: Head, end: int, data: bytes) -> bytes:
        """Read the request whose `head` ends at `end`; what is behind it, if it is all here."""
        self._received = time.monotonic_ns()
        behind = end + head.length
        if behind <= len(data) and head.length <= self._limits.early_bytes:
            self._sink.on_request(
                self._request_of(head, data[end:behind], whole=True), expects=False
            )
            return data[behind:]
        self.phase = BODY
        self._head, self._missing = head, head.length
        self.body_size, self._body = 0, b""
        self._given = head.length > self._limits.early_bytes
        if self._given:
            self._sink.on_request(self._request_of(head, b"", whole=False), expects=False)
        return self._take(head, data[end:])

    def _take(self, head: Head, data: bytes) -> bytes:
        """Read more of the body of `head`; what is behind it."""
        part = data[: self._missing]
        self._missing -= len(part)
        self.body_size += len(part)
        if self._missing:
            self._append(part)
            return b""
        body = b"".join((self._body, part)) if self._body else part
        self._body = b""
        self._head = None
        self.phase = BETWEEN
        if self._given:
            self._sink.on_rest(body)
        else:
            self._sink.on_request(self._request_of(head, body, whole=True), expects=False)
        return data[len(part) :]

    def _request_of(self, head: Head, body: bytes, *, whole: bool) -> Request:
        return Request(
            self._sink.next_id(),
            head.verb,
            head.path,
            head.query,
            head.headers,
            body,
            head.origin,
            self._received,
            whole,
        )

    # -- what the parser reads

    def _parse(self, data: bytes) -> None:
        before = self.phase
        self._begun = 0
        self._fed = self._fed + len(data) if before == HEAD else len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, Rejected) else Rejected(Reason.BAD_REQUEST) from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise Rejected(Reason.BAD_REQUEST, "the framing is not strict HTTP/1.1") from None
        if self.phase == HEAD and before == HEAD:
            self._head_size += len(data)
            if self._head_size > self._limits.header_bytes:
                raise Rejected(Reason.HEADERS_TOO_LARGE)
        elif self.phase == BODY and self._expects and not self._given:
            self._give()
        if before == BETWEEN and self._begun == 1 and self.phase != HEAD:
            origin = self._sink.origin(self._headers.get(b"user-agent", b""))
            self._heads.remember(data, self._verb(), *self._path, self._headers, origin)

    def close(self) -> None:
        """Let go of parser and sink, which hold on to this: what ends with its connection need not
        wait for the collector.
        """
        del self._parser, self._sink

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        self.phase = HEAD
        self._begun += 1
        self.body_size = self._head_size = self._repeats = 0
        self._url = self._repeated = self._body = b""
        self._headers = {}
        self._given = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == BODY:
            raise Rejected(Reason.BAD_REQUEST, "trailers are not read")
        headers = self._headers
        name = name.lower()
        if name in headers:
            self._repeats += 1
            if self._repeats > _MAX_HEADERS:
                raise Rejected(Reason.HEADERS_TOO_LARGE, "too many headers")
            if name in _SINGLE:
                self._repeated = name
            value = headers[name] + b", " + value
        headers[name] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        headers, parser = self._headers, self._parser
        if self._fed > self._limits.header_bytes and self._size() > self._limits.header_bytes:
            raise Rejected(Reason.HEADERS_TOO_LARGE)
        if len(headers) > _MAX_HEADERS:
            raise Rejected(Reason.HEADERS_TOO_LARGE, "too many headers")
        if self._repeated == b"authorization":
            raise Rejected(Reason.TWO_CREDENTIALS)
        if self._repeated:
            raise Rejected(
                Reason.BAD_REQUEST, f"the header {self._repeated.decode('ascii')} stands twice"
            )
        if parser.get_http_version() != "1.1":
            raise Rejected(Reason.BAD_REQUEST, "only HTTP/1.1 is spoken here")
        host = headers.get(b"host")
        if host is None or _HOST.fullmatch(host) is None:
            raise Rejected(Reason.BAD_REQUEST, "one valid Host header is needed")
        if parser.should_upgrade():
            raise Rejected(Reason.BAD_REQUEST, "no other protocol is spoken here")
        if _PATH.fullmatch(self._url) is None:
            raise Rejected(Reason.BAD_REQUEST, "the target must be a plain path")
        length = int(headers.get(b"content-length", 0))
        if length > self._limits.body_bytes:
            raise Rejected(Reason.BODY_TOO_LARGE)
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].lower() != b"chunked":
            raise Rejected(Reason.BAD_REQUEST, "the only transfer coding read here is chunked")
        path, mark, query = self._url.decode("ascii").partition("?")
        self._path = (path, query if mark else None)
        self._received = time.monotonic_ns()
        if not parser.should_keep_alive():
            # the parser reads nothing behind this request, so nothing may be read without it
            self._heads.forget()
        self._expects = b"expect" in headers and headers[b"expect"].lower() == b"100-continue"
        self.phase = BODY
        if length > self._limits.early_bytes:
            self._give()

    def on_body(self, body: bytes) -> None:
        self.body_size += len(body)
        if self.body_size > self._limits.body_bytes:
            raise Rejected(Reason.BODY_TOO_LARGE)
        self._append(body)
        if self.body_size > self._limits.early_bytes and not self._given:
            self._give()

    def on_message_complete(self) -> None:
        self.phase = BETWEEN
        body, self._body = bytes(self._body), b""
        if self._given:
            self._sink.on_rest(body)
        else:
            self._sink.on_request(self._request(body, whole=True), expects=False)

    def _append(self, part: bytes) -> None:
        if not self._body:
            self._body = part
        else:
            if isinstance(self._body, bytes):
                # not a list of parts: two-byte chunks would cost thirty times their size
                self._body = bytearray(self._body)
            self._body += part

    def _size(self) -> int:
        return len(self._url) + sum(map(len, self._headers)) + sum(map(len, self._headers.values()))

    def _give(self) -> None:
        self._given = True
        self._sink.on_request(self._request(b"", whole=False), expects=self._expects)

    def _request(self, body: bytes, *, whole: bool) -> Request:
        sink, headers = self._sink, self._headers
        origin = sink.origin(headers.get(b"user-agent", b""))
        return Request(
            sink.next_id(), self._verb(), *self._path, headers, body, origin, self._received, whole
        )

    def _verb(self) -> str:
        return self._parser.get_method().decode("ascii")
