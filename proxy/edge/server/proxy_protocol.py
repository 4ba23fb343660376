"""The PROXY protocol, versions 1 and 2: what a load balancer says of its client, before any byte.

HAProxy's ``proxy-protocol.txt`` defines both. A line of text, or a signature with a binary block,
names the client's address and port. ``UNKNOWN``, ``LOCAL`` and addresses of no network (a health
check of the balancer itself) leave the balancer's own address. What version 2 adds behind the
addresses (TLVs) is not read.

Pure, apart from `read_header`. A header is read in one way or is refused.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

MAX_V1: Final = 107
"""Bytes of the longest line of version 1, its end included."""
MAX_V2: Final = 4096
"""Bytes behind the fixed part of version 2: addresses and TLVs."""

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED: Final = 16
_TEXT: Final = b"PROXY "
# The shortest header of version 1 is "PROXY UNKNOWN\r\n", so that many bytes are always there.
_SHORTEST: Final = 15
_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}  # by family and transport: TCP over IPv4, over IPv6
_NO_ADDRESS: Final = (0x00, 0x31)  # unspecified, and a Unix socket


class BadHeader(Exception):  # noqa: N818  (no error of ours)
    """The connection does not begin with one PROXY header."""


@dataclass(frozen=True, slots=True)
class Client:
    """The client's end of the connection to the balancer."""

    address: str
    port: int


def missing_bytes(data: bytes) -> int:
    """Return how many bytes the header has at least behind `data`; 0 when it is complete.

    Raises `BadHeader` as soon as no header begins with `data`.
    """
    size = len(data)
    if not data:
        return _SHORTEST
    if data[:12] == _SIGNATURE[:size]:
        if size < _FIXED:
            return _FIXED - size
        length = int.from_bytes(data[14:16], "big")
        if length > MAX_V2:
            raise BadHeader(f"its PROXY header has {length} bytes; {MAX_V2} are allowed")
        return _FIXED + length - size
    if data[:6] != _TEXT[:size]:
        raise BadHeader("it does not begin with a PROXY header")
    if data.endswith(b"\r\n"):
        return 0
    missing = max(_SHORTEST - size, 1 if data.endswith(b"\r") else 2)
    if size + missing > MAX_V1 or b"\n" in data or b"\r" in data[:-1]:
        raise BadHeader("its PROXY line has no end")
    return missing


def parse_header(data: bytes) -> Client | None:
    """Return the client that a complete header names; None for the balancer itself.

    Raises `BadHeader`.
    """
    return _parse_v2(data) if data[:12] == _SIGNATURE else _parse_v1(data)


async def read_header(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> Client | None:
    """Read one header from `connection`, and no byte behind it; return as `parse_header` does.

    Raises:
        BadHeader: it is not one, or is cut short.
        OSError: the connection broke.

    """
    data = b""
    while missing := missing_bytes(data):
        part = await loop.sock_recv(connection, missing)
        if not part:
            raise BadHeader("it ended within its PROXY header")
        data += part
    return parse_header(data)


def _parse_v1(data: bytes) -> Client | None:
    words = data[:-2].split(b" ")
    if words[1] == b"UNKNOWN":
        return None
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise BadHeader("its PROXY line is malformed")
    version = 4 if words[1] == b"TCP4" else 6
    source, _ = _address(words[2], version), _address(words[3], version)
    port, _ = _port(words[4]), _port(words[5])
    return Client(source, port)


def _parse_v2(data: bytes) -> Client | None:
    version, command, kind = data[12] >> 4, data[12] & 0x0F, data[13]
    if version != 2 or command > 1:
        raise BadHeader("its PROXY header has an unknown version or command")
    if command == 0 or kind in _NO_ADDRESS:
        return None
    width = _ADDRESS_BYTES.get(kind)
    if width is None or len(data) < _FIXED + 2 * width + 4:
        raise BadHeader("its PROXY header names no TCP addresses")
    source = ipaddress.ip_address(data[_FIXED : _FIXED + width])
    ports = _FIXED + 2 * width
    return Client(_plain(source), int.from_bytes(data[ports : ports + 2], "big"))


def _address(word: bytes, version: int) -> str:
    text = word.decode("latin-1")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadHeader("its PROXY line has no valid address") from None
    if address.version != version or "%" in text:
        raise BadHeader("its PROXY line has an address of another family")
    return _plain(address)


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or (len(word) > 1 and word[:1] == b"0"):
        raise BadHeader("its PROXY line has no valid port")
    port = int(word)
    if port > 65535:
        raise BadHeader("its PROXY line has no valid port")
    return port


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return the address as text, an IPv4-mapped one as IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(address if mapped is None else mapped)
