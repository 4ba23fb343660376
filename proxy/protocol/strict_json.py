"""The JSON of a luigid call: one object that every parser reads alike, or a refusal.

luigid reads with Python's ``json``, which takes the last of two equal keys and half surrogates.
Refused are: a key that stands twice, at any depth; text that is not UTF-8; half a surrogate pair;
NaN and negative infinity; what is not one object; more than `MAX_DEPTH` levels. ``Infinity`` is
accepted, since stock workers send it, and so is a number too large for a float (``1e999``), which
luigid reads as that.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import orjson

from proxy.errors import Rejected
from proxy.model import Reason, Value

MAX_DEPTH = 100  # luigid's own arguments nest three deep
# commas and brackets; an add_task with 20,000 dependencies has a fifth. A third of a second to
# handle
MAX_ELEMENTS = 100_000
_DEEP = MAX_DEPTH + 1  # brackets to count; more of one kind change nothing
_LARGE = 1024 * 1024  # bytes; a worker's own calls are smaller


class RoundTripped(dict[str, Value]):
    """Arguments that orjson writes as it read them, or as XML-RPC knows them: no Infinity, and
    integers of 64 bits at most.

    A copy is an ordinary dict again, and is written the slow way.
    """


def encode_arguments(args: Mapping[str, Value], changed: Mapping[str, Value]) -> bytes:
    """`args` as JSON for luigid, with the members of `changed` in the place of theirs.

    orjson would write Infinity as null: only arguments that came the fast road go back on it.
    """
    if type(args) is RoundTripped:
        return orjson.dumps({**args, **changed})
    return json.dumps({**args, **changed}).encode("ascii")


def parse_arguments(text: bytes) -> dict[str, Value]:
    """The JSON object in `text`. Raises `Rejected` (MALFORMED_CALL, AMBIGUOUS_CALL,
    CALL_TOO_COMPLEX).
    """
    size = len(text)
    if size > MAX_ELEMENTS and size - len(text.translate(None, b",[{")) > MAX_ELEMENTS:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON has too many elements")
    quick = parse_fast(text)
    if quick is None:
        return parse_strict(text)
    # A short text, or few brackets in it, settle the depth without a walk. `bytes.count` takes ten
    # times as long for few of them.
    if (
        size > 2 * MAX_DEPTH
        and 2 * size - len(text.replace(b"[", b"", _DEEP)) - len(text.replace(b"{", b"", _DEEP))
        > MAX_DEPTH
    ):
        _check_depth(quick)
    return quick


def parse_fast(text: bytes) -> RoundTripped | None:
    """The JSON object in `text` when it is plain, in 3 us instead of 12; None when it has to be
    looked at more closely.

    orjson reads it and writes it again, and but for blanks that is the very text that came. Equal
    texts have equally many keys, so none stood twice; and every number and text means what it says.
    A text with escaped letters, as stock workers write all that is not ASCII, is held against what
    they would have written. Never plain are Infinity, integers over 64 bits and escapes without
    need.
    """
    try:
        quick = orjson.loads(text)
        if type(quick) is not dict:
            return None
        written = orjson.dumps(quick)
        if len(text) >= _LARGE:
            # It may be blanks for the most part, and then `replace` takes ten times as long as
            # usual, `translate` never.
            return (
                RoundTripped(quick)
                if written.translate(None, b" ") == text.translate(None, b" ")
                else None
            )
        if written.replace(b" ", b"") == text.replace(b" ", b"") or (
            b"\\u" in text and json.dumps(quick).encode("ascii") == text
        ):
            return RoundTripped(quick)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        pass
    return None


def is_valid_json(text: bytes) -> bool:
    """Whether `text` is one JSON document as Python writes it, hence also with NaN, Infinity and
    integers of any size.
    """
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
    return True


def parse_strict(text: bytes) -> dict[str, Value]:
    """As `parse_arguments`, by the standard library with a hook that sees every key, and without a
    bound on elements.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_once, parse_float=_float, parse_constant=_float
        )
        # half a surrogate pair comes no other way, since the text is UTF-8
        if b"\\ud" in text or b"\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON is nested too deeply") from None
    except UnicodeError:
        raise Rejected(
            Reason.MALFORMED_CALL, "the text is not UTF-8, or holds half a surrogate pair"
        ) from None
    except ValueError:
        raise Rejected(Reason.MALFORMED_CALL, "data must be one JSON object") from None
    if type(value) is not dict:
        raise Rejected(Reason.MALFORMED_CALL, "data must be one JSON object")
    args = cast(dict[str, Value], value)
    _check_depth(args)
    return args


def _check_depth(args: dict[str, Value]) -> None:
    """Raise `Rejected` (CALL_TOO_COMPLEX) when `args` nest deeper than `MAX_DEPTH`."""
    level: list[dict[str, Value] | list[Value]] = [args]
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            x
            for v in level
            for x in (v.values() if isinstance(v, dict) else v)
            if isinstance(x, (dict, list))
        ]
    if level:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON is nested too deeply")


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
