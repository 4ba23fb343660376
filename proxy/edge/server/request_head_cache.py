"""Heads of requests that one connection has sent before: a client repeats them byte for byte, but
for the length of the body.

What a head says is a function of its bytes, so one that the strict parser has read and accepted on
this connection need not be read again. Only the plainest are remembered: HTTP/1.1 that keeps the
connection, whose body ends where a ``Content-Length`` says or that has none (RFC 9112 section 6.3).
What is chunked, expects ``100 Continue``, asks for another protocol or says more of the connection
than "keep-alive" is read anew each time, and so is what differs by a single byte.

The length's digits may differ: they are cut out of the head, looked at for themselves, and the
bytes around them compared.
"""

import re
from collections.abc import Mapping

from proxy.model import Peer

_HEADS = 4  # of one connection: a worker adds tasks, asks for work and says that it lives
_LONGEST = 4096  # bytes of one
_DIGITS = 8  # of a length
# heads remembered since one was last met again: a client that never repeats itself need not be
# listened to
_VAIN = 16
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*([0-9]{1,8})\r\n", re.IGNORECASE)
_NEVER = (b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection")


class Head:
    """One head. `length` and `headers` are those of the bytes that `ends` saw last; who gets the
    headers must not change them.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_digits",
        "headers",
        "length",
        "origin",
        "path",
        "query",
        "verb",
    )

    def __init__(
        self,
        head: bytes,
        digits: tuple[int, int],
        verb: str,
        path: str,
        query: str | None,
        headers: Mapping[bytes, bytes],
        origin: Peer,
    ) -> None:
        """`digits` is where the length stands in `head`; the same place twice when there is none."""
        start, end = digits
        self._before = head[:start]
        self._digits = head[start:end]
        self._behind = head[end:]
        self.length = int(self._digits or b"0")
        self.verb = verb
        self.path = path
        self.query = query
        self.headers = headers
        self.origin = origin

    def ends(self, data: bytes) -> int:
        """Where in `data` this head, with any length, ends; 0 when `data` begins with another."""
        if not data.startswith(self._before):
            return 0
        start = len(self._before)
        if not self._behind:
            return start
        end = data.find(b"\r", start, start + _DIGITS + 1)
        if end < 0 or not data.startswith(self._behind, end):
            return 0
        digits = data[start:end]
        if digits != self._digits:
            if not digits.isdigit():
                return 0
            self._digits, self.length = digits, int(digits)
            self.headers = {**self.headers, b"content-length": digits}
        return end + len(self._behind)


class Heads:
    """The heads of one connection."""

    def __init__(self, longest: int) -> None:
        """`longest` is what a head may have at all, in bytes."""
        self.known: list[Head] = []  # oldest first
        self._longest = min(longest, _LONGEST) - _DIGITS
        self._vain = 0

    def find(self, data: bytes) -> tuple[Head, int] | None:
        """The head that `data` begins with, and where it ends."""
        for head in self.known:
            end = head.ends(data)
            if end:
                self._vain = 0
                return head, end
        return None

    def forget(self) -> None:
        """Remember none of them: the connection does something else now."""
        self.known.clear()

    def remember(
        self,
        data: bytes,
        verb: str,
        path: str,
        query: str | None,
        headers: Mapping[bytes, bytes],
        origin: Peer,
    ) -> None:
        """Note what was read from `data`, which came first where a request may begin and whose head
        was accepted.
        """
        end = data.find(b"\r\n\r\n") + 4
        # blank lines may come before
        if end > self._longest or self._vain >= _VAIN or not data.startswith(verb.encode("ascii")):
            return
        if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive" or any(
            name in headers for name in _NEVER
        ):
            return
        head = data[:end]
        if b"content-length" in headers:
            match = _LENGTH.search(head)
            if match is None:
                return  # spelled in some other way
            digits = match.span(1)
        else:
            digits = (end, end)
        if len(self.known) >= _HEADS:
            del self.known[0]
        self._vain += 1
        self.known.append(Head(head, digits, verb, path, query, headers, origin))
