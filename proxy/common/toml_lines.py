"""Where the keys of a TOML document are written, which `tomllib` does not tell.

Knows of the grammar (https://toml.io/en/v1.0.0) what it takes to find where a statement begins:
strings, comments and brackets. The key of a statement is parsed by `tomllib` itself. Tables inside
a value (``{ a = 1 }``) have no line of their own; `line_of` gives the line of the statement.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import TypeAlias

Loc: TypeAlias = tuple[str | int, ...]
"""The keys and row numbers that lead to a value: ``("upstreams", 0, "url")``."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # text of several lines, which may end in quotes of its own
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|\n|[\[\]{}=]|[^\"'#\n\[\]{}=]+|.",
    re.DOTALL,
)


def toml_lines(text: str) -> dict[Loc, int]:
    """Return the line of each header and each key of `text`, which `tomllib` has accepted."""
    lines: dict[Loc, int] = {}
    rows: dict[Loc, int] = {}  # headers of [[lists]] to the number of the last row
    table: Loc = ()
    for statement, line in _statements(text):
        if statement.startswith("["):
            is_row = statement.startswith("[[")
            table = _numbered(_key(statement.strip("[] \t\r")), rows, is_row=is_row)
            lines[table] = line
            loc = table
        else:
            loc = (*table, *_key(statement))
        for length in range(1, len(loc) + 1):
            lines.setdefault(loc[:length], line)
    return lines


def line_of(lines: Mapping[Loc, int], loc: Loc) -> int | None:
    """Return the line of `loc`, or of the nearest statement around it; None if there is none."""
    for length in range(len(loc), 0, -1):
        if (line := lines.get(loc[:length])) is not None:
            return line
    return None


def _statements(text: str) -> Iterator[tuple[str, int]]:
    """Yield each header and the key before each ``=``, with its line."""
    line, depth, start, key, is_value = 1, 0, 1, "", False
    for token in _TOKEN.finditer(text):
        piece = token[0]
        if piece == "\n" and depth == 0:
            if key.strip() and not is_value:
                yield key.strip(), start
            key, is_value = "", False
        elif piece == "=" and not is_value:
            yield key.strip(), start
            is_value = True
        elif is_value:
            depth += (piece in "[{") - (piece in "]}")
        elif not piece.startswith("#"):
            start = start if key.strip() else line
            key += piece
        line += piece.count("\n")
    if key.strip() and not is_value:
        yield key.strip(), start


def _key(text: str) -> Loc:
    """Return the parts of a dotted key."""
    parts: list[str] = []
    tree: object = tomllib.loads(f"{text} = 0")
    while isinstance(tree, dict):
        ((part, tree),) = tree.items()
        parts.append(part)
    return tuple(parts)


def _numbered(key: Loc, rows: dict[Loc, int], *, is_row: bool) -> Loc:
    """Return the location of a header: inside lists, that of the last row."""
    loc: Loc = ()
    for number, part in enumerate(key, 1):
        loc = (*loc, part)
        if is_row and number == len(key):
            rows[loc] = rows.get(loc, -1) + 1
        if loc in rows:
            loc = (*loc, rows[loc])
    return loc
