import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.server.connection_limit import ConnectionLimit


@given(
    total=st.integers(1, 6),
    per_address=st.integers(1, 4),
    steps=st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60),
)
def test_the_limit_counts_as_a_list_of_open_connections_would(
    total: int, per_address: int, steps: list[tuple[bool, str]]
) -> None:
    """A connection is accepted while there are fewer in total and fewer from its address."""
    limit = ConnectionLimit(total, per_address)
    connected: list[str] = []
    for opens, address in steps:
        if opens:
            expected = len(connected) < total and connected.count(address) < per_address
            assert limit.acquire(address) is expected
            if expected:
                connected.append(address)
        elif address in connected:
            connected.remove(address)
            limit.release(address)


def test_an_address_without_connections_takes_no_memory() -> None:
    """Addresses are as many as clients choose; only open connections are counted."""
    limit = ConnectionLimit(1, 1)
    assert limit.acquire("a")
    limit.release("a")
    with pytest.raises(KeyError):
        limit.release("a")
