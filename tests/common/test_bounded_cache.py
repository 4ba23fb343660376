import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.common.bounded_cache import BoundedCache


@given(size=st.integers(1, 20), keys=st.lists(st.integers(0, 40), max_size=100))
def test_a_cache_never_outgrows_its_size(size: int, keys: list[int]) -> None:
    """After every `put` there are at most `size` entries, and the newest is one of them."""
    cache: BoundedCache[int, int] = BoundedCache(size)
    for value, key in enumerate(keys):
        cache.put(key, value)
        assert len(cache) <= size
        assert cache.get(key) == value


def test_the_older_half_is_evicted() -> None:
    """Eviction follows the order of insertion, and one eviction makes room for several entries."""
    cache: BoundedCache[int, str] = BoundedCache(4)
    for key in range(5):
        cache.put(key, "v")
    assert list(cache) == [2, 3, 4]


def test_replacing_a_value_evicts_nothing() -> None:
    """A key that is in a full cache already takes no room of its own."""
    cache: BoundedCache[int, str] = BoundedCache(2)
    cache.put(1, "a")
    cache.put(2, "b")
    cache.put(1, "c")
    assert cache == {1: "c", 2: "b"}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_smallest_caches_evict_at_least_one(size: int) -> None:
    """Half of one is nothing: a cache of one entry evicts that entry."""
    cache: BoundedCache[int, int] = BoundedCache(size)
    for key in range(10):
        cache.put(key, key)
    assert len(cache) <= size and cache[9] == 9
