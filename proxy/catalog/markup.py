"""Tags in texts that a page of luigid shows through ``innerHTML``."""

import re

from proxy.catalog.json_types import MAX_DEPTH, is_scalar
from proxy.model import Value

_tag = re.compile(r"<[A-Za-z/!?]")


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

    The page then shows ``<class 'x'>`` as the worker wrote it. Return `value` itself when there is
    no tag. Nothing is changed below `depth` levels, which `has_no_markup` refuses.
    """
    if isinstance(value, str):
        return _tag.sub(lambda found: "&lt;" + found[0][1:], value) if _tag.search(value) else value
    if depth <= 0 or not isinstance(value, (list, dict)) or has_no_markup(value, depth):
        return value
    if isinstance(value, list):
        return [escape_tags(item, depth - 1) for item in value]
    return {str(escape_tags(key)): escape_tags(item, depth - 1) for key, item in value.items()}
