"""The form field and the JSON in it: fast and strict parsing agree with each other and with others.

The input is the text.
"""

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from proxy.errors import Rejected
from proxy.model import Reason, Value
from proxy.protocol.luigi.form import encode_form, parse_form, unquote_plus
from proxy.protocol.strict_json import MAX_DEPTH, Escaped, encode_arguments, parse_arguments
from tests.fuzz.kit import read, typed

BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    _form(data)
    _json(data)


def _form(data: bytes) -> None:
    decoded = read(unquote_plus, data)
    if BROKEN.search(data):
        assert isinstance(decoded, Rejected), "a broken escape is refused"
    else:
        assert decoded == unquote_to_bytes(data.replace(b"+", b" ")), "both decoders agree"
    assert parse_form(encode_form(data)) == data, "an encoded one reads back"
    [(name, value)] = parse_qsl(
        encode_form(data).decode("latin-1"), keep_blank_values=True, encoding="latin-1"
    )
    assert (name, value.encode("latin-1")) == ("data", data), "others read it alike"
    field = read(parse_form, data)
    if isinstance(field, bytes):
        [(name, value)] = parse_qsl(
            data.decode("latin-1"), keep_blank_values=True, encoding="latin-1"
        )
        assert (name, value.encode("latin-1")) == ("data", field), "others read the same field"


def _json(data: bytes) -> None:
    mine, theirs = read(parse_arguments, data), _slowly(data)
    if isinstance(theirs, Reason):
        assert isinstance(mine, Rejected), "anything but one plain object is refused"
        return
    assert not isinstance(mine, Rejected), "one plain object is accepted"
    assert typed(mine) == typed(theirs), "both parsers agree"
    if not isinstance(mine, Escaped):
        assert typed(json.loads(data.decode())) == typed(mine), "luigid parses it alike"
    assert typed(parse_arguments(encode_arguments(mine, {}))) == typed(mine), (
        "an encoded one reads back"
    )
    changed = {**mine, "worker": "w"}
    assert typed(parse_arguments(encode_arguments(mine, {"worker": "w"}))) == typed(changed), (
        "a changed one reads back"
    )


def _slowly(data: bytes) -> dict[str, Value] | Reason:
    """Parse by the rules of `proxy.protocol.strict_json`, slowly and simply."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        value = _escaped(json.loads(data.decode("utf-8"), object_pairs_hook=once), once)
    except RecursionError:
        return Reason.CALL_TOO_COMPLEX
    except ValueError:
        return Reason.MALFORMED_CALL
    if not isinstance(value, dict) or _depth(value) > MAX_DEPTH:
        return Reason.MALFORMED_CALL
    return value


def _escaped(value: Any, once: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> Any:
    """Replace half surrogate pairs by their escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_escaped(item, once) for item in value]
    if isinstance(value, dict):
        return once([(_escaped(key, once), _escaped(item, once)) for key, item in value.items()])
    return value


def _depth(value: Value) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
