import cedarpy
import pytest

from proxy.common.cedar_statements import Statement, invisible_characters, split_statements

ONE = "permit (principal, action, resource);"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n// nothing here;\n", []),
        (ONE, [Statement(ONE, 1, True)]),
        (f"\n\n  {ONE}\n// c\n{ONE}", [Statement(ONE, 3, True), Statement(ONE, 5, True)]),
        (f"// a; b\n{ONE}{ONE}", [Statement(ONE, 2, True), Statement(ONE, 2, True)]),
        ('@id("a;b")\npermit //;\n;', [Statement('@id("a;b")\npermit //;\n;', 1, True)]),
        ('x "a\\";// b" ;', [Statement('x "a\\";// b" ;', 1, True)]),
        ("a / b;", [Statement("a / b;", 1, True)]),
        ("permit", [Statement("permit", 1, False)]),
        ('x "open; \n', [Statement('x "open;', 1, True)]),
        (";", [Statement(";", 1, True)]),
    ],
)
def test_policies_are_cut_at_their_ends(text: str, expected: list[Statement]) -> None:
    """A semicolon ends a policy unless it stands in a string or a comment; each policy knows its
    first line.
    """
    assert split_statements(text) == expected


def test_the_pieces_are_what_cedar_reads() -> None:
    """Cut or whole, Cedar finds the same policies in a file with every kind of quoting."""
    text = """
    // permit (principal, action, resource);
    @id("one") @why("a;b // c \\" d")
    permit (principal, action, resource) // ; end
    when { context.x like "*\\*;" && "//" == "\\u{2f}/" };
    @id("two") forbid (principal, action, resource) when { 1 == 1 }; @id("three")
    permit (principal, action, resource);
    """
    pieces = split_statements(text)
    assert [piece.line for piece in pieces] == [3, 6, 6]
    whole = cedarpy.policies_to_pst(text).static_policies
    cut = cedarpy.policies_to_pst("\n".join(piece.text for piece in pieces)).static_policies
    assert whole == cut


@pytest.mark.parametrize("character", ["\u202e", "\u200b", "\x00", "\ufeff", "\u2066"])
def test_invisible_characters_are_found(character: str) -> None:
    """Characters that let a policy read other than it is are found with their line."""
    assert invisible_characters(f"one\r\n\ttwo {character}\nthree é") == [2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'@id("one") {ONE}', "one"),
        (f'@why("x") // c @id("no")\n@ id ( "two" ) {ONE}', "two"),
        (f'@lone @id("three")\n{ONE}', "three"),
        (f"@id {ONE}", None),
        (ONE, None),
        ('permit (principal, action, resource) when { "@id(" == "x" }; // @id("four")', None),
        ('permit // @id("five")\n(principal, action, resource);', None),
    ],
)
def test_the_id_is_read_from_the_annotations_only(text: str, expected: str | None) -> None:
    """A text or a comment that looks like an annotation names no policy; Cedar reads the same."""
    (statement,) = split_statements(text)
    assert statement.id == expected
    (tree,) = cedarpy.policies_to_pst(statement.text).static_policies.values()
    assert (tree.annotations.get("id") or None) == expected
