import pytest

from proxy.catalog.json_types import MAX_DEPTH
from proxy.catalog.markup import escape_tags, has_no_markup
from proxy.model import Value


def deep(levels: int) -> Value:
    """Return a list nested `levels` deep."""
    value: Value = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("<class 'x'>", "&lt;class 'x'>"),
        ("</pre><script>", "&lt;/pre>&lt;script>"),
        (["<b>", {"k": "<i>"}], ["&lt;b>", {"k": "&lt;i>"}]),
        ({"<b>": 1}, {"&lt;b>": 1}),
    ],
)
def test_tags_are_escaped(value: Value, shown: Value) -> None:
    """A tag is escaped at any depth, and the value then has no markup."""
    assert escape_tags(value) == shown
    assert has_no_markup(escape_tags(value))


@pytest.mark.parametrize("value", ["a < b", None, 5, ["x"], {"a": "b"}, deep(MAX_DEPTH + 5)])
def test_a_value_without_tags_stays_the_same_object(value: Value) -> None:
    """Nothing is copied without a tag, or at a depth that the type refuses anyway."""
    assert escape_tags(value) is value or escape_tags(value) == value


def test_a_tag_below_the_depth_stays_and_is_refused() -> None:
    """What is not escaped is never accepted."""
    value: Value = "<b>"
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    assert escape_tags(value) == value
    assert not has_no_markup(value)
