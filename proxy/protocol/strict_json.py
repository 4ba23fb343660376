r"""The JSON of a luigid call: one object that every parser reads alike, or a refusal.

luigid reads with Python's ``json``, which takes the last of two equal keys. Refused are: two equal
keys in one object, at any depth; text that is not UTF-8; a document that is not one object; more
than `MAX_DEPTH` levels.

``Infinity``, ``-Infinity`` and ``NaN`` are numbers, as stock workers send them and luigid reads
them; the types of a catalog judge them. So is a number too large for a float (``1e999``), which
luigid reads as Infinity. Half a surrogate pair, as Python has it for a byte of a file's name that
is not UTF-8, becomes the six characters of its escape: ``\udcff``. No other reader takes it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

from proxy.errors import Rejected
from proxy.model import Reason, Value

# Levels of arrays and objects. luigid's own arguments nest three deep.
MAX_DEPTH = 100
# Commas and opening brackets. An add_task with 100,000 dependencies has a third of them. A call of
# this size takes a second, in a process of its own.
MAX_ELEMENTS = 300_000
_MAX_BRACKETS = MAX_DEPTH + 1  # counted of one kind; more change nothing
_surrogate = re.compile(r"[\ud800-\udfff]")
_escape = re.compile(r"\\ud[89a-f][0-9a-f]{2}")
_LARGE = 1024 * 1024  # bytes; a worker's own calls are smaller


class RoundTripped(dict[str, Value]):
    """Arguments that orjson encodes as it parsed them, or that XML-RPC brought.

    They hold no Infinity, and integers of 64 bits at most. A copy is an ordinary dict, which
    `encode_arguments` encodes by the standard library.
    """


class Escaped(dict[str, Value]):
    """Arguments in which half surrogate pairs were replaced by their escapes."""

    def names(self) -> tuple[str, ...]:
        """Return the arguments that have such an escape in them."""
        return tuple(
            name
            for name, value in self.items()
            if _escape.search(json.dumps([name, value], ensure_ascii=False))
        )


def encode_arguments(args: Mapping[str, Value], changed: Mapping[str, Value]) -> bytes:
    """Encode `args` as JSON for luigid, with the members of `changed` in place of their own."""
    # PERF: orjson instead of json saves 2.7 us of 3 (add_task 900 B). It would write Infinity as
    # null, so it encodes only arguments that cannot hold it.
    if type(args) is RoundTripped:
        return orjson.dumps({**args, **changed})
    return json.dumps({**args, **changed}).encode("ascii")


def parse_arguments(text: bytes, *, max_elements: int = MAX_ELEMENTS) -> dict[str, Value]:
    """Parse the JSON object in `text`, with at most `max_elements` commas and opening brackets.

    Raises:
        Rejected: MALFORMED_CALL, AMBIGUOUS_CALL or CALL_TOO_COMPLEX.

    """
    size = len(text)
    if size > max_elements and size - len(text.translate(None, b",[{")) > max_elements:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON has too many elements")
    args = parse_fast(text)
    if args is None:
        return parse_strict(text)
    # PERF: a short text, or few brackets in it, prove the depth without a walk and save 1.2 us of
    # 3.3 (add_task 900 B). For few brackets `count` takes five times as long as `replace`.
    if (
        size > 2 * MAX_DEPTH
        and 2 * size
        - len(text.replace(b"[", b"", _MAX_BRACKETS))
        - len(text.replace(b"{", b"", _MAX_BRACKETS))
        > MAX_DEPTH
    ):
        _check_depth(args)
    return args


def parse_fast(text: bytes) -> RoundTripped | None:
    """Parse the JSON object in `text` by orjson; return None where `parse_strict` has to decide.

    orjson parses the text and encodes the result. If that is the text again, but for blanks, then
    every key and value is as it was written, and no key came twice: equal texts have equally many
    keys. A text with escaped letters is compared with what Python would have written, since stock
    workers write all letters outside ASCII so. Infinity, integers over 64 bits and needless escapes
    never pass.
    """
    # PERF: this instead of `parse_strict` saves 3.7 us of 5.6 (add_task 900 B).
    try:
        parsed = orjson.loads(text)
        if type(parsed) is not dict:
            return None
        encoded = orjson.dumps(parsed)
        if len(text) >= _LARGE:
            # Such a text may be mostly blanks. `replace` then takes ten times its usual time,
            # `translate` does not.
            same = encoded.translate(None, b" ") == text.translate(None, b" ")
        else:
            same = encoded.replace(b" ", b"") == text.replace(b" ", b"") or (
                b"\\u" in text and json.dumps(parsed).encode("ascii") == text
            )
        return RoundTripped(parsed) if same else None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        return None


def parse_strict(text: bytes) -> dict[str, Value]:
    """Parse as `parse_arguments` does, by the standard library and without a bound on elements."""
    escaped = False
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
        # The text is UTF-8, so half a surrogate pair can only come from an escape.
        if b"\\ud" in text or b"\\uD" in text:
            plain = json.dumps(value, ensure_ascii=False)
            if _surrogate.search(plain):
                escaped = True
                # In JSON the backslash of the escape is escaped itself.
                plain = _surrogate.sub(lambda half: f"\\\\u{ord(half[0]):04x}", plain)
                value = json.loads(plain, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON is nested too deeply") from None
    except UnicodeError:
        raise Rejected(Reason.MALFORMED_CALL, "the text is not UTF-8") from None
    except ValueError:
        raise Rejected(Reason.MALFORMED_CALL, "data must be one JSON object") from None
    if type(value) is not dict:
        raise Rejected(Reason.MALFORMED_CALL, "data must be one JSON object")
    args = cast(dict[str, Value], value)
    _check_depth(args)
    return Escaped(args) if escaped else args


def is_valid_json(text: bytes) -> bool:
    """Return whether `text` is one JSON document as Python writes it.

    NaN, Infinity and integers of any size are valid.
    """
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
    return True


def _check_depth(args: dict[str, Value]) -> None:
    """Raise `Rejected` (CALL_TOO_COMPLEX) when `args` nest deeper than `MAX_DEPTH`."""
    level: list[dict[str, Value] | list[Value]] = [args]
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, (dict, list))
        ]
    if level:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON is nested too deeply")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Rejected(Reason.AMBIGUOUS_CALL, "a JSON object has two equal keys")
    return result
