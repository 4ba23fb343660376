"""Transcodes luigid's JSON answer to an XML-RPC ``methodResponse`` while it arrives.

Memory does not grow with the answer. The input is ``{"response": <json>}`` (luigi/server.py); the
output is what `encode_response` with `lossy` would write of that value, byte for byte. A
``task_list`` can have 50 MB; the unfinished token at the end of a chunk is held here, and one byte
for each open array and object.

The upstream's content is trusted, its syntax is not. JSON is read by RFC 8259: UTF-8 only, no
control characters in strings, nothing after the end. Anything else is refused as UPSTREAM_INVALID,
and so are ``NaN`` and ``Infinity``, integers beyond 64 bits, numbers beyond a double (other XML-RPC
parsers could not read them), and nesting beyond `MAX_DEPTH`. Half of a surrogate pair, and
characters that XML does not have, become U+FFFD. A duplicate key is passed on as a duplicate
member: to know all keys would take memory of the answer's size, luigid writes its objects from
dictionaries, and an XML-RPC client takes the last, as a JSON parser does.
"""

import re
from codecs import getincrementaldecoder
from collections.abc import Callable

from proxy.errors import Unavailable
from proxy.model import Reason
from proxy.protocol.xmlrpc.codec import RESPONSE_HEAD, RESPONSE_TAIL
from proxy.protocol.xmlrpc.text import EncodingError, encode, escape
from proxy.protocol.xmlrpc.values import MAX_DEPTH, write_double, write_integer

_NOT_JSON = "the upstream's answer is not JSON"
# Characters of an unfinished token that are held: a number, or the white space of the wrapper.
TOKEN_LIMIT = 2048
_MAX_ESCAPE = 12  # characters of the longest escape, a surrogate pair

_B = r"[ \t\n\r]*+"
_WRAPPER = re.compile(rf'{_B}\{{{_B}"response"{_B}:')
_BLANK = re.compile(_B)
_BLANKS = frozenset(" \t\n\r")
_PLAIN = r'([^"\\\x00-\x1f]*+)'  # the text of a string without an escape
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
# Complete only with the character after it.
_SCALAR = rf"({_NUMBER}|true|false|null)(?=[ \t\n\r,\]}}])"
_KEY = rf'"{_PLAIN}"{_B}:{_B}'
# PERF: the frequent parts in one match each: a scalar, and a comma with the complete member or item
# after it (16 dashboards, page data).
_ONE_VALUE = re.compile(rf'(?:"{_PLAIN}"|{_SCALAR})')
_ONE_KEY = re.compile(_KEY)
_NEXT_MEMBER = re.compile(rf',{_B}{_KEY}(?:"{_PLAIN}"|{_SCALAR})')
_NEXT_ITEM = re.compile(rf',{_B}(?:"{_PLAIN}"|{_SCALAR})')
_UNFINISHED = re.compile(r"[-+.0-9a-zA-Z]*+\Z")
# The two halves of a surrogate pair, and any escape of a code unit.
_HIGH, _LOW, _ANY = (
    r"u[dD][89abAB][0-9a-fA-F]{2}",
    r"u[dD][c-fC-F][0-9a-fA-F]{2}",
    r"u[0-9a-fA-F]{4}",
)
# A high surrogate matches only with its low one, or with enough text after it to see that it has
# none.
_PIECE = re.compile(
    rf'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\(?!{_HIGH}){_ANY}'
    rf"|\\{_HIGH}(?:\\{_LOW}|(?=[^\\]|\\[^u]|\\(?!{_LOW}){_ANY})))*"
)
_ESCAPE = re.compile(rf"\\(?:({_HIGH})\\({_LOW})|({_ANY})|(.))")
_MEANING = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERAL = {
    "null": "<value><nil/></value>",
    "true": "<value><boolean>1</boolean></value>",
    "false": "<value><boolean>0</boolean></value>",
}


