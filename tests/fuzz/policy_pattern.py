"""Patterns of policies: Cedar's answer, in work that a product bounds.

The input is a pattern, a line break and a text. A star is a wildcard, with a backslash before it a
character; the rest of the pattern is what it is.
"""

import json

import cedarpy

from proxy.policy.wildcards import (
    MAX_PIECE_COST,
    Pattern,
    longest_prefix,
    longest_search,
    matcher,
    pieces_of,
    prefix_of,
)

_ESCAPES = {
    "*": "\\*",
    "\\": "\\\\",
    '"': '\\"',
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\0": "\\0",
}


class _CountedText(str):
    """A text that counts the work of searches in it."""

    work: int = 0

    def find(self, piece: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]  # positional, as it is called
        stop = len(self) if end is None else end
        found = super().find(piece, start, stop)
        passed = stop if found < 0 else found + len(piece)
        self.work += (passed - start) * min(len(piece), MAX_PIECE_COST)
        return found


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    first, _, rest = data.partition(b"\n")
    pattern, text = _pattern(first.decode("utf-8", "ignore")), rest.decode("utf-8", "ignore")
    found = matcher(pattern)(text)
    assert found == _as_cedar(pattern, text), "Cedar matches alike"
    counted = _CountedText(text)
    assert matcher(pattern)(counted) == found
    bound = len(text) * min(longest_search(pattern), MAX_PIECE_COST)
    assert counted.work <= bound, "a text is passed over once"
    first_piece, *others = pieces_of(pattern)
    if found:
        assert text.startswith(first_piece), "it begins with the first piece"
        assert all(piece in text for piece in others), "it has every piece"
    prefix = prefix_of(pattern)
    if prefix is not None:
        assert found == text.startswith(prefix), "a prefix is what it begins with"
    prefixes = [first_piece, first_piece[:1], text[:3]]
    having = [each for each in prefixes if text.startswith(each)]
    number = longest_prefix(prefixes)(text)
    assert number == 0 if not having else prefixes[int(str(number)) - 1] == max(having, key=len)


def _pattern(written: str) -> Pattern:
    parts: list[str | None] = []
    escaped = False
    for character in written:
        if character == "\\" and not escaped:
            escaped = True
            continue
        parts.append(None if character == "*" and not escaped else character)
        escaped = False
    return tuple(parts)


def _as_cedar(pattern: Pattern, text: str) -> bool:
    written = "".join(
        "*" if part is None else _ESCAPES.get(part, f"\\u{{{ord(part):x}}}") for part in pattern
    )
    policy = f'permit (principal, action, resource) when {{ context.t like "{written}" }};'
    result = cedarpy.is_authorized(
        {
            "principal": {"type": "U", "id": "u"},
            "action": {"type": "Action", "id": "a"},
            "resource": {"type": "R", "id": "r"},
            "context": json.dumps({"t": text}),
        },
        policy,
        [],
    )
    assert not result.diagnostics.errors, "the policy is evaluated"
    return result.allowed
