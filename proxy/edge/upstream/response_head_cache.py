"""Heads of answers that were read before: an upstream's heads repeat byte for byte, but for the
date once a second.

What a head says is a function of its bytes alone, so one that httptools has read need not be read
again while it is remembered. Only the plainest framing is: a kept connection and a
``Content-Length`` (RFC 9112 section 6.3, rule 6), with the whole answer in one piece. Interim,
empty (204, 304), chunked and lengthless answers are read anew each time, and so are those to HEAD,
which `proxy.edge.upstream.connection` sees to.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

_HEADS = 64  # of one upstream
_LONGEST = 4096  # bytes of one

CachedHead: TypeAlias = tuple[bytes, int, Mapping[bytes, bytes]]
"""A head, empty line included, and what it says: status and headers. Many answers share the
headers, so they cannot be changed.
"""


class ResponseHeadCache(dict[int, CachedHead]):
    """What is known, by the bytes of the whole answer: of each size the last head, so that no head
    outlives its second for long.
    """

    def remember(
        self, data: bytes, status: int, headers: Mapping[bytes, bytes], length: int
    ) -> None:
        """Note what was read from `data`, which came first on a connection that is kept: a body of
        `length` bytes.

        Nothing is noted unless `data` is one head and that body, to the byte, and the head
        announced just that.
        """
        end = data.find(b"\r\n\r\n") + 4
        if (
            end > _LONGEST
            or len(data) != end + length
            or headers.get(b"content-length") != b"%d" % length
        ):
            return
        if status < 200 or status in (204, 304) or b"transfer-encoding" in headers:
            return
        if len(self) >= _HEADS and len(data) not in self:
            self.clear()
        self[len(data)] = (data[:end], status, MappingProxyType(dict(headers)))
