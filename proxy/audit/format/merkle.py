"""Merkle tree mathematics of RFC 6962 section 2.1, and nothing else: no files, no clock, no JSON.

Leaves and inner nodes are hashed under different prefixes (``0x00`` and ``0x01``), so that no leaf
can be passed off as a node. A tree of any size is determined by its *frontier*: the hashes of its
complete subtrees, one for each bit set in its size, from the largest (left) to the smallest
(right). Transparency-dev calls it a compact range. Appending a leaf and computing the root need the
frontier alone. A writer therefore continues after a restart without reading the log, and a log
whose first segments were archived can still be checked against a signed root.

Trusts SHA-256. Refuses (ValueError) sizes and indexes that no tree has.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final, TypeAlias

EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of the tree without leaves (RFC 6962 section 2.1)."""

Subtree: TypeAlias = Callable[[int, int], bytes]
"""Returns the hash of the leaves from one index to before another."""


def leaf_hash(data: bytes) -> bytes:
    """Hash one record: ``SHA-256(0x00 || data)``."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees: ``SHA-256(0x01 || left || right)``."""
    return sha256(b"\x01" + left + right).digest()


def root_of_frontier(frontier: Sequence[bytes]) -> bytes:
    """Return the root of the tree with this frontier (largest subtree first)."""
    if not frontier:
        return EMPTY_ROOT
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = node_hash(left, root)
    return root


class Tree:
    """A growing tree, represented by its frontier: one hash for each bit set in its size."""

    __slots__ = ("frontier", "size")

    def __init__(self, size: int = 0, frontier: Iterable[bytes] = ()) -> None:
        """Continue a tree. Raises ValueError if it cannot have `size` leaves and this frontier."""
        self.size = size
        self.frontier = list(frontier)
        if (
            size < 0
            or len(self.frontier) != size.bit_count()
            or any(len(part) != 32 for part in self.frontier)
        ):
            raise ValueError("the frontier does not fit the size")

    def copy(self) -> "Tree":
        """Return an independent copy."""
        return Tree(self.size, self.frontier)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes in order."""
        # Every trailing one bit of the size is a complete subtree to merge with.
        size, frontier = self.size, self.frontier
        for node in leaves:
            ones = size
            while ones & 1:
                node = sha256(b"\x01" + frontier.pop() + node).digest()
                ones >>= 1
            frontier.append(node)
            size += 1
        self.size = size

    def root(self) -> bytes:
        """Return the Merkle tree hash of all leaves so far."""
        return root_of_frontier(self.frontier)


def inclusion_path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the audit path of leaf `index` in a tree of `size` leaves (RFC 6962 section 2.1.1).

    The path begins at the leaf. `subtree(begin, end)` returns the hash of the leaves from `begin`
    to before `end`.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size} leaves")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _left(end - begin)
        if index < middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(begin, middle))
            begin = middle
    path.reverse()
    return path


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root that a leaf hash and its audit path lead to.

    Raises:
        ValueError: the path has not the length that `index` and `size` require.

    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size} leaves")
    sides = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _left(end - begin)
        sides.append(index < middle)
        begin, end = (begin, middle) if index < middle else (middle, end)
    if len(sides) != len(path):
        raise ValueError("the path does not fit the tree")
    root = leaf
    for is_left, sibling in zip(reversed(sides), path, strict=True):
        root = node_hash(root, sibling) if is_left else node_hash(sibling, root)
    return root


def consistency_path(first: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the proof that the tree of `size` leaves extends that of `first` leaves.

    RFC 6962 section 2.1.2.
    """
    if not 0 < first <= size:
        raise ValueError(f"no tree of {first} leaves in one of {size} leaves")
    path: list[bytes] = []
    begin, end, complete = 0, size, True
    while first != end:
        middle = begin + _left(end - begin)
        if first <= middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(begin, middle))
            begin, complete = middle, False
    if not complete:
        path.append(subtree(begin, end))
    path.reverse()
    return path


def consistent(
    first: int, first_root: bytes, size: int, root: bytes, path: Sequence[bytes]
) -> bool:
    """Return whether `path` proves that tree (`size`, `root`) extends (`first`, `first_root`)."""
    if not 0 < first <= size:
        raise ValueError(f"no tree of {first} leaves in one of {size} leaves")
    steps = []
    begin, end, complete = 0, size, True
    while first != end:
        middle = begin + _left(end - begin)
        steps.append(first <= middle)
        if first <= middle:
            end = middle
        else:
            begin, complete = middle, False
    given = list(path)
    if len(given) != len(steps) + (not complete):
        return False
    old = new = first_root if complete else given.pop(0)
    for is_right, sibling in zip(reversed(steps), given, strict=True):
        if is_right:
            new = node_hash(new, sibling)
        else:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
    return old == first_root and new == root


def _left(size: int) -> int:
    """Return the size of the left part of a tree: the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
