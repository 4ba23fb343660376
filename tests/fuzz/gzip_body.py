"""Compressed bodies: the same call as the plain one, or a refusal before it grows too large.

The input begins with ``Z``, and the rest is compressed here; or it is a body as a client sends it.
"""

import gzip
import zlib

from proxy.catalog.loading import load_catalog
from proxy.errors import Rejected
from proxy.model import Request
from proxy.protocol.xmlrpc.http_binding import MAX_INFLATION
from proxy.protocol.xmlrpc.server import XmlRpcServer
from tests.fuzz.kit import ALICE, POLICIES, read, request

LIMIT = 1 << 16
CODEC = XmlRpcServer(
    "processes",
    load_catalog(POLICIES / "catalogs" / "supervisor.toml"),
    "/RPC2",
    max_batch_calls=5,
    body_bytes=LIMIT,
)


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    if data[:1] == b"Z":
        plain = data[1:]
        same = _decode(gzip.compress(plain, 1, mtime=0))
        if len(plain) > LIMIT:
            assert isinstance(same, Rejected), "what is too large is refused"
        else:
            assert _shown(same) == _shown(_decode(plain, encoding=b"")), "it is the same call"
        return
    found = _decode(data)
    assert CODEC.decoded_size(_request(data)) <= LIMIT, "what it claims is bounded"
    inflated = _inflate(data)
    if inflated is None or len(inflated) > LIMIT:
        assert isinstance(found, Rejected), "one complete member is accepted, and nothing else"
    else:
        assert len(inflated) <= max(1 << 20, MAX_INFLATION * len(data))
        assert _shown(found) == _shown(_decode(inflated, encoding=b"")), "it is the same call"


def _request(body: bytes, encoding: bytes = b"gzip") -> Request:
    headers = {b"content-type": b"text/xml"}
    if encoding:
        headers[b"content-encoding"] = encoding
    return request("POST", "/RPC2", headers, body)


def _decode(body: bytes, encoding: bytes = b"gzip") -> object:
    return read(CODEC.decode, _request(body, encoding), "/RPC2", ALICE)


def _shown(found: object) -> object:
    return (found.reason, found.detail) if isinstance(found, Rejected) else found


def _inflate(data: bytes) -> bytes | None:
    """Return the one member in `data`, None if it is not exactly one."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(data, LIMIT + 1)
    except zlib.error:
        return None
    return plain if stream.eof and not stream.unused_data else None
