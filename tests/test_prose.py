"""What can be held of the prose rules: words, sentence lengths, commit subjects.

The rules stand in `.github/CONTRIBUTING.md`. Docstrings, comments and texts of `proxy/` are read;
of the tests, docstrings and comments.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.sources import PROXY, comments, nodes

pytestmark = pytest.mark.interpreted  # read the sources

BANNED = re.compile(
    r"\b(whoever|nobody|somebody|mend(s|ed|ing)?|beside|told|roads?|leg|legs|patience|"
    r"looks at|turn(s|ed)? away|unasked|in vain)\b",
    re.IGNORECASE,
)
"""Words that make a thing sound like a person, or that stand for a term of the field."""

MAX_WORDS = 30
"""Words a sentence may have in the first paragraph of a docstring."""

SUBJECT = re.compile(r"[a-z][a-z0-9_./, -]{1,24}: \S.*")
MAX_SUBJECT = 72
SUBJECTS_SINCE = "501d2bf"
"""The last commit before the rule."""


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every docstring of a file with its line."""
    for node in nodes(path):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every string of a file that reads like prose: two blanks or more between words."""
    for node in nodes(path):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and value.count(" ") >= 2:
            yield getattr(node, "lineno", 0), value


def without_code(text: str) -> str:
    """Return a text without what is quoted as code."""
    return re.sub(r"``.*?``|`[^`]*`", "", text, flags=re.DOTALL)


def test_no_docstring_comment_or_text_of_the_program_has_a_banned_word() -> None:
    """The subject is the thing in the code, and the word is the field's."""
    offenders = []
    for path in PROXY:
        for line, text in {*docstrings(path), *comments(path), *texts(path)}:
            if found := BANNED.search(without_code(text)):
                offenders.append(f"{path.relative_to(ROOT)}:{line}: {found[0]}")
    assert not sorted(offenders)


def test_the_first_paragraph_has_short_sentences() -> None:
    """One fact a sentence: at most `MAX_WORDS` words."""
    offenders = []
    for path in PROXY:
        for line, text in docstrings(path):
            paragraph = without_code(text.partition("\n\n")[0])
            for sentence in re.split(r"(?<=[.:;])\s", paragraph):
                if len(sentence.split()) > MAX_WORDS:
                    offenders.append(f"{path.relative_to(ROOT)}:{line}: {sentence[:60]}…")
    assert not offenders


@pytest.mark.process
def test_commit_subjects_say_where_and_what() -> None:
    """A subject is `area: what changed`, at most `MAX_SUBJECT` characters."""
    listed = subprocess.run(
        ["git", "log", "--no-merges", "--format=%h %s", f"{SUBJECTS_SINCE}..HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("the history before the rule is not in this clone")
    offenders = []
    for line in listed.stdout.splitlines():
        subject = line.partition(" ")[2]
        if len(subject) > MAX_SUBJECT or not SUBJECT.fullmatch(subject):
            offenders.append(line)
    assert not offenders


def test_the_reader_of_prose_sees_what_it_should() -> None:
    """The checks above would pass on anything if their patterns matched nothing."""
    assert BANNED.search("Whoever asks")
    assert not BANNED.search("the caller asks")
    assert SUBJECT.fullmatch("audit: give each compressor its own temporary file")
    assert not SUBJECT.fullmatch("Tests: the old generation")
