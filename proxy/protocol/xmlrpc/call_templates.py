"""Templates of calls: their markup without the texts in it.

The calls of one method by one client differ only in their texts. When the strict reader has
accepted a call, its document becomes an expression in which only the texts of typed scalars are
open. A document that matches has the same markup, which was accepted before, and texts without
``<``. It is plain too: without references and CDATA sections, so its texts mean what they are. Each
text is then read as its type, by the rules of the strict reader, and put in its place. A document
that matches no template goes to the strict reader.

PERF: a template instead of the strict reader saves 2.7 us of 6.4 (XML-RPC add_task, 900 B).

A cache has a bound on the length of documents, on the templates of one method and on all. When many
calls found no room, all templates are evicted.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeGuard

from proxy.model import Value
from proxy.protocol.xmlrpc.grammar import S
from proxy.protocol.xmlrpc.values import INTEGER, SCALAR_PARSERS

# Characters of a document. An expression takes ten times as many bytes, and 1 us for each to
# compile.
MAX_LENGTH = 3_072
# Templates of one method: an optional argument makes another one.
MAX_OF_ONE_METHOD = 4
# Templates of one cache: a megabyte, if they are as long as possible. `re` itself caches 512
# expressions, so evicted ones can take 13 MB more in a process, and no more than that.
MAX_TEMPLATES = 32
# Calls without a template and without room for one, after which all templates are evicted. Learning
# takes 3 ms, so a caller must not be able to cause it with every call.
MAX_MISSES = 10_000

_HEAD_ENDS = "</methodName>"
_SCALAR = re.compile(rf"<({'|'.join(map(re.escape, SCALAR_PARSERS))}){S}>([^<]*+)</\1{S}>")
_MARK = "\x01"  # before the number of a text, in its place; no document can hold it

# The valid texts of frequent types. A document with any other text does not match, and the strict
# reader refuses it.
_OPEN = {"int": f"({INTEGER})", "i4": f"({INTEGER})", "boolean": "([01])"}
_ANY_TEXT = "([^<]*+)"


class _Group(NamedTuple):
    """An array or a struct: `take` returns its parts in order, `names` are those of a struct."""

    take: Callable[[list[Value]], Sequence[Value]]
    names: tuple[str, ...] | None


class _Template(NamedTuple):
    """An expression with a group for each open text, and where the texts go.

    The values of a call are the texts; then `fixed`, which belong to the template (nil, a text
    without a type); then one value for each of `groups`, made of values before it. The last one is
    the array of arguments. The texts at `integers` and `booleans` and those of `others` are no
    strings.
    """

    expression: re.Pattern[str]
    method: str
    integers: list[int]
    booleans: list[int]
    others: list[tuple[int, Callable[[str], Value]]]
    fixed: list[Value]
    groups: list[_Group]


class TemplateCache:
    """The templates of calls that were decoded before. Each codec has its own."""

    __slots__ = ("_count", "_max_templates", "_misses", "_templates")

    def __init__(self, max_templates: int = MAX_TEMPLATES) -> None:
        self._max_templates = max_templates
        self._templates: dict[str, list[_Template]] = {}  # by the document's head
        self._count = 0
        self._misses = 0  # calls without a template and without room for one

    def counts(self) -> list[int]:
        """Return the number of templates of each method."""
        return [len(templates) for templates in self._templates.values()]

    def match(self, text: str) -> tuple[str, list[Value]] | None:
        """Return the method and the arguments of the call in the plain document `text`.

        Return None if no template matches.

        Raises:
            Rejected: MALFORMED_CALL, for a scalar that is invalid for its type.

        """
        if len(text) > MAX_LENGTH:
            return None
        for template in self._templates.get(text[: text.find(_HEAD_ENDS)], ()):
            found = template.expression.fullmatch(text)
            if found is not None:
                texts: Any = found.groups()
                values: list[Value] = [*texts, *template.fixed]
                for number in template.integers:
                    values[number] = integer = int(texts[number])
                    if not -0x80000000 <= integer <= 0x7FFFFFFF:
                        return None
                for number in template.booleans:
                    values[number] = texts[number] == "1"
                for number, parse in template.others:
                    values[number] = parse(texts[number])
                for take, names in template.groups:
                    if names is None:
                        values.append([*take(values)])
                    else:
                        # PERF: no `strict` saves 0.3 us of 100 (XML-RPC add_task, 900 B).
                        values.append(dict(zip(names, take(values))))  # noqa: B905  (as many as names)
                return template.method, values[-1]  # type: ignore[return-value]  # an array
        return None

    def add(self, text: str, read: Callable[[str], tuple[str, list[Value]]]) -> None:
        """Cache the template of the plain document `text`, which the strict reader accepted.

        `read` is the strict reader, for a document like it.
        """
        if len(text) > MAX_LENGTH:
            return
        head = text[: text.find(_HEAD_ENDS)]
        templates = self._templates.get(head, [])
        if self._count >= self._max_templates or len(templates) == MAX_OF_ONE_METHOD:
            self._misses += 1
            if self._misses == MAX_MISSES:
                self._templates.clear()
                self._count = self._misses = 0
            return
        self._templates[head] = [*templates, _template_of(text, read)]
        self._count += 1


def _template_of(text: str, read: Callable[[str], tuple[str, list[Value]]]) -> _Template:
    """Return the template of `text`.

    The strict reader reads the document with numbers for its texts, and so tells where in the
    arguments each text goes.
    """
    expression, marked = "", ""
    kinds: list[str] = []
    end = 0
    for number, scalar in enumerate(_SCALAR.finditer(text)):
        between = text[end : scalar.start()]
        before = between + text[scalar.start() : scalar.start(2)]
        after = text[scalar.end(2) : scalar.end()]
        expression += re.escape(before) + _OPEN.get(scalar[1], _ANY_TEXT) + re.escape(after)
        marked += f"{between}<string>{_MARK}{number}</string>"
        end = scalar.end()
        kinds.append(scalar[1])
    method, arguments = read(marked + text[end:])
    plan = _Plan(len(kinds), arguments)
    return _Template(
        re.compile(expression + re.escape(text[end:])),
        method,
        [number for number, kind in enumerate(kinds) if kind in ("int", "i4")],
        [number for number, kind in enumerate(kinds) if kind == "boolean"],
        [
            (number, SCALAR_PARSERS[kind])
            for number, kind in enumerate(kinds)
            if kind != "string" and kind not in _OPEN
        ],
        plan.fixed,
        plan.groups,
    )


class _Plan:
    """Where the texts go in `arguments`, which were read with marks in the texts' places."""

    def __init__(self, texts: int, arguments: list[Value]) -> None:
        """`texts` is the number of open texts."""
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
        """Return the place of `value` among the values of a call; add the groups that it needs."""
        if isinstance(value, (list, dict)):
            parts = [self._place(part) for part in _parts(value)]
            names = tuple(value) if isinstance(value, dict) else None
            self.groups.append(_Group(_taker(parts), names))
            return next(self._group_places)
        return int(value[1:]) if _is_mark(value) else next(self._fixed_places)


def _parts(value: "list[Value] | dict[str, Value]") -> Iterable[Value]:
    return value.values() if isinstance(value, dict) else value


def _is_mark(value: Value) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(_MARK)


def _taker(places: list[int]) -> Callable[[list[Value]], Sequence[Value]]:
    """Return a function that takes the values at `places`, by a slice if they are adjacent."""
    start = places[0] if places else 0
    if places == [*range(start, start + len(places))]:
        return itemgetter(slice(start, start + len(places)))
    return itemgetter(*places)
