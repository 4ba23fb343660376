"""How much there is of a value, found without looking at each of thousands of texts: what bounds
the work of recording it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_LEAVES = frozenset({str, bytes, int, float, bool, type(None)})


def count_nodes(value: object, enough: int) -> int:
    """Count the parts that recording a value would look at one by one, up to a little more than
    `enough`.

    A list of texts alone is one part, since its texts are looked at all at once.
    """
    count, waiting = 1, [value]
    while waiting and count <= enough:
        part = waiting.pop()
        if isinstance(part, list):
            if part and joined_texts(part) is not None:
                continue
            inner: Iterable[object] = part
        elif isinstance(part, Mapping):
            inner = part.values()
        else:
            continue
        count += len(part)
        if count <= enough:
            waiting += [each for each in inner if type(each) not in _LEAVES]
    return count


def joined_texts(items: list[Any]) -> str | None:
    """Return all items of a list in one text if they are texts, else None: three times as fast as
    asking each for its type.
    """
    if items and not type(items[0]) is type(items[-1]) is str:
        return None
    try:
        return "".join(items)
    except TypeError:
        return None
