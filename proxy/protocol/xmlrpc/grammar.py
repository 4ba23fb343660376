"""The grammar of XML-RPC: the params of a call, and the value of an answer, from text.

Each production (a ``param``, an array's item, a struct's ``member``, each with the scalar in it) is
one regular expression, matched where the last one ended. Only arrays and structs cost a Python
call. An expression never has two ways to match: a repeated part excludes what may follow it. So
time grows with the document and with nothing else.

Two things are read by a search for one string: a long text (`_long`), and an array of many texts
(`_texts`). Neither accepts more than the expressions; a test compares the two.

When a production does not match, `reject` walks over the tags from there and names the wrong one.
An element of XML-RPC in a wrong place is AMBIGUOUS_CALL, since one parser accepts it and another
does not: CPython's server takes a ``methodName`` from anywhere, and of two the last. Everything
else is MALFORMED_CALL.
"""

import re
from typing import NamedTuple, NoReturn

from proxy.errors import Rejected
from proxy.model import Reason, Value
from proxy.protocol.xmlrpc.text import unescape
from proxy.protocol.xmlrpc.values import SCALAR_PARSERS

S = r"[ \t\n]*+"  # white space between elements, and inside a tag after its name
TEXT = r"([^<]*+)"
# A text of usual length. PERF: `str.find` for a longer one saves 23 us of 24 (XML-RPC add_task,
# 100 kB).
_SHORT = r"([^<]{0,500}+)"


def tag(name: str) -> str:
    """Return an expression for the start tag `name`, or with a leading ``/`` its end tag.

    It permits blanks as XML does, and no attributes.
    """
    return rf"<{re.escape(name)}{S}>"


_ENDS = {
    "struct": tag("/struct"),
    "struct/": "",
    "data": tag("/data") + S + tag("/array"),
    "data/": tag("/array"),
}
"""The end of a struct or an array, by the last tag before its contents; empty ones with a slash."""


class _Production(NamedTuple):
    """The expressions of a value in its place.

    `whole` matches up to what follows, or up to the beginning of an array or a struct; `ends`
    matches the end of those. Groups of `whole`: 1 the name of a member, 2 and 3 type and text of a
    scalar, 4 ``array`` or ``struct`` and 5 the slash of an empty one, 6 text without a type.

    `lead` is the same up to a scalar's text, for a text that is too long for `whole`, and `trail`
    by type what follows it; `lead` has groups 1 and 2. `states` name the position in what is left
    of the value after an array or a struct, in the terms of `reject`.
    """

    whole: re.Pattern[str]
    ends: dict[str, re.Pattern[str]]
    lead: re.Pattern[str]
    trail: dict[str | None, re.Pattern[str]]
    states: tuple[str, ...]


def _production(lead: str, trail: str, *states: str) -> _Production:
    """Return the production of a value between `lead`, which has one group, and `trail`."""
    scalar = "|".join(map(re.escape, SCALAR_PARSERS))
    close = f"{tag('/value')}{trail}"
    whole = (
        rf"{lead}<value{S}(?:"
        rf">(?:{S}<(?:({scalar}){S}(?:>{_SHORT}</\2{S}>|/>){S}{close}"
        rf"|(struct|array){S}(?:(/)>|>{S}))|{_SHORT}{close})"
        rf"|/>{trail})"
    )
    ends = {begin: re.compile(f"{end}{S}{close}") for begin, end in _ENDS.items()}
    before = re.compile(rf"{lead}<value{S}>(?:{S}<({scalar}){S}>)?")
    after = {None: re.compile(close)} | {
        kind: re.compile(rf"{tag('/' + kind)}{S}{close}") for kind in SCALAR_PARSERS
    }
    return _Production(re.compile(whole), ends, before, after, (*states, "value after text"))


_PARAM = _production(f"{tag('param')}{S}()", S + tag("/param") + S, "params", "param after value")
_ITEM = _production("()", S, "data")
_MEMBER = _production(
    f"{tag('member')}{S}(?:{tag('name')}{TEXT}{tag('/name')}|<name{S}/>){S}",
    S + tag("/member") + S,
    "struct",
    "member after value",
)
_DATA = re.compile(rf"<data{S}(/?)>{S}")
_END = {begin: re.compile(end) for begin, end in _ENDS.items()}
_FIRST_TEXT, _LAST_TEXT, _NO_MORE_ITEMS = "<value><string>", "</string></value>", "</data>"
_THREE_TEXTS = re.compile(
    rf"{_FIRST_TEXT}{TEXT}{_LAST_TEXT}({S}){_FIRST_TEXT}{TEXT}{_LAST_TEXT}\2{_FIRST_TEXT}"
)
_GLUE = "\x01"  # between texts that are joined for a moment; no document can hold it


