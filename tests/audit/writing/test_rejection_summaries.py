import pytest

from proxy.audit.writing.rejection_summaries import MAX_ADDRESSES, RejectionSummaries
from proxy.common.address import address_key


def test_the_first_are_recorded_and_the_rest_summed_up() -> None:
    """412 rejections beyond the first ten are one summary with their number, span and reasons."""
    rejections = RejectionSummaries(each=10, seconds=10)
    written = [
        rejections.admit("10.0.0.1", "no-credential" if n % 2 else "bad-credential", 100.0)
        for n in range(422)
    ]
    assert written == [True] * 10 + [False] * 412
    assert rejections.expired(109.9) == []
    assert rejections.expired(110.0) == [
        {
            "address": "10.0.0.1",
            "count": 412,
            "seconds": 10.0,
            "reasons": {"bad-credential": 206, "no-credential": 206},
        }
    ]
    assert not rejections.watching and rejections.admit("10.0.0.1", "no-credential", 110.0)


def test_addresses_do_not_hide_each_other() -> None:
    """A flood from one address leaves the rejections of another recorded one by one."""
    rejections = RejectionSummaries(each=2)
    for _ in range(50):
        rejections.admit("10.0.0.1", "x", 0.0)
    assert rejections.admit("10.0.0.2", "x", 0.0)


def test_memory_is_bounded_and_everything_counts() -> None:
    """Beyond `MAX_ADDRESSES` all others share a window; each rejection is recorded or counted."""
    rejections = RejectionSummaries(each=1, total=100)
    count = MAX_ADDRESSES + 5000
    written = sum(
        rejections.admit(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", "x", 0.0) for n in range(count)
    )
    assert len(rejections._windows) <= MAX_ADDRESSES + 1
    summaries = rejections.expired(11.0)
    counts = [s["count"] for s in summaries]
    assert written == 100 and written + sum(n for n in counts if isinstance(n, int)) == count
    assert [s["count"] for s in summaries if s["address"] is None] == [5000]


def test_without_room_rejections_are_counted() -> None:
    """While the log cannot take more, rejections are counted."""
    rejections = RejectionSummaries()
    assert not rejections.admit("10.0.0.1", "x", 0.0, room=False)
    assert rejections.expired(0.0, force=True)[0]["count"] == 1


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1:2", "2001:db8::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, key: str) -> None:
    """Changing the lower half of an IPv6 address does not escape the count."""
    assert address_key(address) == key