class JsonToXml:
    """A transcoder of one answer: `feed` it the body in pieces of any size, then `close` it.

    It is a state machine. Each state is a method with the text and a position in it. The method
    returns the position after the part that it read, or -1 when it needs more text. It appends to
    `_out` and sets `_step` to the next state.
    """

    __slots__ = ("_decode", "_in_name", "_max_depth", "_open", "_out", "_rest", "_step")

    def __init__(self, *, max_depth: int = MAX_DEPTH) -> None:
        """Allow `max_depth` arrays and objects within each other."""
        self._decode = getincrementaldecoder("utf-8")().decode
        self._rest = ""
        self._out: list[str] = []
        self._open: list[bool] = []  # for each array (False) and object (True) that is open
        self._in_name = False  # whether the string that is being read is a key
        self._max_depth = max_depth
        self._step: Callable[[str, int], int] = self._wrapper

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the answer and return what can be written so far.

        Raises `Unavailable` (UPSTREAM_INVALID).
        """
        return self._feed(chunk, final=False)

    def close(self) -> bytes:
        """End the answer and return what is left to write.

        Raises `Unavailable` when the answer is not complete.
        """
        out = self._feed(b"", final=True)
        if self._step != self._end or self._rest:
            raise _invalid("the upstream's JSON is cut short")
        return out

    def _feed(self, chunk: bytes, *, final: bool) -> bytes:
        try:
            text = self._rest + self._decode(chunk, final)
            at, length = 0, len(text)
            while at < length and (after := self._step(text, at)) >= 0:
                at = after
            out = encode("".join(self._out), lossy=True)
        except UnicodeDecodeError:
            raise _invalid("the upstream's JSON is not UTF-8") from None
        except EncodingError as error:
            raise _invalid(error.args[0]) from None
        self._rest = text[at:]
        if len(self._rest) > TOKEN_LIMIT:
            raise _invalid(_NOT_JSON)
        self._out.clear()
        return out

    def _wrapper(self, text: str, at: int) -> int:
        """Read ``{"response":``, with only white space before it."""
        found = _WRAPPER.match(text, at)
        if found is None:
            if text[at:].lstrip(" \t\n\r")[:1] in ("", "{"):
                return -1
            raise _invalid(_NOT_JSON)
        self._out.append(RESPONSE_HEAD)
        self._step = self._value
        return found.end()

    def _value(self, text: str, at: int) -> int:
        """Read a value, or the beginning of a long string, an array or an object."""
        at = _skip(text, at)
        if at == len(text):
            return at
        found = _ONE_VALUE.match(text, at)
        if found is not None:
            self._out.append(_write(found[1], found[2]))
            self._step = self._after
            return found.end()
        start = text[at]
        if start == '"':
            self._out.append("<value><string>")
            self._in_name, self._step = False, self._string
        elif start == "{":
            self._nest(True)
            self._out.append("<value><struct>")
            self._step = self._first_key
        elif start == "[":
            self._nest(False)
            self._out.append("<value><array><data>")
            self._step = self._first_item
        elif _UNFINISHED.match(text, at):
            return -1
        else:
            raise _invalid(_NOT_JSON)
        return at + 1

    def _nest(self, is_object: bool) -> None:
        if len(self._open) == self._max_depth:
            raise _invalid(f"a value nests more than {self._max_depth} deep")
        self._open.append(is_object)

    def _first_key(self, text: str, at: int) -> int:
        """Read what follows ``{``: its end, or a key."""
        at = _skip(text, at)
        if text.startswith("}", at):
            return self._ended(at)
        if at < len(text):
            self._step = self._key
        return at

    def _first_item(self, text: str, at: int) -> int:
        """Read what follows ``[``: its end, or a value."""
        at = _skip(text, at)
        if text.startswith("]", at):
            return self._ended(at)
        if at < len(text):
            self._step = self._value
        return at

    def _key(self, text: str, at: int) -> int:
        """Read a key with its colon, or the beginning of a key."""
        at = _skip(text, at)
        found = _ONE_KEY.match(text, at)
        if found is not None:
            self._out.append(f"<member><name>{escape(found[1])}</name>")
            self._step = self._value
            return found.end()
        if at == len(text):
            return at
        if text[at] != '"':
            raise _invalid(_NOT_JSON)
        self._out.append("<member><name>")
        self._in_name, self._step = True, self._string
        return at + 1

    def _string(self, text: str, at: int) -> int:
        """Read the text of a string as far as it has arrived, and its closing quote."""
        found = _PIECE.match(text, at)
        end = found.end() if found else at
        if end > at:
            self._out.append(_unescape(text[at:end]))
        if text.startswith('"', end):
            self._out.append("</name>" if self._in_name else "</string></value>")
            self._step = self._colon if self._in_name else self._after
            return end + 1
        if len(text) - end >= _MAX_ESCAPE:
            raise _invalid(_NOT_JSON)
        return end if end > at else -1

    def _colon(self, text: str, at: int) -> int:
        at = _skip(text, at)
        if at == len(text):
            return at
        if text[at] != ":":
            raise _invalid(_NOT_JSON)
        self._step = self._value
        return at + 1

    def _after(self, text: str, at: int) -> int:
        """Read what follows a value: a comma and the next value, or the end of its container."""
        at = _skip(text, at)
        start = text[at : at + 1]
        if not start:
            return at
        if not self._open:
            if start != "}":
                raise _invalid("the upstream's answer has a member besides response")
            self._out.append(RESPONSE_TAIL)
            self._step = self._end
            return at + 1
        if self._open[-1]:
            return self._after_in_object(text, at, start)
        return self._after_in_array(text, at, start)

    def _after_in_object(self, text: str, at: int, start: str) -> int:
        if start == "}":
            self._out.append("</member>")
            return self._ended(at)
        begin = at
        while (found := _NEXT_MEMBER.match(text, at)) is not None:
            name, string, scalar = found.groups()
            self._out.append(
                f"</member><member><name>{escape(name)}</name>{_write(string, scalar)}"
            )
            at = found.end()
        if at > begin:
            return at
        if start != ",":
            raise _invalid(_NOT_JSON)
        self._out.append("</member>")
        self._step = self._key
        return at + 1

    def _after_in_array(self, text: str, at: int, start: str) -> int:
        if start == "]":
            return self._ended(at)
        begin = at
        while (found := _NEXT_ITEM.match(text, at)) is not None:
            self._out.append(_write(*found.groups()))
            at = found.end()
        if at > begin:
            return at
        if start != ",":
            raise _invalid(_NOT_JSON)
        self._step = self._value
        return at + 1

    def _ended(self, at: int) -> int:
        """Read the end of an array or object at `at`."""
        self._out.append("</struct></value>" if self._open.pop() else "</data></array></value>")
        self._step = self._after
        return at + 1

    def _end(self, text: str, at: int) -> int:
        """Read white space, up to the end of the answer."""
        at = _skip(text, at)
        if at < len(text):
            raise _invalid("data follows the upstream's answer")
        return at


def _skip(text: str, at: int) -> int:
    """Return the position after the white space at `at`."""
    found = _BLANK.match(text, at) if text[at : at + 1] in _BLANKS else None
    return found.end() if found else at


def _write(string: str | None, scalar: str | None) -> str:
    """Return the ``<value>`` of a string without escapes, or of a number or literal."""
    if string is not None:
        return f"<value><string>{escape(string)}</string></value>"
    assert scalar is not None, "one of the two groups matched"
    if scalar in _LITERAL:
        return _LITERAL[scalar]
    if len(scalar) > TOKEN_LIMIT:
        raise _invalid("a number has too many digits")
    if scalar.lstrip("-").isdigit():
        return write_integer(int(scalar))
    return write_double(float(scalar))


def _unescape(text: str) -> str:
    """Return a string, or a part of one that ends between two characters, as XML text."""
    return escape(_ESCAPE.sub(_character, text) if "\\" in text else text)


def _character(found: re.Match[str]) -> str:
    high, low, unit, letter = found.groups()
    if high is not None:
        return chr(0x10000 + ((int(high[1:], 16) & 0x3FF) << 10) + (int(low[1:], 16) & 0x3FF))
    if unit is not None:
        return chr(int(unit[1:], 16))
    return _MEANING.get(letter, letter)


def _invalid(detail: str) -> Unavailable:
    return Unavailable(Reason.UPSTREAM_INVALID, detail, sent=True)