class Reader:
    """A reader of the values of one document. `text` and `plain` are those of `text.read_text`."""

    __slots__ = ("_depth", "_text", "_try_texts", "plain")

    def __init__(self, text: str, plain: bool, max_depth: int) -> None:
        """Allow `max_depth` arrays and structs within each other."""
        self._text = text
        self.plain = plain
        self._depth = max_depth
        self._try_texts = True

    def params(self, at: int) -> tuple[list[Value], int]:
        """Return the values of the ``param`` elements from `at` on, and where they end."""
        return self._values(_PARAM, at)

    def value(self, at: int) -> tuple[Value, int]:
        """Return the one ``value`` at `at` and where it ends, white space after it included.

        Raises `Rejected` if there is none.
        """
        values, end = self._values(_ITEM, at)
        if len(values) != 1:
            reject(self._text, at, "fault")
        return values[0], end

    def _values(
        self, production: _Production, at: int, struct: dict[str, Value] | None = None
    ) -> tuple[list[Value], int]:
        """Return the values of `production` from `at` on, and where the last one ends.

        `struct` gets them by name.
        """
        match, text, plain = production.whole.match, self._text, self.plain
        values: list[Value] = []
        value: Value
        while True:
            if (found := match(text, at)) is not None:
                name, kind, raw, nested, empty, bare = found.groups("")
                at = found.end()
            elif text.startswith("</", at) or (long := self._long(production, at)) is None:
                return values, at  # nearly always at the end tag of their container
            else:
                name, kind, raw, at = long
                nested = empty = ""
                bare = raw
            if kind:
                value = (
                    raw
                    if plain and kind == "string"
                    else SCALAR_PARSERS[kind](raw if plain else unescape(raw))
                )
            elif nested:
                value, at = self._nested(production, nested, empty, at)
            else:
                value = bare if plain else unescape(bare)
            values.append(value)
            if struct is not None:
                struct[name if plain else unescape(name)] = value

    def _long(self, production: _Production, at: int) -> tuple[str, str, str, int] | None:
        """Return a scalar of `production` at `at` with a text of any length.

        Returns:
            The name, the type, the text, and where it ends; None if there is none.
        """
        text = self._text
        lead = production.lead.match(text, at)
        if lead is None:
            return None
        name, kind = lead.groups()
        begin = lead.end()
        end = text.find("<", begin)
        trail = production.trail[kind].match(text, end) if end >= 0 else None
        if trail is None:
            return None
        return name or "", kind or "", text[begin:end], trail.end()

    def _nested(self, production: _Production, kind: str, slash: str, at: int) -> tuple[Value, int]:
        """Return the array or struct that begins at `at`, and where its `production` ends.

        `slash` is not empty for an empty one.
        """
        if self._depth == 0:
            raise Rejected(Reason.CALL_TOO_COMPLEX, "arrays and structs nest too deeply")
        self._depth -= 1
        value, at = (self._struct if kind == "struct" else self._array)(production, slash, at)
        self._depth += 1
        return value, at

    def _array(self, production: _Production, slash: str, at: int) -> tuple[Value, int]:
        if slash:
            raise Rejected(Reason.MALFORMED_CALL, f"at character {at}: an array holds one data")
        data = _DATA.match(self._text, at)
        if data is None:
            reject(self._text, at, "array")
        at = data.end()
        if data[1]:
            return [], self._end(production, "data/", at, "array after data")
        values, at = self._texts(at) or self._values(_ITEM, at)
        return values, self._end(production, "data", at, "array after data", "data")

    def _struct(self, production: _Production, slash: str, at: int) -> tuple[Value, int]:
        struct: dict[str, Value] = {}
        if slash:
            return struct, self._end(production, "struct/", at)
        values, at = self._values(_MEMBER, at, struct)
        if len(struct) != len(values) and _END["struct"].match(self._text, at):
            raise Rejected(
                Reason.AMBIGUOUS_CALL, f"at character {at}: a struct holds a member twice"
            )
        return struct, self._end(production, "struct", at, "struct")

    def _end(self, production: _Production, begin: str, at: int, *states: str) -> int:
        """Return where the `production` ends whose array or struct ends at `at`.

        `states` are as for `reject`.
        """
        end = production.ends[begin].match(self._text, at)
        if end is None:
            inner = _END[begin].match(self._text, at)
            if inner is None:
                reject(self._text, at, *states)
            reject(self._text, inner.end(), *production.states)
        return end.end()

    def _texts(self, at: int) -> tuple[list[Value], int] | None:
        """Return the items of an array of at least three texts that are marked up alike.

        The texts are cut at the markup between the first two. If markup is left in a piece, the
        array holds something else. The split is then not tried again in this document, so it costs
        at most one pass.

        PERF: one split saves 240 us of 430 (XML-RPC add_task, 100 kB in 1,000 parts).

        Returns:
            The items and where they end; None if the array is not of that kind.
        """
        text = self._text
        three = _THREE_TEXTS.match(text, at) if self._try_texts else None
        if three is None:
            return None
        at += len(_FIRST_TEXT)
        end = text.find(_NO_MORE_ITEMS, at)
        last = text.rfind(_LAST_TEXT, at, max(end, at))
        if last >= 0 and not text[last + len(_LAST_TEXT) : end].strip(" \t\n"):
            pieces = text[at:last].split(f"{_LAST_TEXT}{three[2]}{_FIRST_TEXT}")
            joined = _GLUE.join(pieces)
            if "<" not in joined:
                values: list[Value] = []
                values += pieces if self.plain else unescape(joined).split(_GLUE)
                return values, end
        self._try_texts = False
        return None


