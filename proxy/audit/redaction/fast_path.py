"""The short road of `withhold`: arguments that can be recorded just as they are, found without a
copy of them.

Most calls have short arguments whose names are no secrets'. They are looked at once, then written
by orjson as they came: 4 µs for an ``add_task`` of 900 bytes, where taking every value through
`Withholder` costs 11. Whatever this road does not know for certain (a float, bytes, an object in an
object, a name too long, anything large) takes the other; where both could be taken they give the
same bytes, and a test holds the two against each other.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson

from proxy.model import Value

RESERVED: Final = frozenset(
    {
        "hmac-sha256",
        "length",
        "sha256",
        "number",
        "integer",
        "bytes",
        "datetime",
        "escaped",
        "object",
    }
)
"""Keys by which an object in a record stands for something else (`proxy.audit.redaction.redactor`).
"""

_TEXT = frozenset({str})
_OTHER = frozenset({int, bool, type(None)})  # an integer beyond 64 bits is orjson's to refuse
_NAMES = 32  # names of an object that are remembered together
_NAME_LENGTH = 256  # longer ones are cut in a record
# the names are the caller's to choose, so what is remembered of them is bounded: at this many all
# go
_KEPT = 1024


class FastPath:
    """Finds what can be recorded as it is. `withheld` says whether a name is a secret's, `limit` is
    in bytes of JSON.

    What the names of an object say is remembered for all of them together, since the same ones come
    again.
    """

    def __init__(self, withheld: Callable[[str], bool], limit: int) -> None:
        self._withheld = withheld
        self._limit = limit
        self._outer: set[tuple[str, ...]] = set()
        self._inner: set[tuple[str, ...]] = set()  # without RESERVED ones

    def encode(self, args: Mapping[str, Value]) -> bytes | None:
        """Return `args` as JSON when nothing in them has to be withheld, shortened or rewritten,
        else None.
        """
        if not self._fit(args):
            return None
        try:
            text = orjson.dumps(args)
        except orjson.JSONEncodeError:  # a lone surrogate, or an integer beyond 64 bits
            return None
        return text if len(text) <= self._limit else None

    def _fit(self, args: Mapping[str, Any]) -> bool:
        """Say whether nothing but their size as a whole can keep `args` from standing as they are.

        What is too long alone is turned away before it costs anything. Written out at length: on
        this path a call costs more than what is done in it.
        """
        limit = self._limit
        names = tuple(args)
        if names not in self._outer and not self._learn(names, self._outer, ()):
            return False
        for value in args.values():
            if value is None:
                continue
            kind = type(value)
            if kind is str:
                if len(value) > limit:
                    return False
            elif kind is dict:
                if value:
                    names = tuple(value)
                    if names not in self._inner and not self._learn(names, self._inner, RESERVED):
                        return False
                    for item in value.values():
                        kind = type(item)
                        if kind is str:
                            if len(item) > limit:
                                return False
                        elif kind not in _OTHER:
                            return False
            elif kind is list:
                # At least three bytes of JSON for each text.
                if 3 * len(value) > limit or not _TEXT.issuperset(map(type, value)):
                    return False
            elif kind not in _OTHER:
                return False
        return True

    def _learn(
        self, names: tuple[str, ...], shapes: set[tuple[str, ...]], reserved: Iterable[str]
    ) -> bool:
        """Look at names that have not been met together before; say whether they are harmless, and
        remember it if so.
        """
        if (
            len(names) > _NAMES
            or sum(map(len, names)) > self._limit
            or not set(names).isdisjoint(reserved)
        ):
            return False
        if any(len(name) > _NAME_LENGTH or self._withheld(name) for name in names):
            return False
        if len(shapes) >= _KEPT:
            shapes.clear()
        shapes.add(names)
        return True
