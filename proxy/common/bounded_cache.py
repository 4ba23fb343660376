"""A dictionary with a bound: when it is full, the older half goes.

The hit path is `dict.get`, which costs nothing beyond a dictionary's own. Only `put`, on the miss
path, pays for the bound. Insertion order decides what is old: a cache of values that are cheap to
make again needs no record of their use.
"""

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedCache(dict[Key, Value], Generic[Key, Value]):
    """At most `size` entries. Read it as a dictionary; write it with `put` only."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def put(self, key: Key, value: Value) -> None:
        """Add an entry; evict the older half first if there is no room."""
        if len(self) >= self.size and key not in self:
            for old in list(self)[: max(1, self.size // 2)]:
                del self[old]
        self[key] = value
