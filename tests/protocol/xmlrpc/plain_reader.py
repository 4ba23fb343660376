"""The grammar of `proxy.protocol.xmlrpc.grammar` without short cuts: one expression a production.

`Reader` has to agree with it, in values and in refusals. Only the words of a refusal (`reject`) and
the scalars (`SCALAR_PARSERS`) are shared.
"""

import re

from proxy.errors import Rejected
from proxy.model import Reason, Value
from proxy.protocol.xmlrpc.grammar import reject
from proxy.protocol.xmlrpc.text import unescape
from proxy.protocol.xmlrpc.values import SCALAR_PARSERS

_S = "[ \\t\\n]*"
_SCALAR = "|".join(map(re.escape, SCALAR_PARSERS))
_VALUE = rf"<value{_S}(?:>(?:{_S}<(?:({_SCALAR}){_S}(?:>([^<]*)</\2{_S}>|/>){_S}</value{_S}>|(struct|array){_S}(/?)>)|([^<]*)</value{_S}>)|/>)"
_NAME = rf"(?:<name{_S}>([^<]*)</name{_S}>|<name{_S}/>)"
_BEFORE = {"param": rf"<param{_S}>{_S}()", "item": "()", "member": rf"<member{_S}>{_S}{_NAME}{_S}"}
_AFTER = {"param": rf"{_S}</param{_S}>{_S}", "item": _S, "member": rf"{_S}</member{_S}>{_S}"}
_STATES = {
    "param": ("params", "param after value"),
    "item": ("data",),
    "member": ("struct", "member after value"),
}


class PlainReader:
    """A double of `Reader`."""

    def __init__(self, text: str, plain: bool, max_depth: int) -> None:
        """Take the arguments of `Reader`; `plain` only permits it to skip work, and is ignored."""
        self.plain = plain
        self._text = text
        self._depth = max_depth

    def params(self, at: int) -> tuple[list[Value], int]:
        """As `Reader.params`."""
        _, values, at = self._values("param", at)
        return values, at

    def value(self, at: int) -> tuple[Value, int]:
        """As `Reader.value`."""
        _, values, end = self._values("item", at)
        if len(values) != 1:
            reject(self._text, at, "fault")
        return values[0], end

    def _values(self, place: str, at: int) -> tuple[list[str], list[Value], int]:
        names: list[str] = []
        values: list[Value] = []
        scalar = re.compile(_BEFORE[place] + _VALUE)
        while (found := scalar.match(self._text, at)) is not None:
            name, kind, raw, nested, empty, bare = found.groups("")
            if nested:
                value, end = self._nested(nested, bool(empty), found.end())
                rest = self._match(f"{_S}</value{_S}>{_AFTER[place]}", end)
                if rest is None:
                    reject(self._text, end, *_STATES[place], "value after text")
            else:
                rest = self._match(_AFTER[place], found.end())
                if rest is None:
                    break
                value = SCALAR_PARSERS[kind](unescape(raw)) if kind else unescape(bare)
            values.append(value)
            names.append(unescape(name))
            at = rest.end()
        return names, values, at

    def _nested(self, kind: str, empty: bool, at: int) -> tuple[Value, int]:
        if self._depth == 0:
            raise Rejected(Reason.CALL_TOO_COMPLEX, "arrays and structs nest too deeply")
        if empty:
            if kind == "struct":
                return {}, at
            raise Rejected(Reason.MALFORMED_CALL, f"at character {at}: an array holds one data")
        self._depth -= 1
        value = self._struct(at) if kind == "struct" else self._array(at)
        self._depth += 1
        return value

    def _array(self, at: int) -> tuple[list[Value], int]:
        blank = self._match(_S, at)
        at = blank.end() if blank else at
        data = self._match(rf"<data{_S}(/?)>{_S}", at)
        if data is None:
            reject(self._text, at, "array")
        values: list[Value] = []
        at = data.end()
        if not data[1]:
            _, values, at = self._values("item", at)
        end = self._match(rf"</array{_S}>" if data[1] else rf"</data{_S}>{_S}</array{_S}>", at)
        if end is None:
            reject(
                self._text,
                at,
                *(("array after data",) if data[1] else ("array after data", "data")),
            )
        return values, end.end()

    def _struct(self, at: int) -> tuple[dict[str, Value], int]:
        blank = self._match(_S, at)
        names, values, at = self._values("member", blank.end() if blank else at)
        end = self._match(rf"</struct{_S}>", at)
        if end is None:
            reject(self._text, at, "struct")
        if len(set(names)) != len(names):
            raise Rejected(
                Reason.AMBIGUOUS_CALL, f"at character {at}: a struct holds a member twice"
            )
        return dict(zip(names, values, strict=True)), end.end()

    def _match(self, expression: str, at: int) -> re.Match[str] | None:
        return re.compile(expression).match(self._text, at)
