import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.common.text import escape_controls, is_printable, to_plain_ascii

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize(
    ("value", "printable"),
    [
        ("alice", True),
        ("auth0|5f7c 8é", True),
        ("x" * 255, True),
        ("x" * 256, False),
        ("", False),
        ("a\nb", False),
        ("a\x00", False),
        ("a\x7f", False),
        ("a\u202eb", False),
        ("a\u2028b", False),
        ("\ud800", False),
        (7, False),
        (None, False),
    ],
)
def test_printable_values(value: object, printable: bool) -> None:
    """Only a non-empty string that shows as it is goes on into logs and records."""
    assert is_printable(value) is printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alice", "alice"),
        ("a\r\nb", "a??b"),
        ("[x]", "(x)"),
        ("é", "?"),
        ("<b>", "(b)"),
        ("x" * 70, "x" * 64),
    ],
)
def test_text_for_a_status_line_is_cut_and_replaced(text: str, shown: str) -> None:
    """Text for a status line is cut, and what it cannot hold is replaced."""
    assert to_plain_ascii(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a\\x0ab"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202ex", "\\u202ex"),
        ("é", "é"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_in_a_record_drives_the_terminal(text: str, shown: str) -> None:
    """Controls, escapes, direction marks and surrogates are written out; ordinary text stays."""
    assert escape_controls(text) == shown


@given(ANY_TEXT, st.integers(0, 300))
def test_any_text_becomes_one_ascii_line(text: str, limit: int) -> None:
    """The result is printable ASCII, within the limit, without square or angle brackets."""
    shown = to_plain_ascii(text, limit)
    assert shown.isascii() and (shown == "" or shown.isprintable())
    assert len(shown) == min(limit, len(text))
    assert not set(shown) & set("[]<>")


@given(ANY_TEXT)
def test_any_text_can_be_encoded_after_escaping(text: str) -> None:
    """The result is one line in UTF-8, and escaping it again changes nothing."""
    shown = escape_controls(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert escape_controls(shown) == shown
