"""Heads of answers that were read before: an upstream's heads repeat byte for byte, but for the date once a second.

What a head says is a function of its bytes alone, so one that httptools has read need not be read again while it is
remembered. Only the plainest framing is: a kept connection and a ``Content-Length`` (RFC 9112 section 6.3, rule 6), with the
whole answer in one piece. Interim, empty (204, 304), chunked and lengthless answers are read anew each time, and so are
those to HEAD, which `proxy.edge.exchange` sees to.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

END = b"\r\n\r\n"
_HEADS = 64  # of one upstream
_LONGEST = 4096  # bytes of one

Known: TypeAlias = tuple[int, int, Mapping[bytes, bytes]]
"""What a head says: the bytes of the whole answer, its status, its headers. Answers share the headers, so they cannot be changed."""


class Heads(dict[bytes, Known]):
    """What is known, by the head's bytes up to and with the empty line."""

    def remember(self, data: bytes, status: int, headers: Mapping[bytes, bytes], length: int) -> None:
        """Note what was read from `data`, which came first on a connection that is kept: a body of `length` bytes.

        Nothing is noted unless `data` is one head and that body, to the byte, and the head announced just that.
        """
        end = data.find(END) + len(END)
        if end > _LONGEST or len(data) != end + length or headers.get(b"content-length") != b"%d" % length:
            return
        if status < 200 or status in (204, 304) or b"transfer-encoding" in headers:
            return
        if len(self) >= _HEADS:
            self.clear()  # nearly all of them are of seconds that are over
        self[data[:end]] = (len(data), status, MappingProxyType(dict(headers)))
