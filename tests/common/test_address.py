import pytest

from proxy.common.address import Networks, address_key, is_loopback


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("fe80::1", False),
    ],
)
def test_loopback_addresses(address: str, expected: bool) -> None:
    """127.0.0.0/8, ::1 and the name "localhost" are the loopback interface; wildcards are not."""
    assert is_loopback(address) is expected


@pytest.mark.parametrize("address", ["", "example.org", "127.0.0.1:80", "127.1", "LOCALHOST"])
def test_only_addresses_have_an_interface(address: str) -> None:
    """A name is never resolved: anything but an address or "localhost" raises."""
    with pytest.raises(ValueError, match="does not appear to be"):
        is_loopback(address)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("", ""),
        ("unix:/run/x", "unix:/run/x"),
        ("::1\0", "::1\0"),
    ],
)
def test_what_an_address_is_counted_under(address: str, key: str) -> None:
    """All addresses of one /64 share a key, an IPv4-mapped address has that of the IPv4 address,
    and a text that is no address is its own key.
    """
    assert address_key(address) == key


@pytest.mark.parametrize(
    ("address", "inside"),
    [("10.1.2.3", True), ("192.0.2.7", True), ("192.0.2.8", False), ("fd00::1%eth0", True)],
)
def test_an_address_is_in_one_of_the_networks(address: str, inside: bool) -> None:
    """Networks and single addresses of both families."""
    networks = Networks.of(["10.0.0.0/8", "192.0.2.7", "fd00::/64"])
    assert networks is not None
    assert (address in networks) is inside
    assert Networks.of([]) is None
