import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audit.format.merkle import (
    EMPTY_ROOT,
    Tree,
    consistency_path,
    consistent,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_from_inclusion,
    root_of_frontier,
)

LEAVES = [leaf_hash(bytes([n])) for n in range(40)]


def root(begin: int, end: int) -> bytes:
    """The definition of RFC 6962 section 2.1, word for word, as the reference."""
    if end - begin == 0:
        return EMPTY_ROOT
    if end - begin == 1:
        return LEAVES[begin]
    k = 1
    while k * 2 < end - begin:
        k *= 2
    return node_hash(root(begin, begin + k), root(begin + k, end))


def test_known_roots() -> None:
    """The roots of the test vectors that Certificate Transparency implementations share (eight
    inputs).
    """
    inputs = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    tree = Tree()
    assert tree.root() == EMPTY_ROOT
    for data, expected in zip(inputs, roots, strict=True):
        tree.append(leaf_hash(bytes.fromhex(data)))
        assert tree.root().hex() == expected


def test_the_frontier_is_the_tree() -> None:
    """At every size the frontier gives the root of the definition, and a tree made of it grows
    alike.
    """
    tree = Tree()
    for size in range(41):
        assert tree.root() == root(0, size) == root_of_frontier(tree.frontier)
        assert Tree(size, tree.frontier).root() == tree.root()
        if size < 40:
            tree.append(LEAVES[size])


@pytest.mark.parametrize(
    ("size", "frontier"), [(-1, []), (1, []), (3, [b"x" * 32]), (1, [b"short"]), (0, [b"x" * 32])]
)
def test_a_frontier_that_fits_no_tree_is_refused(size: int, frontier: list[bytes]) -> None:
    """A size and a frontier that cannot belong together are an error, not a wrong root."""
    with pytest.raises(ValueError, match="frontier"):
        Tree(size, frontier)


@given(st.data())
def test_inclusion(data: st.DataObject) -> None:
    """A path proves its leaf, and no other leaf, index or root."""
    size = data.draw(st.integers(1, 40))
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(index, size, root)
    assert root_from_inclusion(LEAVES[index], index, size, path) == root(0, size)
    assert root_from_inclusion(leaf_hash(b"other"), index, size, path) != root(0, size)
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        assert root_from_inclusion(
            LEAVES[index], index, size, [*path[:at], b"\0" * 32, *path[at + 1 :]]
        ) != root(0, size)
    with pytest.raises(ValueError, match="fit"):
        root_from_inclusion(LEAVES[index], index, size, [*path, b"\0" * 32])
    with pytest.raises(ValueError, match="leaf"):
        root_from_inclusion(LEAVES[index], size, size, path)


@given(st.data())
def test_consistency(data: st.DataObject) -> None:
    """Every tree is proved to extend every smaller one, and no altered one."""
    size = data.draw(st.integers(1, 40))
    first = data.draw(st.integers(1, size))
    path = consistency_path(first, size, root)
    assert consistent(first, root(0, first), size, root(0, size), path)
    assert not consistent(first, b"\0" * 32, size, root(0, size), path)
    assert not consistent(first, root(0, first), size, b"\0" * 32, path)
    assert not consistent(first, root(0, first), size, root(0, size), [*path, b"\0" * 32])
    if path:
        assert not consistent(first, root(0, first), size, root(0, size), path[:-1])


def test_impossible_questions_are_errors() -> None:
    """There is no proof for a leaf or a tree that does not exist."""
    for question in (
        lambda: inclusion_path(5, 5, root),
        lambda: consistency_path(0, 5, root),
        lambda: consistent(6, b"", 5, b"", []),
    ):
        with pytest.raises(ValueError, match=r"^no (leaf|tree)"):
            question()
