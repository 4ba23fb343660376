"""Types of arguments: a value is of a type or it is not, and what is accepted is harmless.

The input is JSON, of any value. It is given to every type of a catalog.
"""

import json
import math
import re

import orjson

from proxy.audit.redaction.redactor import Redactor
from proxy.catalog.checking import check_arguments, make_harmless
from proxy.catalog.json_types import MAX_DEPTH
from proxy.catalog.model import Argument, Method
from proxy.catalog.types import TYPES
from proxy.errors import Rejected
from proxy.model import Value
from tests.fuzz.kit import read, typed

METHODS = {name: Method("m", "work", (Argument("a", name, nullable=False),)) for name in TYPES}
OPEN = Method("m", "work", (), allow_extra=True)
REDACTOR = Redactor(b"k" * 32)
_TAG = re.compile(r"<[A-Za-z/!?]")
_PYTHON = {"string": str, "boolean": bool, "integer": int, "strings": list}


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    try:
        value: Value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return
    before = typed(value)
    for name, method in METHODS.items():
        args = {"a": value}
        checked = read(check_arguments, method, args)
        accepted = not isinstance(checked, Rejected)
        kind = TYPES[name]
        if value is not None:
            assert accepted == (kind.accepts(value) is True), "a type says yes or no"
        else:
            assert not accepted, "null is of no type"
        if accepted and kind.policy_type is not None:
            assert type(value) is _PYTHON[kind.policy_type], "policies read what the schema says"
            if type(value) is int:
                assert -(1 << 63) <= value < 1 << 63, "an integer has 64 bits"
            if type(value) is list:
                assert all(type(item) is str for item in value), "a set is of texts"
        if accepted and name in ("task-id", "family", "module", "resource"):
            assert not _TAG.search(str(value)), "no page runs it"
        if kind.mend is not None and value is not None:
            mended = kind.mend(value)
            assert kind.mend(mended) is mended or typed(kind.mend(mended)) == typed(mended), (
                "mending once is enough"
            )
            if accepted:
                assert name == "module" or typed(mended) == typed(value), "a harmless value stays"
    _check_markup(value)
    read(check_arguments, OPEN, {"a": value})
    record = REDACTOR.encode({"a": value, "password": value}, ())
    assert type(orjson.loads(record)) is dict, "every value has its record"
    assert typed(value) == before, "nothing was changed"


def _check_markup(value: Value) -> None:
    method = METHODS["no-markup"]
    escaped = make_harmless(method, {"a": value})
    again = make_harmless(method, escaped)
    assert typed(again["a"]) == typed(escaped["a"]), "escaping once is enough"
    if not isinstance(read(check_arguments, method, escaped), Rejected):
        assert not any(_TAG.search(text) for text in _texts(escaped["a"])), "no tag is left"


def _texts(value: Value, depth: int = MAX_DEPTH + 1) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, float):
        assert not math.isnan(value), "NaN is accepted nowhere"
    if depth and isinstance(value, list):
        return [text for item in value for text in _texts(item, depth - 1)]
    if depth and isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in _texts(item, depth - 1))]
    return []
