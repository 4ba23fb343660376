import tomllib

import pytest

from proxy.common.toml_lines import Loc, line_of, toml_lines

TEXT = '''\
# a comment with = and [brackets]
title = "a = b" # c

[tls]
"key.file" = "x"
ciphers = [
  "one",  # = not a key
  "two",
]
names.first = """
text = not a key
[no.header]
"""
last = \'\'\'
[[rows]]\'\'\'
inline = { a = 1, b = { c = 2 } }

[[rows]]
url = "u"
  [[rows.inner]]
  a = 1
[[rows.inner]]
a = 2
[[rows]]
  [rows.table]
  b = 3
[methods."page.root"]
class = "view"'''


@pytest.mark.parametrize(
    ("loc", "line"),
    [
        (("title",), 2),
        (("tls",), 4),
        (("tls", "key.file"), 5),
        (("tls", "ciphers"), 6),
        (("tls", "ciphers", 1), 6),
        (("tls", "names"), 10),
        (("tls", "names", "first"), 10),
        (("tls", "last"), 14),
        (("tls", "inline", "b", "c"), 16),
        (("tls", "missing"), 4),
        (("rows", 0), 18),
        (("rows", 0, "url"), 19),
        (("rows", 0, "inner", 0, "a"), 21),
        (("rows", 0, "inner", 1, "a"), 23),
        (("rows", 1), 24),
        (("rows", 1, "table", "b"), 26),
        (("methods", "page.root"), 27),
        (("methods", "page.root", "class"), 28),
        (("other",), None),
        ((), None),
    ],
)
def test_a_key_is_found_on_the_line_where_its_statement_begins(loc: Loc, line: int | None) -> None:
    """Strings, comments, lists and inline tables hold no statements; a missing key has the line of
    its table.
    """
    assert tomllib.loads(TEXT)
    assert line_of(toml_lines(TEXT), loc) == line


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only a comment", "a = 1", 'a = "\\"" # "\nb = 2\n']
)
def test_each_top_level_key_of_a_small_document_is_found(text: str) -> None:
    """No final line end is needed, and escaped quotes do not end a text."""
    lines = toml_lines(text)
    assert {loc[0] for loc in lines} == set(tomllib.loads(text))
