"""The sources of the checkout, each read and parsed once for all conventions."""

import ast
import io
import tokenize
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

PROXY = sorted((ROOT / "proxy").rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts)


@cache
def text_of(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return every node of a file, the module first."""
    return tuple(ast.walk(ast.parse(text_of(path))))


@cache
def comments(path: Path) -> tuple[tuple[int, str], ...]:
    """Return every comment of a file with its line."""
    if "#" not in text_of(path):
        return ()
    tokens = tokenize.generate_tokens(io.StringIO(text_of(path)).readline)
    return tuple(
        (token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT
    )
