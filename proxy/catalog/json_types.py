"""Checks of values of the types that every protocol has.

``True`` is no integer and no number here, although Python counts it as one. NaN is of no type, and
Infinity only a number: luigid would echo it in JSON that no browser parses.
"""

import math

from proxy.model import Value

MAX_DEPTH = 32
"""Levels of nesting in a free-form value. Stock clients send at most two."""

INTEGER_LIMIT = 1 << 63


def is_string(value: Value) -> bool:
    """Return whether `value` is text."""
    return type(value) is str


def is_boolean(value: Value) -> bool:
    """Return whether `value` is a truth value."""
    return type(value) is bool


def is_integer(value: Value) -> bool:
    """Return whether `value` is an integer of 64 bits."""
    return type(value) is int and -INTEGER_LIMIT <= value < INTEGER_LIMIT


def is_unsigned(value: Value) -> bool:
    """Return whether `value` is a non-negative integer of 64 bits."""
    return type(value) is int and 0 <= value < INTEGER_LIMIT


def is_number(value: Value) -> bool:
    """Return whether `value` is an integer of 64 bits, a float or Infinity."""
    if type(value) is int:
        return -INTEGER_LIMIT <= value < INTEGER_LIMIT
    return type(value) is float and not math.isnan(value)


def is_finite(value: Value) -> bool:
    """Return whether `value` is a number other than Infinity."""
    if type(value) is int:
        return -INTEGER_LIMIT <= value < INTEGER_LIMIT
    return type(value) is float and math.isfinite(value)


def is_positive(value: Value) -> bool:
    """Return whether `value` is a number above zero."""
    return is_number(value) and value > 0  # type: ignore[operator]  # only int and float are left


def is_string_list(value: Value) -> bool:
    """Return whether `value` is a list of texts."""
    return type(value) is list and all(type(item) is str for item in value)


def is_object(value: Value) -> bool:
    """Return whether `value` is an object."""
    return type(value) is dict


def is_scalar(value: Value) -> bool:
    """Return whether `value` is text, a truth value, null or a finite number."""
    kind = type(value)
    return kind is str or kind is bool or value is None or is_finite(value)


def is_json(value: Value, depth: int = MAX_DEPTH) -> bool:
    """Return whether `value` is of JSON, Infinity included, within `depth` levels of nesting."""
    kind = type(value)
    if kind is str or kind is bool or value is None or kind is int:
        return True
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, list):
        return depth > 0 and all(is_json(item, depth - 1) for item in value)
    return (
        isinstance(value, dict)
        and depth > 0
        and all(is_json(item, depth - 1) for item in value.values())
    )


def is_anything(value: Value) -> bool:
    """Return true."""
    return True
