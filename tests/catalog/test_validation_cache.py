import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.validation_cache import CACHE_SIZE, MAX_LENGTH, ValidationCache
from proxy.model import Value


class Rule:
    """A rule that counts its calls: texts of digits are valid."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str) -> bool:
        """Return whether the text is of digits."""
        self.calls += 1
        return text.isdigit()


def names(*texts: str) -> dict[str, Value]:
    """Return an object with these names."""
    return dict.fromkeys(texts)


TEXTS = st.sampled_from(["1", "22", "x", "", "1x"])


@given(st.lists(st.one_of(TEXTS, st.lists(TEXTS, max_size=4))))
def test_the_cache_never_changes_a_verdict(asked: list[str | list[str]]) -> None:
    """A text is valid exactly when the rule accepts it, after any calls, alone or in an object."""
    cache = ValidationCache(str.isdigit)
    for one in asked:
        if isinstance(one, str):
            assert cache.is_valid(one) == one.isdigit()
        else:
            assert cache.all_valid(names(*one)) == all(text.isdigit() for text in one)


def test_a_valid_text_is_checked_once() -> None:
    """A valid text is cached; an invalid one is checked every time."""
    rule = Rule()
    cache = ValidationCache(rule)
    assert all(cache.is_valid("1") and cache.all_valid(names("1")) for _ in range(5))
    assert rule.calls == 1
    assert not any(cache.is_valid("x") for _ in range(5))
    assert rule.calls == 6
    assert set(cache.valid) == {"1"}


def test_the_names_of_an_object_are_cached_for_single_texts_too() -> None:
    """Both questions share one cache."""
    rule = Rule()
    cache = ValidationCache(rule)
    assert cache.all_valid(names("1", "2")) and cache.is_valid("1") and cache.is_valid("2")
    assert rule.calls == 2


@pytest.mark.parametrize("value", [1, None, True, 1.5, [], {}, b"1", ["1"]])
def test_a_value_that_is_no_text_is_invalid(value: Value) -> None:
    """Unhashable values too."""
    assert not ValidationCache(str.isdigit).is_valid(value)


def test_the_cache_is_bounded_in_entries() -> None:
    """New names evict old ones, and an object of very many names is not cached at all."""
    rule = Rule()
    cache = ValidationCache(rule)
    assert cache.all_valid(names(*map(str, range(2 * CACHE_SIZE))))
    assert not cache.valid
    assert rule.calls == 2 * CACHE_SIZE
    for number in range(2 * CACHE_SIZE + 1):
        assert cache.is_valid(str(number))
    assert len(cache.valid) <= CACHE_SIZE
    rule.calls = 0
    assert cache.is_valid(str(2 * CACHE_SIZE)) and cache.is_valid("1")
    assert rule.calls == 1, "the newest is cached, the oldest is not"


def test_the_cache_is_bounded_in_characters() -> None:
    """Long valid texts are not cached."""
    cache = ValidationCache(str.isidentifier)
    for number in range(1000):
        long = "x" * MAX_LENGTH + str(number)
        assert cache.is_valid(long) and cache.all_valid(names(long))
    assert cache.is_valid("short")
    assert set(cache.valid) == {"short"}
