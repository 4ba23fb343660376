"""Cut a file of Cedar policies into its policies, so that every problem can be told with a file and
a line.

Cedar's own messages have no position. A policy ends with a semicolon outside strings and comments;
this module knows no more of the language than strings, comments and that.
"""

import re
import unicodedata
from dataclasses import dataclass

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|"|//[^\r\n]*|[;]|[^";/]+|/', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy's text with the comments inside it, and the line of its first character. `ended`
    by a semicolon or not.
    """

    text: str
    line: int
    ended: bool


def split_statements(text: str) -> list[Statement]:
    """Cut `text` into statements. White space and comments between them are dropped; a last one
    without end is kept.
    """
    statements: list[Statement] = []
    start: int | None = None
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if piece.startswith("//"):
            continue
        if piece == ";":
            begin = token.start() if start is None else start
            statements.append(
                Statement(text[begin : token.end()], text.count("\n", 0, begin) + 1, True)
            )
            start = None
        elif start is None and not piece.isspace():
            start = token.start() + len(piece) - len(piece.lstrip())
    if start is not None:
        statements.append(Statement(text[start:], text.count("\n", 0, start) + 1, False))
    return statements


def invisible_characters(text: str) -> list[int]:
    """Give the lines with characters that make a policy read other than it is: direction marks,
    zero widths, controls.
    """
    lines = text.split("\n")
    return [
        number
        for number, line in enumerate(lines, 1)
        if any(
            unicodedata.category(c) in ("Cf", "Cc", "Co", "Cs") and c not in "\t\r" for c in line
        )
    ]
