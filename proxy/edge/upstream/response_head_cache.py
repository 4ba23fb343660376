"""The heads of responses that were parsed before: they repeat, but for the date once a second.

What a head means is a function of its bytes alone, so a head that httptools has parsed need not be
parsed again. Only the plainest framing is cached: a persistent connection and a ``Content-Length``
(RFC 9112 section 6.3, rule 6), with the complete response in one piece. Interim, empty (204, 304),
chunked and lengthless responses are parsed each time, and so are responses to HEAD, which
`proxy.edge.upstream.connection` excludes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from proxy.common.bounded_cache import BoundedCache

# Heads cached for one upstream.
CACHE_SIZE = 64
# Bytes of one head.
MAX_HEAD_BYTES = 4096

CachedHead: TypeAlias = tuple[bytes, int, Mapping[bytes, bytes]]
"""A head, empty line included, with its status and headers. Many responses share the headers, so
they cannot be changed.
"""


class ResponseHeadCache:
    """The cached heads of one upstream.

    `entries` holds the last head of each size of a complete response, so that a head with an old
    date is replaced soon.
    """

    def __init__(self) -> None:
        self.entries: BoundedCache[int, CachedHead] = BoundedCache(CACHE_SIZE)

    def add(self, data: bytes, status: int, headers: Mapping[bytes, bytes], length: int) -> None:
        """Cache the head of `data`, which came first on a persistent connection.

        Does nothing unless `data` is one head and a body of `length` bytes, and the head announced
        that length.
        """
        end = data.find(b"\r\n\r\n") + 4
        if (
            end > MAX_HEAD_BYTES
            or len(data) != end + length
            or headers.get(b"content-length") != b"%d" % length
        ):
            return
        if status < 200 or status in (204, 304) or b"transfer-encoding" in headers:
            return
        self.entries.put(len(data), (data[:end], status, MappingProxyType(dict(headers))))
