"""What luigid takes and only pages or other callers suffer from, made harmless.

A worker may say much that decides nothing: a link, a progress, a message. luigid takes any value
there. A tag in it runs in the page of a dashboard's user, and a number that is not finite makes
luigid answer with JSON that no browser parses. Such a value is replaced by one that means the same
to luigid and does no harm. The task goes on.

Each function returns `value` itself when there is nothing to change. A value for which there is no
harmless one is returned as it is, and its type refuses it.
"""

import math
import re
import sys
from collections.abc import Iterable

from proxy.catalog.json_types import MAX_DEPTH, is_scalar
from proxy.model import Value

MAX_INT = 1 << 1000
"""The largest integer that luigid can add to a float, with others of its size. Beyond, it fails."""

_tag = re.compile(r"<[A-Za-z/!?]")
# What browsers skip in a URL before they read its scheme.
_unread = re.compile(r"^[\x00-\x20]+|[\t\n\r]")
# Schemes whose URLs run as scripts, or are documents of the caller's own.
_acting = re.compile(
    r"(?:javascript|vbscript|livescript|mocha|data|blob|filesystem|view-source|about|jar):",
    re.IGNORECASE,
)


def has_no_markup(value: Value, depth: int = MAX_DEPTH) -> bool:
    """Return whether no text in `value` would start a tag, within `depth` levels of nesting."""
    if isinstance(value, str):
        return _tag.search(value) is None
    if isinstance(value, list):
        return depth > 0 and all(has_no_markup(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(
            has_no_markup(key, 0) and has_no_markup(item, depth - 1) for key, item in value.items()
        )
    return is_scalar(value)


def escape_tags(value: Value, depth: int = MAX_DEPTH) -> Value:
    """Replace every ``<`` that would start a tag by ``&lt;``.

    The page then shows ``<class 'x'>`` as the worker wrote it. Nothing is changed below `depth`
    levels, which `has_no_markup` refuses.
    """
    if isinstance(value, str):
        return _tag.sub(lambda found: "&lt;" + found[0][1:], value) if _tag.search(value) else value
    if depth <= 0 or not isinstance(value, (list, dict)):
        return value
    if isinstance(value, list):
        items = [escape_tags(item, depth - 1) for item in value]
        return value if _same(items, value) else items
    return _or_as_it_is(
        {str(escape_tags(key)): escape_tags(item, depth - 1) for key, item in value.items()}, value
    )


def spell_numbers(value: Value, depth: int = MAX_DEPTH) -> Value:
    """Replace numbers that are not finite by their names in Python: ``nan``, ``inf``, ``-inf``."""
    if _is_endless(value):
        return str(value)
    if depth <= 0 or not isinstance(value, (list, dict)):
        return value
    if isinstance(value, list):
        items = [spell_numbers(item, depth - 1) for item in value]
        return value if _same(items, value) else items
    return _or_as_it_is({key: spell_numbers(item, depth - 1) for key, item in value.items()}, value)


def mend_message(value: Value) -> Value:
    """Escape tags, and spell numbers that are not finite."""
    return escape_tags(spell_numbers(value))


def mend_progress(value: Value) -> Value:
    """Replace a number that is not finite by null: the page then shows no progress."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return spell_numbers(value)


def mend_priority(value: Value) -> Value:
    """Replace Infinity by the largest number, and NaN, which has no order, by luigi's own 0."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return 0
    return math.copysign(sys.float_info.max, value)


def mend_resources(value: Value) -> Value:
    """Escape tags in names; replace negative amounts and NaN by 0, endless ones by the largest.

    A negative amount in use would be more of the resource for others.
    """
    if not isinstance(value, dict):
        return value
    mended: dict[str, Value] = {}
    for name, amount in value.items():
        if isinstance(amount, (int, float)) and not amount >= 0:
            amount = 0
        elif isinstance(amount, int) and amount > MAX_INT:
            amount = sys.float_info.max
        mended[str(escape_tags(name))] = mend_priority(amount)
    return _or_as_it_is(mended, value)


def mend_url(value: Value) -> Value:
    """Take the scheme from a URL that runs as a script: its colon becomes ``%3A``."""
    if isinstance(value, str) and not is_harmless_url(value):
        return value.replace(":", "%3A", 1)
    return value


def is_harmless_url(value: Value) -> bool:
    """Return whether a link to `value` runs nothing: any text without one of certain schemes."""
    if type(value) is not str:
        return False
    return ":" not in value or _acting.match(_unread.sub("", value)) is None


def mend_flag(value: Value) -> Value:
    """Make a truth value of any other, as luigid does."""
    return bool(value)


def drop(value: Value) -> Value:
    """Return null."""
    return None


def _is_endless(value: Value) -> bool:
    """Return whether `value` is a number that is not finite.

    Not decided where it is returned: there mypyc would make another object of the same float.
    """
    return isinstance(value, float) and not math.isfinite(value)


def _or_as_it_is(mended: dict[str, Value], value: dict[str, Value]) -> Value:
    """Return `mended`, or `value` itself if it has the same members.

    Also if two names of it became one: a member would be lost, and so the type has to refuse it.
    """
    if len(mended) != len(value):
        return value
    same = all(one == other for one, other in zip(mended, value, strict=True)) and _same(
        mended.values(), value.values()
    )
    return value if same else mended


def _same(items: Iterable[Value], others: Iterable[Value]) -> bool:
    """Return whether both have the same objects, in the same order."""
    return all(one is other for one, other in zip(items, others, strict=True))
