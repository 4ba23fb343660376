"""The JSON of a luigid call: one object that every parser reads alike, or a refusal.

luigid reads with Python's ``json``, which takes the last of two equal keys and half surrogates. Refused
are: a key that stands twice, at any depth; text that is not UTF-8; half a surrogate pair; NaN and negative infinity; what
is not one object; more than `MAX_DEPTH` levels. ``Infinity`` is accepted, since stock workers send it, and so is a number
too large for a float (``1e999``), which luigid reads as that.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import orjson

from proxy.errors import Rejected
from proxy.model import Reason, Value

MAX_DEPTH = 100  # luigid's own arguments nest three deep
MAX_ELEMENTS = 100_000  # commas and brackets; an add_task with 20,000 dependencies has a fifth. A third of a second to handle
_LARGE = 1024 * 1024  # bytes; a worker's own calls are smaller


class Plain(dict[str, Value]):
    """Arguments that orjson writes as it read them. A copy is an ordinary dict again, and is written the slow way."""


def write_arguments(args: Mapping[str, Value], changed: Mapping[str, Value]) -> bytes:
    """`args` as JSON for luigid, with the members of `changed` in the place of theirs.

    orjson would write Infinity as null: only arguments that came the fast road go back on it.
    """
    if type(args) is Plain:
        return orjson.dumps({**args, **changed})
    return json.dumps({**args, **changed}).encode("ascii")


def parse_arguments(text: bytes) -> dict[str, Value]:
    """The JSON object in `text`. Raises `Rejected` (MALFORMED_CALL, AMBIGUOUS_CALL, CALL_TOO_COMPLEX)."""
    if len(text) > MAX_ELEMENTS and len(text) - len(text.translate(None, b",[{")) > MAX_ELEMENTS:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON has too many elements")
    quick = parse_quickly(text)
    return parse_slowly(text) if quick is None else _shallow(text, quick)


def parse_quickly(text: bytes) -> Plain | None:
    """The JSON object in `text` when it is plain, in 3 us instead of 12; None when it has to be looked at more closely.

    orjson reads it and writes it again, and but for blanks that is the very text that came. Equal texts have equally many
    keys, so none stood twice; and every number and text means what it says. A text with escaped letters, as stock workers
    write all that is not ASCII, is held against what they would have written. Never plain are Infinity, integers over 64
    bits and escapes without need.
    """
    try:
        quick = orjson.loads(text)
        if type(quick) is dict and (
            _without_blanks(orjson.dumps(quick)) == _without_blanks(text)
            or (len(text) < _LARGE and b"\\u" in text and json.dumps(quick).encode("ascii") == text)
        ):
            return Plain(quick)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        pass
    return None


def parse_slowly(text: bytes) -> dict[str, Value]:
    """As `parse_arguments`, by the standard library with a hook that sees every key, and without a bound on elements."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_float=_float, parse_constant=_float)
        if b"\\ud" in text or b"\\uD" in text:  # half a surrogate pair comes no other way, since the text is UTF-8
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON is nested too deeply") from None
    except UnicodeError:
        raise Rejected(Reason.MALFORMED_CALL, "the text is not UTF-8, or holds half a surrogate pair") from None
    except ValueError:
        raise Rejected(Reason.MALFORMED_CALL, "data must be one JSON object") from None
    if type(value) is not dict:
        raise Rejected(Reason.MALFORMED_CALL, "data must be one JSON object")
    return _shallow(text, cast(dict[str, Value], value))


def _shallow(text: bytes, args: dict[str, Value]) -> dict[str, Value]:
    """`args`, unless they nest deeper than `MAX_DEPTH`. A short text, or few brackets in it, settle it without a walk."""
    if len(text) > 2 * MAX_DEPTH and _up_to(MAX_DEPTH + 1, b"[", text) + _up_to(MAX_DEPTH + 1, b"{", text) > MAX_DEPTH:
        level: list[dict[str, Value] | list[Value]] = [args]
        for _ in range(MAX_DEPTH):
            level = [x for v in level for x in (v.values() if isinstance(v, dict) else v) if isinstance(x, (dict, list))]
        if level:
            raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON is nested too deeply")
    return args


def _without_blanks(text: bytes) -> bytes:
    """A large text may be blanks for the most part, and then `replace` takes ten times as long as usual, `translate` never."""
    return text.replace(b" ", b"") if len(text) < _LARGE else text.translate(None, b" ")


def _up_to(most: int, sign: bytes, text: bytes) -> int:
    """How often `sign` stands in `text`, counted no further than `most`: `bytes.count` takes ten times as long for few signs."""
    return len(text) - len(text.replace(sign, b"", most))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Rejected(Reason.AMBIGUOUS_CALL, "a JSON key stands twice")
    return result


def _float(text: str) -> float:
    value = float(text)
    if not value > -math.inf:
        raise ValueError
    return value
