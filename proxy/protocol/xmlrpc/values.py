"""XML-RPC values: the scalars parsed from text, and every value written as an element.

The rules, by type (xmlrpc.com's specification, and ``nil`` and ``i8`` of the extensions that all
clients know):

=================  ================================================================================
int, i4, i8        Sign and decimal digits, within 32 bits (i8: 64). Written as int, or as i8 when
                   32 bits do not suffice.
boolean            ``0`` or ``1``.
double             Finite: sign, digits, point, and (parsed only) an exponent. Written without an
                   exponent, in the shortest form that gives the same number again.
string             Any text; white space counts.
dateTime.iso8601   ``YYYYMMDDTHH:MM:SS``, ``YYYY-MM-DDTHH:MM:SS`` or ``YYYYMMDDTHHMMSS``, a time
                   that exists. A zone is refused: the type has none, and dropping a ``Z`` would
                   change the meaning. Written in the first form.
base64             The standard alphabet, padded, with white space anywhere. Bits beyond the last
                   byte are zero.
nil                Empty.
=================  ================================================================================

No scalar may have white space around it: CPython takes ``<int> 1 </int>``, others do not.
"""

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Collection
from datetime import datetime
from decimal import Decimal
from math import isfinite

from proxy.errors import Rejected
from proxy.model import DateTime, Reason, Value
from proxy.protocol.xmlrpc.text import EncodingError, escape

# Arrays and structs within each other. The deepest known call of a stock client nests four.
MAX_DEPTH = 64
_MANY = 4  # items of an array from which on `_write_array` checks whether all are texts

# The specification allows leading zeros. 40 digits are beyond any range.
INTEGER = r"[+-]?[0-9]{1,40}"
_INTEGER = re.compile(INTEGER)
_DOUBLE = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_DOUBLE_LENGTH = 1100  # characters; an exact binary64 has at most 1,076 in fixed notation
_HOUR = "(?:[01][0-9]|2[0-3])"  # not 24, which some Pythons take for the next midnight
_DATE_TIME = re.compile(
    rf"[0-9]{{8}}T{_HOUR}:[0-9]{{2}}:[0-9]{{2}}"
    rf"|[0-9]{{8}}T{_HOUR}[0-9]{{4}}"
    rf"|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T{_HOUR}:[0-9]{{2}}:[0-9]{{2}}"
)


def _parse_int(text: str) -> int:
    if _INTEGER.fullmatch(text) and -0x80000000 <= (number := int(text)) <= 0x7FFFFFFF:
        return number
    raise _malformed("int")


def _parse_i8(text: str) -> int:
    if (
        _INTEGER.fullmatch(text)
        and -0x8000000000000000 <= (number := int(text)) <= 0x7FFFFFFFFFFFFFFF
    ):
        return number
    raise _malformed("i8")


def _parse_boolean(text: str) -> bool:
    if text in ("0", "1"):
        return text == "1"
    raise _malformed("boolean")


def _parse_double(text: str) -> float:
    if len(text) <= _DOUBLE_LENGTH and _DOUBLE.fullmatch(text) and isfinite(number := float(text)):
        return number
    raise _malformed("double")


def _parse_date_time(text: str) -> DateTime:
    canonical = _date_time(text)
    if canonical is None:
        raise _malformed("dateTime.iso8601")
    return DateTime(canonical)


def _date_time(text: str) -> str | None:
    """Return the canonical spelling of a calendar time in any of the three, or None."""
    if not _DATE_TIME.fullmatch(text):
        return None
    digits = text.replace("-", "").replace(":", "")
    try:
        datetime.fromisoformat(digits)
    except ValueError:
        return None
    return f"{digits[:11]}:{digits[11:13]}:{digits[13:]}"


def _parse_base64(text: str) -> bytes:
    if not text.isascii():
        raise _malformed("base64")
    packed = text.encode().translate(None, b" \t\n\r")
    try:
        octets = a2b_base64(packed, strict_mode=True)
    except Base64Error:
        raise _malformed("base64") from None
    if b2a_base64(octets, newline=False) != packed:
        raise _malformed("base64")
    return octets


def _parse_nil(text: str) -> None:
    if text:
        raise _malformed("nil")


SCALAR_PARSERS: dict[str, Callable[[str], Value]] = {
    "string": str,
    "int": _parse_int,
    "i4": _parse_int,
    "i8": _parse_i8,
    "boolean": _parse_boolean,
    "double": _parse_double,
    "dateTime.iso8601": _parse_date_time,
    "base64": _parse_base64,
    "nil": _parse_nil,
}
"""The parser of the text of each scalar type. It raises `Rejected` (MALFORMED_CALL)."""


