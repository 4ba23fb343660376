"""The conventions of the sources, each held by a check: a convention that nobody checks decays into
exceptions.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.interpreted  # read the sources

PROXY = sorted((ROOT / "proxy").rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts)

# A reason is a few words in brackets or after a second #; the codes alone are none.
EXCUSE = re.compile(r"#\s*(noqa|type:\s*ignore)\b")
BARE = re.compile(r"#\s*noqa(?!:)|#\s*type:\s*ignore(?!\[)")
REASON = re.compile(
    r"#\s*(?:noqa:\s*[A-Z0-9, ]+?|type:\s*ignore\[[a-z, -]+\])\s*(?:\(|#\s*|—\s*)\s*\w+\W+\w+"
)


def shown(path: Path) -> str:
    """Name a file for the test's id."""
    return str(path.relative_to(ROOT))


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Give every comment of a file with its line."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def tracked() -> list[Path]:
    """Give the files of the project as git knows them, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("path", PROXY, ids=shown)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """A module's docstring states its law: one full sentence at the least."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{shown(path)} has no docstring"
    assert "." in text, f"{shown(path)}: the docstring is no sentence"


@pytest.mark.parametrize(
    "path", [path for path in TESTS if path.name.startswith("test_")], ids=shown
)
def test_every_test_says_which_property_it_holds(path: Path) -> None:
    """A failing test has to tell its reader what is no longer true."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test_"
        ):
            assert ast.get_docstring(node), (
                f"{shown(path)}:{node.lineno}: {node.name} has no docstring"
            )


@pytest.mark.parametrize("path", [*PROXY, *TESTS], ids=shown)
def test_every_exception_to_a_rule_has_its_reason_beside_it(path: Path) -> None:
    """Each noqa and type: ignore names the rule it breaks, and why."""
    for line, comment in comments(path):
        if EXCUSE.search(comment):
            assert not BARE.search(comment), f"{shown(path)}:{line}: names no rule"
            assert REASON.search(comment), f"{shown(path)}:{line}: gives no reason"


def test_nothing_names_a_path_of_the_machine_it_was_written_on() -> None:
    """Whoever clones this has other directories; such a path is a leftover."""
    # Put together from parts, so that this file does not find itself.
    leftover = re.compile(
        "|".join(
            re.escape("/" + "/".join(parts))
            for parts in (("work", ""), ("tmp", "pv"), ("tmp", "plan"), ("root", ""))
        )
    )
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            assert not leftover.search(line), f"{shown(path)}:{number}: names a path of a machine"


def test_the_reader_of_reasons_knows_good_from_bad() -> None:
    """The check above would pass on anything if its patterns matched nothing."""
    code = "no" + "qa"
    assert REASON.search(f"# {code}: S603  (our own file and arguments)")
    assert REASON.search("# type: " + "ignore[attr-defined]  # it ships no types")
    assert not REASON.search(f"# {code}: S603")
    assert BARE.search(f"# {code}")
    assert not BARE.search(f"# {code}: S603")
