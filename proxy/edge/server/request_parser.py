"""A strict HTTP/1 request parser (RFC 9112). No sockets: bytes in, requests out.

httptools' llhttp, without its lenient modes, refuses differing, repeated or malformed lengths,
Content-Length with Transfer-Encoding, folded headers, bare line feeds and carriage returns,
control characters, and white space before a colon.

The parser also refuses what two readers could read differently, or what no client needs: a second
Host, a target whose authority is not the Host, a second credential, type, encoding or length
header, a transfer coding other than ``chunked``, or any in HTTP/1.0, and trailers. After a refusal
the start of the next request is unknown, so the parser must not be fed again.

What has one reading is taken as default configurations send it: HTTP/1.0, without a Host too
(RFC 9112 section 3.2); the absolute form of a target (3.2.2); an offer to upgrade, which is ignored
(RFC 9110 section 7.8). llhttp stops behind a head with such an offer. Then another llhttp gets a
head with the same framing and no offer, and reads the body behind it.

A head that was accepted before on the same connection (`proxy.edge.server.request_head_cache`) is
not parsed again. Neither is the body behind it, which ends where the head says. llhttp sees neither
and stays between two requests. A property test holds that both paths read any bytes alike.

One module because the callbacks of llhttp share the state of the request.
"""

from collections.abc import Mapping
from enum import IntEnum
from io import BytesIO
from typing import Protocol

import httptools

from proxy.common.memory_budget import LARGE_HEAD_BYTES
from proxy.edge.server.limits import Limits
from proxy.edge.server.request_head_cache import CachedHead, RequestHeadCache
from proxy.edge.server.request_target import read_target
from proxy.edge.server.supervisorctl_head import may_need_mending, mend_head
from proxy.errors import Rejected
from proxy.model import Peer, Reason, Request


class Phase(IntEnum):
    """The place of a parser in the stream of requests."""

    IDLE = 0
    HEAD = 1
    BODY = 2


IDLE, HEAD, BODY = Phase

# Headers of a request, and also repeated header lines. Each costs far more memory, or copying, than
# its bytes.
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
# The first byte of a TLS connection (RFC 8446 section 5.1).
_TLS_HANDSHAKE = b"\x16"
_NO_TLS = "this port speaks plain HTTP, and the client sent TLS"


class RequestSink(Protocol):
    """The receiver of parsed requests: a connection."""

    def next_id(self) -> str:
        """Return an id for a request."""

    def peer(self, headers: Mapping[bytes, bytes]) -> Peer:
        """Return the peer that sent `headers`; the same object while what it says is the same.

        Raises `Rejected` if they name a client address that is none.
        """

    def on_request(self, request: Request, *, expect_continue: bool) -> None:
        """Take a request, and its body if `body_complete`.

        `expect_continue`: the client waits for ``100 Continue``.
        """

    def on_body(self, body: bytes) -> None:
        """Take the body of the last request, which came without it."""


