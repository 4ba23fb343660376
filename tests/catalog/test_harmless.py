import math
import sys
from collections.abc import Callable

import pytest

from proxy.catalog import harmless as harmless_module
from proxy.catalog.harmless import (
    drop,
    escape_tags,
    has_no_markup,
    mend_flag,
    mend_message,
    mend_priority,
    mend_progress,
    mend_resources,
    mend_url,
    spell_numbers,
)
from proxy.catalog.json_types import MAX_DEPTH
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


LARGEST = sys.float_info.max


@pytest.mark.parametrize(
    ("mend", "value", "harmless"),
    [
        (mend_priority, math.inf, LARGEST),
        (mend_priority, -math.inf, -LARGEST),
        (mend_priority, math.nan, 0),
        (mend_progress, math.nan, None),
        (mend_progress, [math.inf], ["inf"]),
        (mend_resources, {"a": -1, "b": math.nan, "c": math.inf}, {"a": 0, "b": 0, "c": LARGEST}),
        (mend_resources, {"a": 10**400, "<b>": 1}, {"a": LARGEST, "&lt;b>": 1}),
        (mend_message, {"<i>": [math.nan, "<b>"]}, {"&lt;i>": ["nan", "&lt;b>"]}),
        (spell_numbers, {"a": [1, {"b": -math.inf}]}, {"a": [1, {"b": "-inf"}]}),
        (mend_url, "javascript:alert(1)", "javascript%3Aalert(1)"),
        (mend_url, "\x01 java\nscript\t:alert(1)", "\x01 java\nscript\t%3Aalert(1)"),
        (mend_url, "DATA:text/html,x", "DATA%3Atext/html,x"),
        (mend_flag, 1, True),
        (mend_flag, "", False),
        (drop, "a/b", None),
    ],
)
def test_a_value_that_harms_others_is_replaced(
    mend: Callable[[Value], Value], value: Value, harmless: Value
) -> None:
    """By one that means the same to luigid; that one is not replaced again."""
    assert mend(value) == harmless
    assert mend(harmless) == harmless


@pytest.mark.parametrize(
    "url",
    ["N/A", "", "http://x/?a=javascript:", "file:///x", "s3://b/k", "host:80/x", "//x", "a:b"],
)
def test_a_link_that_runs_nothing_stays(url: str) -> None:
    """Programs print what they like; a link that leads nowhere harms nobody."""
    assert mend_url(url) is url


@pytest.mark.parametrize(
    ("mend", "value"),
    [
        (mend_resources, {"a": 1, "b": 0.5}),
        (mend_resources, {"a": "x"}),
        (mend_resources, {"<b": 1, "&lt;b": 2}),
        (mend_message, {"<b": "x", "&lt;b": "y"}),
        (mend_resources, "x"),
        (spell_numbers, {"a": [1, {"b": 2.5}]}),
        (mend_message, ["x < y"]),
        (mend_priority, 10**400),
        (mend_priority, "high"),
    ],
)
def test_what_harms_nobody_or_cannot_be_mended_is_returned_itself(
    mend: Callable[[Value], Value], value: Value
) -> None:
    """What is neither harmless nor to be mended is then refused by its type."""
    assert mend(value) is value


@pytest.mark.interpreted
def test_each_text_is_looked_at_once_however_deep_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop waits meanwhile."""
    texts = 0

    class Counted:
        def search(self, text: str) -> None:
            nonlocal texts
            texts += 1

    monkeypatch.setattr(harmless_module, "_tag", Counted())
    nested: Value = []
    for _ in range(MAX_DEPTH - 1):
        nested = [nested, *["x"] * 10]
    assert escape_tags(nested) is nested
    assert texts == 10 * (MAX_DEPTH - 1)
