"""Encodes requests to one upstream: request line, Host, media type and length.

No header of the caller is passed on (design.md, law 4).
"""

from proxy.common.bounded_cache import BoundedCache
from proxy.edge.upstream.address import UpstreamAddress
from proxy.model import UpstreamRequest

# Cached prefixes of one upstream. Paths of pages are unbounded, methods are few.
CACHE_SIZE = 512
# Bytes of a body below which it is joined to its head: one string is then as cheap to send as two.
JOIN_BODY_BELOW = 16_384


class RequestEncoder:
    """Encodes the requests to one upstream."""

    def __init__(self, address: UpstreamAddress) -> None:
        self._address = address
        self._cache: BoundedCache[tuple[str, bytes, bytes, bool], bytes] = BoundedCache(CACHE_SIZE)

    def encode(self, request: UpstreamRequest) -> tuple[bytes, bytes]:
        """Return the request, and its body apart if that is long."""
        key = (request.http_method, request.path, request.content_type, request.accept_gzip)
        # PERF: caching all before the body's length saves 0.4 us of 104 (Luigi add_task, 900 B).
        prefix = self._cache.get(key)
        if prefix is None:
            prefix = self._encode_prefix(request)
            self._cache.put(key, prefix)
        if request.http_method != "POST":
            return prefix, b""
        body = request.body
        if len(body) < JOIN_BODY_BELOW:
            return b"%b%d\r\n\r\n%b" % (prefix, len(body), body), b""
        return b"%b%d\r\n\r\n" % (prefix, len(body)), body

    def _encode_prefix(self, request: UpstreamRequest) -> bytes:
        """Return the complete head of a request without a body, else all before the length."""
        address = self._address
        lines = [
            f"{request.http_method} ".encode() + request.path + b" HTTP/1.1",
            b"Host: " + address.authority,
        ]
        if request.content_type:
            lines.append(b"Content-Type: " + request.content_type)
        if request.accept_gzip:
            lines.append(b"Accept-Encoding: gzip")
        if address.authorization:
            lines.append(b"Authorization: " + address.authorization)
        lines.append(b"Content-Length: " if request.http_method == "POST" else b"\r\n")
        return b"\r\n".join(lines)
