from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audit.redaction.fast_path import count_nodes, joined_texts
from proxy.model import DateTime

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=30,
)


def slowly(value: object) -> int:
    """Count the nodes of a value one by one."""
    if isinstance(value, dict):
        return 1 + sum(map(slowly, value.values()))
    if isinstance(value, list) and not (value and all(isinstance(item, str) for item in value)):
        return 1 + sum(map(slowly, value))
    return 1


@given(VALUES, st.integers(0, 40))
def test_nodes_are_counted_as_far_as_asked(value: object, enough: int) -> None:
    """The count is exact up to `enough`, and above it whenever the value has more."""
    found, whole = count_nodes(value, enough), slowly(value)
    assert found == whole if whole <= enough else enough < found <= whole


def test_counting_stops_early() -> None:
    """A value of millions of nodes costs no more than one of `enough`, however it is nested."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert 10 < count_nodes(deep, 10) <= 12
    assert count_nodes(MappingProxyType({"a": [1, 2], "b": DateTime("20260101T00:00:00")}), 10) == 5


@pytest.mark.parametrize(
    ("items", "joined"),
    [
        ([], ""),
        ([""], ""),
        (["a", "b"], "ab"),
        (["a", 1, "b"], None),
        ([1, "a"], None),
        (["a", None], None),
        (["a", b"b", "c"], None),
        ([[]], None),
    ],
)
def test_only_lists_of_texts_are_joined(items: list[object], joined: str | None) -> None:
    """An item that is not a text is noticed at any place."""
    assert joined_texts(items) == joined
