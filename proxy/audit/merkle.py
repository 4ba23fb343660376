"""Merkle tree mathematics of RFC 6962 section 2.1, and nothing else: no files, no clock, no JSON.

Leaves and inner nodes are hashed under different prefixes (``0x00`` and ``0x01``), so that no leaf can be passed off as
a node. A tree of any size is determined by its *edge*: the hashes of the complete subtrees that its size, written in
binary, calls for, from the largest (left) to the smallest (right). Appending a leaf, and the root, need the edge alone;
that is why a writer can go on after a restart without reading the whole log, and why a log whose beginning has been
moved away can still be checked against a signed root.

Trusts SHA-256. Refuses (ValueError) sizes and indexes that no tree has.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of the tree without leaves (RFC 6962 section 2.1)."""


def leaf_hash(data: bytes) -> bytes:
    """Hash one record: ``SHA-256(0x00 || data)``."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees: ``SHA-256(0x01 || left || right)``."""
    return sha256(b"\x01" + left + right).digest()


def fold(edge: Sequence[bytes]) -> bytes:
    """Return the root of the tree that has this edge (largest subtree first)."""
    if not edge:
        return EMPTY_ROOT
    root = edge[-1]
    for left in reversed(edge[:-1]):
        root = node_hash(left, root)
    return root


class Tree:
    """A growing tree, held as its edge: at most 64 hashes whatever its size."""

    __slots__ = ("edge", "size")

    def __init__(self, size: int = 0, edge: Iterable[bytes] = ()) -> None:
        """Go on from a known edge; raise ValueError when it cannot belong to a tree of `size` leaves."""
        self.size = size
        self.edge = list(edge)
        if size < 0 or len(self.edge) != size.bit_count() or any(len(part) != 32 for part in self.edge):
            raise ValueError("edge does not fit the size")

    def copy(self) -> "Tree":
        """Return an independent copy: what a batch is computed on before it is known to be durable."""
        return Tree(self.size, self.edge)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash. Every trailing one bit of the size is a complete subtree to merge with (hot: once a record)."""
        size, edge = self.size, self.edge
        self.size = size + 1
        while size & 1:
            leaf = sha256(b"\x01" + edge.pop() + leaf).digest()
            size >>= 1
        edge.append(leaf)

    def root(self) -> bytes:
        """Return the Merkle tree hash of all leaves so far."""
        return fold(self.edge)