# The possible next steps in an element, by the last child that it had: the start of an element,
# text, or "/" for the element's end.
_SCALARS = set(SCALAR_PARSERS)
_NEXT: dict[str, set[str]] = {
    "document": {"methodCall"},
    "document after methodCall": set(),
    "answer": {"methodResponse"},
    "answer after methodResponse": set(),
    "methodCall": {"methodName"},
    "methodCall after methodName": {"params", "/"},
    "methodCall after params": {"/"},
    "methodName": {"text", "/"},
    "methodResponse": {"params", "fault"},
    "methodResponse after params": {"/"},
    "methodResponse after fault": {"/"},
    "params": {"param", "/"},
    "fault": {"value"},
    "fault after value": {"/"},
    "param": {"value"},
    "param after value": {"/"},
    "value": {"text", "array", "struct", "/"} | _SCALARS,
    **{f"value after {content}": {"/"} for content in ("text", "array", "struct", *_SCALARS)},
    "array": {"data"},
    "array after data": {"/"},
    "data": {"value", "/"},
    "struct": {"member", "/"},
    "member": {"name"},
    "member after name": {"value"},
    "member after value": {"/"},
    "name": {"text", "/"},
} | {scalar: {"text", "/"} for scalar in _SCALARS}
_KNOWN = {state.split()[0] for state in _NEXT} - {"document", "answer"}
_PIECE = re.compile(r"<(/?)([A-Za-z0-9._]{1,20})[ \t\n]*+(/?)>|[^<]++")
_MAX_OPEN = 64  # open elements: a production that does not match has fewer


def reject(text: str, at: int, *states: str) -> NoReturn:
    """Raise the `Rejected` of a document that breaks the grammar at `at` or soon after.

    `states` are keys of `_NEXT`, from the outermost element inwards. They only choose the reason
    and the words, which never hold text of the document: it may be an argument's value.
    """
    stack = list(states)
    for piece in _PIECE.finditer(text, at):
        if piece.start() != at or not stack or len(stack) > _MAX_OPEN:
            break
        at = piece.end()
        closing, name, empty = piece.groups("")
        if not name and not piece[0].strip(" \t\n"):
            continue  # white space is the grammar's alone
        here = stack[-1]
        step = "/" if closing else name or "text"
        if step not in _NEXT[here] or (closing and name != here.split()[0]):
            what = name if name in _KNOWN else "an unknown tag" if name else "text"
            part = f"the end of {what}" if closing else what
            detail = f"at character {piece.start()}: {part} is not allowed in {here}"
            raise Rejected(
                Reason.MALFORMED_CALL if closing or name not in _KNOWN else Reason.AMBIGUOUS_CALL,
                detail,
            )
        if closing:
            stack.pop()
            continue
        after = f"{here.split()[0]} after {step}"
        if after in _NEXT:
            stack[-1] = after
        if name and not empty:
            stack.append(name)
    raise Rejected(
        Reason.MALFORMED_CALL, f"at character {at}: the document does not go on as XML-RPC"
    )
