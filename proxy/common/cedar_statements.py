"""A file of Cedar policies, cut into its statements, each with its line.

Cedar's own messages have no position, and an audit shows a policy by its text. This module knows
three things of the language: a statement ends with a semicolon outside strings and comments, a
comment runs from ``//`` to the end of its line, and annotations come first.

It lives in `proxy.common`, since `proxy.policy` and `proxy.audit` both read policy files and may
not import each other.
"""

import re
import unicodedata
from dataclasses import dataclass

_STRING = r'"(?:[^"\\]|\\.)*"'
_COMMENT = r"//[^\r\n]*"
_TOKEN = re.compile(rf'{_STRING}|"|{_COMMENT}|;|[^";/]+|/', re.DOTALL)
_SPACE = rf"(?:\s|{_COMMENT})*"
_ANNOTATION = re.compile(
    rf"{_SPACE}@{_SPACE}(\w+){_SPACE}(?:\({_SPACE}({_STRING}){_SPACE}\))?", re.DOTALL
)
_ID = "id"


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy's text with the comments inside it, and the line of its first character.

    `ended` is False for the rest of a file that has no final semicolon.
    """

    text: str
    line: int
    ended: bool

    @property
    def id(self) -> str | None:
        """The text of the annotation ``@id``, without its quotes; None if there is none."""
        start = 0
        while found := _ANNOTATION.match(self.text, start):
            if found[1] == _ID and found[2]:
                return found[2][1:-1]
            start = found.end()
        return None


def split_statements(text: str) -> list[Statement]:
    """Cut `text` into statements.

    White space and comments between statements are dropped. A last one without an end is included.
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
    """Return the lines with characters that make a policy read other than it is.

    They are direction marks, zero-width characters and controls.
    """
    lines = text.split("\n")
    return [
        number
        for number, line in enumerate(lines, 1)
        if any(
            unicodedata.category(c) in ("Cf", "Cc", "Co", "Cs") and c not in "\t\r" for c in line
        )
    ]