class RequestParser:
    """The parser of one connection. The callbacks are httptools'."""

    __deletable__ = ("_parser", "_sink")  # `close` deletes them; mypyc needs to know

    def __init__(self, sink: RequestSink, limits: Limits) -> None:
        self._sink = sink
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self.head_cache = RequestHeadCache(limits.header_bytes)
        self.phase = IDLE
        # Bytes of the current body so far.
        self.body_size = 0
        # The cached head whose body is arriving, and the missing bytes of that body.
        self._cached_head: CachedHead | None = None
        self._missing = 0
        # Heads that began in the bytes being parsed.
        self._heads_begun = 0
        # Bytes of an unfinished head after its first packet.
        self._later_head_bytes = 0
        # Bytes of all packets with a part of the head.
        self._packet_bytes = 0
        # The unfinished head of a `supervisorctl tail -f`, which llhttp has not seen.
        self._unrepaired = b""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeats = 0
        self._repeated = b""
        self._expect_continue = False
        self._http_1_0 = False
        self._begun = False  # bytes have been read
        self._offered = False  # an upgrade: llhttp stops behind the head
        self._resuming = False  # another llhttp reads a head that is only there for its framing
        self._target: tuple[str, str | None] = ("", None)
        self._body: bytes | BytesIO = b""
        # Whether the sink has the request whose body is arriving.
        self._delivered = False

    def feed(self, data: bytes) -> None:
        """Parse `data`. Raises `Rejected`, after which nothing more may be fed."""
        if self._cached_head is not None:
            data = self._read_body(self._cached_head, data)
        while data and self.phase is IDLE:
            found = self.head_cache.find(data)
            if found is None or found[0].length > self._limits.body_bytes:
                break
            data = self._read_request(*found, data)
        if data and (self._unrepaired or (self.phase is IDLE and may_need_mending(data))):
            data = self._mend(data)
        if data:
            self._parse(data)

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished request that are held."""
        if self.phase is HEAD:
            return self._packet_bytes
        return self.body_size if self.phase is BODY and self._body else 0

    def discard(self) -> None:
        """Drop the unfinished request. Nothing more may be fed."""
        self._body = self._unrepaired = b""
        self._packet_bytes = 0

    def clear_cache(self) -> None:
        """Evict the cached heads: an idle connection may stay idle for long."""
        self.head_cache.clear()

    def close(self) -> None:
        """Break the reference cycles with httptools and the sink.

        Without them a closed connection is freed at once, without the garbage collector.
        """
        del self._parser, self._sink

    # -- requests with a cached head

    def _read_request(self, head: CachedHead, end: int, data: bytes) -> bytes:
        """Read the request whose `head` ends at `end`; return what follows it in `data`."""
        self._begun = True
        behind = end + head.length
        if behind <= len(data) and head.length <= self._limits.early_bytes:
            request = self._make_cached_request(head, data[end:behind], complete=True)
            self._sink.on_request(request, expect_continue=False)
            return data[behind:]
        self.phase = BODY
        self._cached_head, self._missing = head, head.length
        self.body_size, self._body = 0, b""
        self._delivered = head.length > self._limits.early_bytes
        if self._delivered:
            request = self._make_cached_request(head, b"", complete=False)
            self._sink.on_request(request, expect_continue=False)
        return self._read_body(head, data[end:])

    def _read_body(self, head: CachedHead, data: bytes) -> bytes:
        """Read more of the body of `head`; return what follows the body in `data`."""
        part = data[: self._missing]
        self._missing -= len(part)
        self.body_size += len(part)
        if self._missing:
            self._append(part)
            return b""
        self._append(part)
        body = self._take_body()
        self._cached_head = None
        self.phase = IDLE
        if self._delivered:
            self._sink.on_body(body)
        else:
            request = self._make_cached_request(head, body, complete=True)
            self._sink.on_request(request, expect_continue=False)
        return data[len(part) :]

    def _make_cached_request(self, head: CachedHead, body: bytes, *, complete: bool) -> Request:
        return Request(
            self._sink.next_id(),
            head.http_method,
            head.path,
            head.query,
            head.headers,
            body,
            head.peer,
            complete,
        )

    # -- requests for llhttp

    def _mend(self, data: bytes) -> bytes:
        """Gather the head of a ``supervisorctl tail -f``; return it repaired when complete."""
        data = self._unrepaired + data
        if len(data) > self._limits.header_bytes:
            raise Rejected(Reason.HEADERS_TOO_LARGE)
        repaired = mend_head(data)
        if repaired is None:
            self.phase, self._unrepaired, self._packet_bytes = HEAD, data, len(data)
            return b""
        self.phase, self._unrepaired, self._packet_bytes = IDLE, b"", 0
        return repaired

    def _parse(self, data: bytes) -> None:
        before = self.phase
        self._heads_begun = 0
        self._packet_bytes = self._packet_bytes + len(data) if before is HEAD else len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, Rejected) else Rejected(Reason.BAD_REQUEST) from None
        except httptools.HttpParserError:
            tls = not self._begun and data[:1] == _TLS_HANDSHAKE
            detail = _NO_TLS if tls else "the framing is not strict HTTP/1.1"
            raise Rejected(Reason.BAD_REQUEST, detail) from None
        self._begun = True
        if self.phase is HEAD and before is HEAD:
            self._later_head_bytes += len(data)
            if self._later_head_bytes > self._limits.header_bytes:
                raise Rejected(Reason.HEADERS_TOO_LARGE)
        elif self.phase is BODY and self._expect_continue and not self._delivered:
            self._deliver_head()
        cacheable = self._heads_begun == 1 and not self._http_1_0
        if before is IDLE and cacheable and self.phase is not HEAD:
            peer = self._sink.peer(self._headers)
            self.head_cache.cache(data, self._http_method(), *self._target, self._headers, peer)

    def _feed(self, data: bytes) -> None:
        """Feed llhttp, past every offer to upgrade. Raises its errors."""
        while True:
            rest = b""
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                rest = data[offer.args[0] :]
            if not self._offered:
                return
            data = self._framing() + rest
            self._offered, self._resuming = False, True
            self._parser = httptools.HttpRequestParser(self)

    def _framing(self) -> bytes:
        """Return a head that frames the body, and what may follow, as the last one does."""
        headers, parser = self._headers, self._parser
        lines = [b"%b / HTTP/%b" % (parser.get_method(), parser.get_http_version().encode("ascii"))]
        lines += [
            b"%b: %b" % (name, headers[name])
            for name in (b"content-length", b"transfer-encoding")
            if name in headers
        ]
        keep_alive = b"keep-alive" if parser.should_keep_alive() else b"close"
        return b"\r\n".join([*lines, b"Connection: " + keep_alive, b"", b""])

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        self.phase = HEAD
        self._heads_begun += 1
        self.body_size = self._later_head_bytes = self._repeats = 0
        self._url = self._repeated = self._body = b""
        self._headers = {}
        self._delivered = False

    def on_url(self, url: bytes) -> None:
        if not self._resuming:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._resuming:
            return
        if self.phase is BODY:
            raise Rejected(Reason.BAD_REQUEST, "trailers are not supported")
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
        if self._resuming:
            self._resuming = False
            return
        headers, parser, limits = self._headers, self._parser, self._limits
        if self._packet_bytes > limits.header_bytes and self._head_bytes() > limits.header_bytes:
            raise Rejected(Reason.HEADERS_TOO_LARGE)
        if len(headers) > _MAX_HEADERS:
            raise Rejected(Reason.HEADERS_TOO_LARGE, "too many headers")
        if self._repeated == b"authorization":
            raise Rejected(Reason.TWO_CREDENTIALS)
        if self._repeated:
            name = self._repeated.decode("ascii")
            raise Rejected(Reason.BAD_REQUEST, f"duplicate {name} header")
        version = parser.get_http_version()
        self._http_1_0 = version == "1.0"
        if version != "1.1" and not self._http_1_0:
            raise Rejected(Reason.BAD_REQUEST, "only HTTP/1.1 and HTTP/1.0 are supported")
        self._target = read_target(self._url, headers, self._http_method(), http_1_0=self._http_1_0)
        length = int(headers.get(b"content-length", 0))
        if length > limits.body_bytes:
            raise Rejected(Reason.BODY_TOO_LARGE)
        if b"transfer-encoding" in headers:
            if headers[b"transfer-encoding"].lower() != b"chunked":
                raise Rejected(Reason.BAD_REQUEST, "chunked is the only supported transfer coding")
            if self._http_1_0:  # RFC 9112 section 6.1: its sender may not know what it says
                raise Rejected(Reason.BAD_REQUEST, "HTTP/1.0 has no transfer coding")
        if self._http_1_0 or not parser.should_keep_alive():
            # llhttp reads nothing behind this request, so the cache must not read on either.
            self.head_cache.clear()
        self._expect_continue = b"expect" in headers and self._expects_continue(headers[b"expect"])
        self._sink.peer(headers)
        self._offered = parser.should_upgrade()
        self.phase = BODY
        if length > limits.early_bytes:
            self._deliver_head()

    def on_body(self, body: bytes) -> None:
        self.body_size += len(body)
        if self.body_size > self._limits.body_bytes:
            raise Rejected(Reason.BODY_TOO_LARGE)
        self._append(body)
        if self.body_size > self._limits.early_bytes and not self._delivered:
            self._deliver_head()

    def on_message_complete(self) -> None:
        if self._offered:
            return  # llhttp stops here, before the body
        self.phase = IDLE
        body = self._take_body()
        if self._delivered:
            self._sink.on_body(body)
        else:
            self._sink.on_request(self._make_request(body, complete=True), expect_continue=False)

    # -- parts

    def _expects_continue(self, expected: bytes) -> bool:
        """Return whether the client waits for ``100 Continue`` (RFC 9110 section 10.1.1)."""
        if expected and expected.lower() != b"100-continue":
            detail = "the only expectation that is met is 100-continue"
            raise Rejected(Reason.EXPECTATION_FAILED, detail)
        return bool(expected) and not self._http_1_0

    def _append(self, part: bytes) -> None:
        body = self._body
        if not body:
            self._body = part
        elif isinstance(body, bytes):
            # Not a list of parts: chunks of two bytes would take thirty times their size.
            self._body = buffer = BytesIO()
            buffer.write(body)
            buffer.write(part)
        else:
            body.write(part)

    def _take_body(self) -> bytes:
        """Return the body, and forget it. It is not copied: 16 MiB would take 20 ms."""
        body, self._body = self._body, b""
        return body if isinstance(body, bytes) else body.getvalue()

    def _head_bytes(self) -> int:
        return len(self._url) + sum(map(len, self._headers)) + sum(map(len, self._headers.values()))

    def _deliver_head(self) -> None:
        self._delivered = True
        request = self._make_request(b"", complete=False)
        self._sink.on_request(request, expect_continue=self._expect_continue)

    def _make_request(self, body: bytes, *, complete: bool) -> Request:
        sink, headers = self._sink, self._headers
        peer = sink.peer(headers)
        large = self._packet_bytes > LARGE_HEAD_BYTES
        head_bytes = self._head_bytes() if large else 0
        return Request(
            sink.next_id(),
            self._http_method(),
            *self._target,
            headers,
            body,
            peer,
            complete,
            head_bytes if head_bytes > LARGE_HEAD_BYTES else 0,
            http_1_0=self._http_1_0,
        )

    def _http_method(self) -> str:
        return self._parser.get_method().decode("ascii")
