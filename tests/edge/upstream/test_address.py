import pytest

from proxy.edge.upstream.address import UpstreamAddress


@pytest.mark.parametrize(
    ("address", "authority"),
    [
        (UpstreamAddress(), b"127.0.0.1:80"),
        (UpstreamAddress("luigi.internal", 8082), b"luigi.internal:8082"),
        (UpstreamAddress("::1", 8082), b"[::1]:8082"),
        (UpstreamAddress(socket="/run/luigi.sock"), b"localhost"),
    ],
)
def test_the_host_header_names_the_upstream(address: UpstreamAddress, authority: bytes) -> None:
    """The port is always there, an IPv6 address is in brackets, and a socket file is localhost."""
    assert address.authority == authority
