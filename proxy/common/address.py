"""IP addresses: which are this machine's own, and under which key a peer is counted."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence


def is_loopback(address: str) -> bool:
    """Return whether `address` (an IP address or "localhost") is on the loopback interface.

    Raises:
        ValueError: it is neither.

    """
    return address == "localhost" or ipaddress.ip_address(address).is_loopback


class Networks:
    """A set of networks, and the addresses in them."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Take networks in CIDR notation, or addresses. Raises `ValueError`."""
        self._networks = tuple(map(ipaddress.ip_network, networks))

    @classmethod
    def of(cls, networks: Sequence[str]) -> "Networks | None":
        """Return the networks; None when there are none."""
        return cls(networks) if networks else None

    def __contains__(self, address: str) -> bool:
        """Return whether an IP address is in one of the networks."""
        parsed = ipaddress.ip_address(address.partition("%")[0])
        return any(parsed in network for network in self._networks)


def address_key(address: str) -> str:
    """Return what a peer's address is counted under: itself, or the /64 of an IPv6 address.

    One host usually has a whole /64 to choose its addresses from (RFC 4291 2.5.4). A text that is
    no address is its own key. An IPv4-mapped address counts as the IPv4 address.
    """
    if ":" not in address:
        return address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return address
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        return str(ipaddress.IPv4Address(packed[12:]))
    return f"{ipaddress.IPv6Address(int.from_bytes(packed) >> 64 << 64)}/64"