def write_value(value: Value) -> str:
    """Return the ``<value>`` element of `value`, as `write_values` does."""
    return write_values((value,))[0]


def write_values(values: Collection[Value], depth: int = MAX_DEPTH) -> list[str]:
    """Return the ``<value>`` element of each of `values`.

    `depth` is the number of arrays and structs that may still nest. Whether XML has every character
    is left to `text.encode`.

    Raises:
        EncodingError: XML-RPC cannot carry a value, or `decode` would not accept it.
    """
    # PERF: writing all scalars here instead of in functions saves half of 2.5 us (XML-RPC add_task,
    # 900 B).
    written: list[str] = []
    for value in values:
        if type(value) is str:
            if "&" in value or "<" in value or ">" in value or "\r" in value:
                value = escape(value)
            element = f"<value><string>{value}</string></value>"
        elif value is None:
            element = "<value><nil/></value>"
        elif type(value) is bool:
            element = (
                "<value><boolean>1</boolean></value>"
                if value
                else "<value><boolean>0</boolean></value>"
            )
        elif type(value) is int:
            element = (
                f"<value><int>{value:d}</int></value>"
                if -0x80000000 <= value <= 0x7FFFFFFF
                else write_integer(value)
            )
        elif type(value) is float:
            element = write_double(value)
        elif isinstance(value, (dict, list, tuple)):
            if depth == 0:
                raise EncodingError(f"a value nests more than {MAX_DEPTH} deep")
            element = (
                _write_struct(value, depth - 1)
                if isinstance(value, dict)
                else _write_array(value, depth - 1)
            )
        elif isinstance(value, DateTime):
            if _date_time(value.text) != value.text:
                raise EncodingError("a dateTime.iso8601 is not in its canonical spelling")
            element = f"<value><dateTime.iso8601>{value.text}</dateTime.iso8601></value>"
        elif isinstance(value, bytes):
            element = f"<value><base64>{b2a_base64(value, newline=False).decode()}</base64></value>"
        else:
            raise EncodingError("a value has a type that XML-RPC does not have")
        written.append(element)
    return written


def _write_struct(value: dict[str, Value], depth: int) -> str:
    members = [  # an identifier holds nothing to escape
        f"<member><name>{name if name.isidentifier() else escape(name)}</name>{element}</member>"
        for name, element in zip(value, write_values(value.values(), depth), strict=True)
    ]
    return f"<value><struct>{''.join(members)}</struct></value>"


def _write_array(items: "list[Value] | tuple[Value, ...]", depth: int) -> str:
    # PERF: checking and writing texts together saves 74 us of 116 (XML-RPC add_task, 100 kB in
    # 1,000 parts).
    if len(items) >= _MANY and {*map(type, items)} == {str}:
        texts: list[str] = items  # type: ignore[assignment]  # as the line above has checked
        joined = "".join(texts)
        if joined is escape(joined):
            written = "</string></value><value><string>".join(texts)
            items_of_data = f"<value><string>{written}</string></value>"
            return f"<value><array><data>{items_of_data}</data></array></value>"
    return f"<value><array><data>{''.join(write_values(items, depth))}</data></array></value>"


def write_integer(value: int) -> str:
    """Return the ``<value>`` of an integer: ``int`` where 32 bits suffice, else ``i8``.

    Raises `EncodingError` beyond 64 bits.
    """
    if -0x80000000 <= value <= 0x7FFFFFFF:
        return f"<value><int>{value:d}</int></value>"
    if -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
        return f"<value><i8>{value:d}</i8></value>"
    raise EncodingError("an integer needs more than 64 bits")


def write_double(value: float) -> str:
    """Return the ``<value>`` of a finite number, in fixed notation.

    Raises `EncodingError` for infinity and not-a-number.
    """
    if not isfinite(value):
        raise EncodingError("a double is not finite")
    digits = repr(value)
    if "e" in digits:
        digits = f"{Decimal(digits):f}"
        if "." not in digits:
            digits += ".0"  # else a parser could take it for an integer
    return f"<value><double>{digits}</double></value>"


def _malformed(kind: str) -> Rejected:
    return Rejected(Reason.MALFORMED_CALL, f"a value is not a valid {kind}")
