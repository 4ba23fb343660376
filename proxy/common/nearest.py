"""The names that a misspelt one may stand for, found in a bounded time.

`difflib` takes a third of a millisecond for two names of 64 characters. So of many names only those
that share most pairs of characters with the misspelt one are compared.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nlargest
from itertools import islice

MAX_LENGTH = 64
"""Characters of a misspelt name that is compared."""
CUTOFF = 0.75
_MAX_NAMES = 400  # of similar length
_MAX_COMPARED = 8
_MAX_FOUND = 3


def nearest_names(wanted: str, names: Iterable[str]) -> list[str]:
    """Return the names that `wanted` may stand for, nearest first, at most three.

    The same name in other case, or after a namespace (``getState`` for ``supervisor.getState``), is
    nearer than any other.
    """
    if not 0 < len(wanted) <= MAX_LENGTH:
        return []
    key = wanted.lower()
    lower = {name.lower(): name for name in names if name != wanted}
    if key in lower:
        return [lower[key]]
    within = "." + key
    same = [name for each, name in lower.items() if each.endswith(within)]
    if same:
        return same[:_MAX_FOUND]
    margin = max(2, len(key) // 3)
    similar = (each for each in lower if abs(len(each) - len(key)) <= margin)
    alike = list(islice(similar, _MAX_NAMES))
    if len(alike) > _MAX_COMPARED:
        pairs = _pairs(key)
        alike = nlargest(_MAX_COMPARED, alike, key=lambda each: len(pairs & _pairs(each)))
    return [lower[each] for each in get_close_matches(key, alike, n=_MAX_FOUND, cutoff=CUTOFF)]


def _pairs(text: str) -> set[str]:
    """Return the pairs of neighbouring characters."""
    return {text[at : at + 2] for at in range(len(text) - 1)}
