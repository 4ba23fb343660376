"""The PROXY protocol: the header alone, byte by byte."""

import asyncio
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.server.proxy_protocol import (
    MAX_V2,
    BadHeader,
    Client,
    missing_bytes,
    parse_header,
    read_header,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 4711, 443)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack("!HH", 4711, 443)
)


def v2(command: int, kind: int, payload: bytes, version: int = 2) -> bytes:
    """Return a binary header."""
    head = bytes([version << 4 | command, kind]) + len(payload).to_bytes(2, "big")
    return SIGNATURE + head + payload


GOOD: dict[str, tuple[bytes, Client | None]] = {
    "v1": (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", Client("192.0.2.7", 4711)),
    "v1 IPv6": (b"PROXY TCP6 2001:DB8::7 ::1 1 65535\r\n", Client("2001:db8::7", 1)),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", Client("192.0.2.7", 1)),
    "v1 longest": (
        b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b"ffff:" * 8)[:-1], (b"ffff:" * 8)[:-1]),
        Client("ffff:" * 7 + "ffff", 65535),
    ),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown with more": (b"PROXY UNKNOWN ffff::1 ::1 65535 65535\r\n", None),
    "v2": (v2(1, 0x11, V4), Client("192.0.2.7", 4711)),
    "v2 IPv6": (v2(1, 0x21, V6), Client("2001:db8::7", 4711)),
    "v2 with TLVs": (v2(1, 0x11, V4 + b"\x02\x00\x04host"), Client("192.0.2.7", 4711)),
    "v2 longest": (v2(1, 0x11, V4 + bytes(MAX_V2 - 12)), Client("192.0.2.7", 4711)),
    "v2 local": (v2(0, 0x00, b""), None),
    "v2 local with an address": (v2(0, 0x11, V4), None),
    "v2 unspecified": (v2(1, 0x00, b""), None),
    "v2 of a Unix socket": (v2(1, 0x31, bytes(216)), None),
}
BAD = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    "lower case": b"proxy TCP4 192.0.2.7 10.0.0.1 4711 443\r\n",
    "no end": b"PROXY TCP4 " + b"1" * 200,
    "UNKNOWN without end": b"PROXY UNKNOWN " + b"x" * 200,
    "a line feed alone": b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\nx",
    "a carriage return alone": b"PROXY TCP4 192.0.2.7\r10.0.0.1 4711 443\r\n",
    "two blanks": b"PROXY TCP4  192.0.2.7 10.0.0.1 4711 443\r\n",
    "a word more": b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443 x\r\n",
    "a word less": b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
    "a name": b"PROXY TCP4 localhost 10.0.0.1 4711 443\r\n",
    "another family": b"PROXY TCP4 ::1 ::1 4711 443\r\n",
    "a zone": b"PROXY TCP6 fe80::1%eth0 ::1 4711 443\r\n",
    "leading zeros": b"PROXY TCP4 192.0.02.7 10.0.0.1 4711 443\r\n",
    "a port with a zero": b"PROXY TCP4 192.0.2.7 10.0.0.1 04711 443\r\n",
    "a large port": b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
    "a negative port": b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 443\r\n",
    "no UNKNOWN": b"PROXY UNKNOWNX\r\n",
    "UDP": b"PROXY UDP4 192.0.2.7 10.0.0.1 4711 443\r\n",
    "v2 of version 1": v2(1, 0x11, V4, version=1),
    "v2 with another command": v2(2, 0x11, V4),
    "v2 for UDP": v2(1, 0x12, V4),
    "v2 without addresses": v2(1, 0x11, V4[:11]),
    "v2 IPv6 with IPv4's addresses": v2(1, 0x21, V4),
    "v2 of another family": v2(1, 0x41, V6),
    "v2 too long": SIGNATURE + b"\x21\x11" + (MAX_V2 + 1).to_bytes(2, "big"),
    "v2 with a broken signature": SIGNATURE[:8] + b"QUIX" + b"\x21\x11\x00\x0c" + V4,
}


def read(data: bytes) -> tuple[Client | None, bytes]:
    """Read a header as the listener does; return also what is left behind it."""
    header = b""
    while missing := missing_bytes(header):
        part, data = data[:missing], data[missing:]
        if not part:
            raise BadHeader("cut short")
        header += part
    return parse_header(header), data


@pytest.mark.parametrize(("data", "client"), GOOD.values(), ids=GOOD)
def test_a_header_is_read_and_not_a_byte_behind_it(data: bytes, client: Client | None) -> None:
    """Whatever follows: it may be the first byte of TLS, or a header again."""
    for behind in (b"", b"\x16\x03\x01", data, b"\r\n"):
        assert read(data + behind) == (client, behind)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_anything_else_is_refused(data: bytes) -> None:
    """By the standard, or since it could be read in two ways."""
    with pytest.raises(BadHeader):
        read(data)


@pytest.mark.parametrize("data", [good[0] for good in GOOD.values()], ids=GOOD)
def test_a_header_cut_short_is_not_complete(data: bytes) -> None:
    """At every byte."""
    for end in range(min(len(data), 300)):
        with pytest.raises(BadHeader):
            read(data[:end])


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: b"PROXY " + rest))
def test_any_bytes_give_a_client_or_a_bad_header(data: bytes) -> None:
    """And no other error."""
    try:
        read(data)
    except BadHeader:
        pass
    else:
        assert data


@pytest.mark.parametrize("data", [good[0] for good in GOOD.values()], ids=GOOD)
async def test_a_header_in_single_bytes_is_the_same(data: bytes) -> None:
    """TCP may cut it anywhere."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        reading = loop.create_task(read_header(loop, ours))
        for at in range(len(data)):
            theirs.sendall(data[at : at + 1])
            await asyncio.sleep(0)
        theirs.sendall(b"rest")
        assert await reading == parse_header(data)
        assert ours.recv(10) == b"rest"


async def test_a_connection_that_ends_early_is_refused() -> None:
    """With its header incomplete."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs:
            theirs.sendall(b"PROXY TCP4 192.0.2.7")
        with pytest.raises(BadHeader):
            await read_header(asyncio.get_running_loop(), ours)
