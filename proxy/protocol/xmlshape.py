"""The shapes of calls: their markup without the texts in it, so that a call like an earlier one is read in a single match.

A client's calls of one method are the same but for the texts in them. When the strict reader has accepted a call, its
document is remembered as one expression, in which the texts of the typed scalars alone are open. A document that this
matches has the same markup, which was read and found good, and other texts without a ``<``; without a reference or a CDATA
section in it (`plain`) those texts are their own meaning. So all that is left to do is to read each as its type, by the
functions of the strict reader. Whatever matches no shape goes to that.

What it saves of a 900-byte add_task is half of the time of the strict reader. What is kept is bounded: short documents, few
shapes for one method, and few in all; when others than those have been seen for long, they make room.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from proxy.model import Value
from proxy.protocol.xmlread import S
from proxy.protocol.xmlvalue import READ

_LONGEST = 2_048  # characters of a document; an expression takes ten times as many bytes, and 1 us for each to compile
_OF_ONE_METHOD = 4  # an argument more or less makes another shape
_IN_ALL = 32  # not a megabyte, if they are as long as they may be
_PATIENCE = 10_000  # calls of no known shape, after which the known ones are given up

_HEAD_ENDS = "</methodName>"
_SCALAR = re.compile(rf"<({'|'.join(map(re.escape, READ))}){S}>([^<]*+)</\1{S}>")
_MARK = "\x01"  # before the number of a text, in its place; no document can hold it


class _Fixed(NamedTuple):
    """A value that belongs to the shape: a nil, a text without a type, an empty string."""

    value: Value


_Plan: TypeAlias = "int | _Fixed | list[_Plan] | dict[str, _Plan]"


class _Shape(NamedTuple):
    """`expression` has a group for each open text; `others` says which of them are no strings, and how they are read."""

    expression: re.Pattern[str]
    others: list[tuple[int, Callable[[str], Value]]]
    method: str
    plan: list[_Plan]


class Shapes:
    """The shapes of calls that were read before."""

    def __init__(self, most: int = _IN_ALL) -> None:
        """Know none, and learn `most` in all."""
        self._most = most
        self._shapes: dict[str, list[_Shape]] = {}
        self._count = 0
        self._strange = 0  # calls that are of no known shape, and found no room

    def read(self, text: str) -> tuple[str, list[Value]] | None:
        """The method and the arguments of the call in the plain document `text`; None if it is of no known shape.

        Raises `Rejected` with MALFORMED_CALL for a scalar that is none of its type.
        """
        if len(text) > _LONGEST:
            return None
        for shape in self._shapes.get(text[: text.find(_HEAD_ENDS)], ()):
            found = shape.expression.fullmatch(text)
            if found is not None:
                values: list[Value] = [*found.groups()]
                for number, read in shape.others:
                    values[number] = read(found[number + 1])
                return shape.method, [values[part] if type(part) is int else _filled(part, values) for part in shape.plan]
        return None

    def learn(self, text: str, read: Callable[[str], tuple[str, list[Value]]]) -> None:
        """Remember the shape of the plain document `text`, which was accepted. `read` is the strict reading, of a text like it."""
        if len(text) > _LONGEST:
            return
        head = text[: text.find(_HEAD_ENDS)]
        known = self._shapes.get(head, [])
        if self._count >= self._most or len(known) == _OF_ONE_METHOD:
            self._strange += 1
            if self._strange == _PATIENCE:
                self._shapes.clear()
                re.purge()  # else they would live on in the module's own cache
                self._count = self._strange = 0
            return
        # The strict reader itself says where in the arguments each text goes: it reads the document with numbers for them.
        expression, marked = "", ""
        others: list[tuple[int, Callable[[str], Value]]] = []
        end = 0
        for number, scalar in enumerate(_SCALAR.finditer(text)):
            between = text[end : scalar.start()]
            expression += (
                f"{re.escape(between + text[scalar.start() : scalar.start(2)])}([^<]*+){re.escape(text[scalar.end(2) : scalar.end()])}"
            )
            marked += f"{between}<string>{_MARK}{number}</string>"
            end = scalar.end()
            if scalar[1] != "string":
                others.append((number, READ[scalar[1]]))
        method, values = read(marked + text[end:])
        shape = _Shape(re.compile(expression + re.escape(text[end:])), others, method, [_plan(value) for value in values])
        self._shapes[head] = [*known, shape]
        self._count += 1


def _plan(value: Value) -> _Plan:
    """Where the texts go in `value`, as it was read from a document with marks in their place."""
    if isinstance(value, str) and value.startswith(_MARK):
        return int(value[1:])
    if isinstance(value, list):
        return [_plan(item) for item in value]
    if isinstance(value, dict):
        return {name: _plan(item) for name, item in value.items()}
    return _Fixed(value)


def _filled(plan: _Plan, values: list[Value]) -> Value:
    """The value that `plan` makes of the texts' `values`; nothing in it is shared with another call."""
    if isinstance(plan, dict):
        return {name: values[part] if type(part) is int else _filled(part, values) for name, part in plan.items()}
    if isinstance(plan, list):
        return [values[part] if type(part) is int else _filled(part, values) for part in plan]
    return values[plan] if isinstance(plan, int) else plan.value
