"""A cache of the request heads of one connection.

Clients repeat their heads byte for byte, except for the length of the body. What a head means is a
function of its bytes. So a head that the strict parser has accepted on this connection need not be
parsed again.

Only plain heads are cached: HTTP/1.1 with keep-alive, whose body has a ``Content-Length`` or is
absent (RFC 9112 section 6.3). A head is parsed each time if it is chunked, expects
``100 Continue``, upgrades the protocol, or has a ``Connection`` other than "keep-alive". A head
that differs by a single byte is another head.

The digits of the length may differ: they are cut out of the head and checked by themselves, and the
bytes around them are compared.
"""

import re
from collections.abc import Mapping

from proxy.model import Peer

# PERF: a cached head instead of llhttp saves 5 us of 104 (Luigi add_task, 900 B).

# Heads a connection: a worker sends add_task, get_work and ping in turn.
_MAX_ENTRIES = 4
# Bytes of a head.
_MAX_HEAD_BYTES = 4096
# Headers of a head: more take several times their bytes, and no stock client sends them.
_MAX_HEADERS = 32
# Digits of a length.
_MAX_DIGITS = 8
# Heads cached since the last hit, after which the connection caches no more: its client never
# repeats itself.
MAX_MISSES = 16
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*([0-9]{1,8})\r\n", re.IGNORECASE)
_UNCACHED = (b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection")


class CachedHead:
    """One head.

    `length` and `headers` are those of the bytes that `match` saw last. The headers are shared by
    requests and must not be changed.
    """

    __slots__ = (
        "_after",
        "_before",
        "_digits",
        "headers",
        "http_method",
        "length",
        "path",
        "peer",
        "query",
    )

    def __init__(
        self,
        head: bytes,
        digits: tuple[int, int],
        http_method: str,
        path: str,
        query: str | None,
        headers: Mapping[bytes, bytes],
        peer: Peer,
    ) -> None:
        """`digits` is the slice of `head` with the length, and empty if there is none."""
        start, end = digits
        self._before = head[:start]
        self._digits = head[start:end]
        self._after = head[end:]
        self.length = int(self._digits or b"0")
        self.http_method = http_method
        self.path = path
        self.query = query
        self.headers = headers
        self.peer = peer

    def match(self, data: bytes) -> int:
        """Return where this head, with any length, ends in `data`; 0 if `data` has another."""
        if not data.startswith(self._before):
            return 0
        start = len(self._before)
        if not self._after:
            return start
        end = data.find(b"\r", start, start + _MAX_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return 0
        digits = data[start:end]
        if digits != self._digits:
            if not digits.isdigit():
                return 0
            self._digits, self.length = digits, int(digits)
            self.headers = {**self.headers, b"content-length": digits}
        return end + len(self._after)


class RequestHeadCache:
    """The heads of one connection, the oldest first."""

    def __init__(self, max_head_bytes: int) -> None:
        self.entries: list[CachedHead] = []
        self._max_head_bytes = min(max_head_bytes, _MAX_HEAD_BYTES) - _MAX_DIGITS
        self._misses = 0

    def find(self, data: bytes) -> tuple[CachedHead, int] | None:
        """Return the head that `data` begins with, and where it ends."""
        for head in self.entries:
            end = head.match(data)
            if end:
                self._misses = 0
                return head, end
        return None

    def clear(self) -> None:
        """Evict every head."""
        self.entries.clear()

    def cache(
        self,
        data: bytes,
        http_method: str,
        path: str,
        query: str | None,
        headers: Mapping[bytes, bytes],
        peer: Peer,
    ) -> None:
        """Cache the head of `data`, if it is plain enough.

        The parser was idle before `data`, and has accepted its head as the other arguments.
        """
        end = data.find(b"\r\n\r\n") + 4
        if end > self._max_head_bytes or len(headers) > _MAX_HEADERS or self._misses >= MAX_MISSES:
            return
        if not data.startswith(http_method.encode("ascii")):
            return  # blank lines may come first
        if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive" or any(
            name in headers for name in _UNCACHED
        ):
            return
        head = data[:end]
        if b"content-length" in headers:
            match = _LENGTH.search(head)
            if match is None:
                return  # in another spelling
            digits = match.span(1)
        else:
            digits = (end, end)
        if len(self.entries) >= _MAX_ENTRIES:
            del self.entries[0]
        self._misses += 1
        self.entries.append(CachedHead(head, digits, http_method, path, query, headers, peer))
