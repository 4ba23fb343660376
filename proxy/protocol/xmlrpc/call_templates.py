"""Templates of calls: the markup of a document without its texts, matched in one pass.

PERF: a cache of templates saves 7 us of 100 (XML-RPC add_task, 900 B).

A client's calls of one method differ in their texts only. When the strict reader has accepted a
call, its document is cached as one expression in which the texts of typed scalars are open. A
document that matches it has the same markup, which was read and accepted, and other texts without a
``<``. Without a reference or a CDATA section (`plain`) such a text is its own meaning. What is left
is to read each text as its type, by the rules of the strict reader, and to put it in its place. A
document that matches no template goes to the strict reader.

The cache is bounded: short documents, few templates for one method, and few in all. Templates that
have long not matched are evicted.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeGuard

from proxy.model import Value
from proxy.protocol.xmlrpc.grammar import S
from proxy.protocol.xmlrpc.values import INTEGER, READ

# characters of a document; an expression takes ten times as many bytes, and 1 us for each to
# compile
_LONGEST = 3_072
_OF_ONE_METHOD = 4  # an argument more or less makes another shape
_IN_ALL = 32  # a megabyte, if they are as long as they may be
_PATIENCE = 10_000  # calls of no known shape, after which the known ones are given up

_HEAD_ENDS = "</methodName>"
_SCALAR = re.compile(rf"<({'|'.join(map(re.escape, READ))}){S}>([^<]*+)</\1{S}>")
_MARK = "\x01"  # before the number of a text, in its place; no document can hold it


_OPEN = {"int": f"({INTEGER})", "i4": f"({INTEGER})", "boolean": "([01])"}
"""The texts within a scalar that are of its type, for those that are frequent; what is none is left
to the strict reader.
"""


class _Group(NamedTuple):
    """How an array or a struct is made of values: `take` gives its parts, `names` its members."""

    take: Callable[[list[Value]], Sequence[Value]]
    names: tuple[str, ...] | None


class _Shape(NamedTuple):
    """`expression` has a group for each open text.

    The values of a call are the texts, then `fixed`, which belong to the shape (nil, a text without
    a type), then what each of `groups` makes of those before it; the last are the arguments. The
    texts at `integers` and `booleans` and those in `others` are no strings.
    """

    expression: re.Pattern[str]
    method: str
    integers: list[int]
    booleans: list[int]
    others: list[tuple[int, Callable[[str], Value]]]
    fixed: list[Value]
    groups: list[_Group]


class TemplateCache:
    """The shapes of calls that were read before."""

    def __init__(self, most: int = _IN_ALL) -> None:
        """Know none, and learn `most` in all."""
        self._most = most
        self._shapes: dict[str, list[_Shape]] = {}
        self._count = 0
        self._strange = 0  # calls that are of no known shape, and found no room

    def match(self, text: str) -> tuple[str, list[Value]] | None:
        """Return the method and the arguments of the call in the plain document `text`.

        Returns None if no template matches. Raises `Rejected` with MALFORMED_CALL for a scalar that
        is not of its type.
        """
        if len(text) > _LONGEST:
            return None
        for shape in self._shapes.get(text[: text.find(_HEAD_ENDS)], ()):
            found = shape.expression.fullmatch(text)
            if found is not None:
                texts: Any = found.groups()
                values: list[Value] = [*texts, *shape.fixed]
                for number in shape.integers:
                    values[number] = integer = int(texts[number])
                    if not -0x80000000 <= integer <= 0x7FFFFFFF:
                        return None
                for number in shape.booleans:
                    values[number] = texts[number] == "1"
                for number, read in shape.others:
                    values[number] = read(texts[number])
                for take, names in shape.groups:
                    if names is None:
                        values.append([*take(values)])
                    else:
                        values.append(dict(zip(names, take(values))))  # noqa: B905  (as many as names; to say so takes 0.3 us)
                return shape.method, values[-1]  # type: ignore[return-value]  # the arguments are an array
        return None

    def add(self, text: str, read: Callable[[str], tuple[str, list[Value]]]) -> None:
        """Cache the template of the plain document `text`, which was accepted.

        `read` is the strict reader, for a text like it.
        """
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
        # The strict reader itself says where in the arguments each text goes: it reads the document
        # with numbers for them.
        expression, marked = "", ""
        kinds: list[str] = []
        end = 0
        for number, scalar in enumerate(_SCALAR.finditer(text)):
            between = text[end : scalar.start()]
            before, after = (
                between + text[scalar.start() : scalar.start(2)],
                text[scalar.end(2) : scalar.end()],
            )
            expression += re.escape(before) + _OPEN.get(scalar[1], "([^<]*+)") + re.escape(after)
            marked += f"{between}<string>{_MARK}{number}</string>"
            end = scalar.end()
            kinds.append(scalar[1])
        method, arguments = read(marked + text[end:])
        plan = _Plan(len(kinds), arguments)
        shape = _Shape(
            re.compile(expression + re.escape(text[end:])),
            method,
            [number for number, kind in enumerate(kinds) if kind in ("int", "i4")],
            [number for number, kind in enumerate(kinds) if kind == "boolean"],
            [
                (number, READ[kind])
                for number, kind in enumerate(kinds)
                if kind != "string" and kind not in _OPEN
            ],
            plan.fixed,
            plan.groups,
        )
        self._shapes[head] = [*known, shape]
        self._count += 1


class _Plan:
    """Where the texts go in `arguments`, which were read with marks in the place of texts."""

    def __init__(self, texts: int, arguments: list[Value]) -> None:
        """`texts` is how many open texts there are."""
        self.fixed: list[Value] = []
        self.groups: list[_Group] = []
        self._find_fixed(arguments)
        self._fixed_places = itertools.count(texts)
        self._group_places = itertools.count(texts + len(self.fixed))
        self._place(arguments)

    def _find_fixed(self, value: Value) -> None:
        if isinstance(value, (list, dict)):
            for part in _parts(value):
                self._find_fixed(part)
        elif not _is_mark(value):
            self.fixed.append(value)

    def _place(self, value: Value) -> int:
        """Return the index of `value` among the values of a call."""
        if isinstance(value, (list, dict)):
            parts = [self._place(part) for part in _parts(value)]
            self.groups.append(
                _Group(_taker(parts), tuple(value) if isinstance(value, dict) else None)
            )
            return next(self._group_places)
        return int(value[1:]) if _is_mark(value) else next(self._fixed_places)


def _parts(value: "list[Value] | dict[str, Value]") -> Iterable[Value]:
    return value.values() if isinstance(value, dict) else value


def _is_mark(value: Value) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(_MARK)


def _taker(places: list[int]) -> Callable[[list[Value]], Sequence[Value]]:
    """Return a function that takes the values at `places`, which mostly follow each other."""
    start = places[0] if places else 0
    if places == [*range(start, start + len(places))]:
        return itemgetter(slice(start, start + len(places)))
    return itemgetter(*places)
