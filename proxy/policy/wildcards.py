"""The ``like`` of policies: a pattern compiled into a function that never backtracks.

A pattern is pieces of text between wildcards. A text matches when it begins with the first piece,
ends with the last, and has the others in order between them. Each is looked for where the one
before it ended, and its first place is always right: every later place leaves less text for the
rest. So a text is passed over once, by `str.find`.

`str.find` takes at most `MAX_PIECE_COST` comparisons for each character of the text, whatever text
and piece are: CPython's search is linear (two-way) for pieces of 100 characters and more, and
compares a shorter piece at most once with each place. The work of one match is therefore bounded by
characters of the text times the longest piece, or times `MAX_PIECE_COST` if that is less.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

Pattern: TypeAlias = tuple[str | None, ...]
"""The characters of a pattern; None for each wildcard."""

MAX_PIECE_COST = 100


def pieces_of(pattern: Pattern) -> list[str]:
    """Return the texts before, between and after the wildcards; the inner ones are not empty.

    One text is a pattern without a wildcard.
    """
    pieces = [""]
    for part in pattern:
        if part is None:
            pieces.append("")
        else:
            pieces[-1] += part
    return [pieces[0], *filter(None, pieces[1:-1]), *pieces[1:][-1:]]


def longest_search(pattern: Pattern) -> int:
    """Return the length of the longest piece that may begin anywhere in a text, 0 without one."""
    return max(map(len, pieces_of(pattern)[1:]), default=0)


def matcher(pattern: Pattern) -> Callable[[str], bool]:
    """Compile a pattern into a function that returns whether a text matches it."""
    first, *rest = pieces_of(pattern)
    if not rest:
        return first.__eq__
    *inner, last = rest
    if not inner and not last:
        return lambda value: value.startswith(first)
    if not inner and not first:
        return lambda value: value.endswith(last)
    shortest = len(first) + sum(map(len, rest))
    begin, tail = len(first), len(last)

    def matches(value: str) -> bool:
        if len(value) < shortest or not value.startswith(first) or not value.endswith(last):
            return False
        at, end = begin, len(value) - tail
        for piece in inner:
            at = value.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return matches


def prefix_of(pattern: Pattern) -> str | None:
    """Return the text of a pattern that matches a prefix; None for any other pattern."""
    pieces = pieces_of(pattern)
    return pieces[0] if len(pieces) == 2 and not pieces[1] else None


def longest_prefix(prefixes: Sequence[str]) -> Callable[[str], Hashable]:
    """Compile the question which of several prefixes a text has; 0 for none.

    The longest one answers it: the others are those which that one has. One look-up is needed for
    each length that a prefix has, however many prefixes there are.
    """
    numbers = {prefix: number for number, prefix in enumerate(prefixes, 1)}
    lengths = sorted({*map(len, prefixes)}, reverse=True)

    def longest(value: str) -> Hashable:
        for length in lengths:
            number = numbers.get(value[:length])
            if number is not None:
                return number
        return 0

    return longest
