"""The conventions of the sources, each held by one test that lists every offender."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.sources import PROXY, TESTS, comments, nodes, text_of

pytestmark = pytest.mark.interpreted  # read the sources

# A reason is a few words in brackets or after a second #; the codes alone are none.
EXCUSE = re.compile(r"#\s*(noqa|type:\s*ignore)\b")
BARE = re.compile(r"#\s*noqa(?!:)|#\s*type:\s*ignore(?!\[)")
REASON = re.compile(
    r"#\s*(?:noqa:\s*[A-Z0-9, ]+?|type:\s*ignore\[[a-z, -]+\])\s*(?:\(|#\s*|—\s*)\s*\w+\W+\w+"
)
LONG = 400
"""Lines. A longer module says at its top why it is one."""
MEDIAN = 170
ROOMS = 8
"""Entries that `edge` and `audit` may have: more is a list, not a place."""


def shown(path: Path) -> str:
    """Name a file in a message."""
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    """Return the files of the project as git knows them, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_every_module_states_its_law() -> None:
    """A module's docstring is one full sentence at the least."""
    offenders = []
    for path in PROXY:
        module = nodes(path)[0]
        assert isinstance(module, ast.Module)
        text = ast.get_docstring(module)
        if not text or "." not in text:
            offenders.append(shown(path))
    assert not offenders


def test_every_test_states_the_property_that_it_holds() -> None:
    """A failing test has to tell its reader what is no longer true."""
    offenders = []
    for path in TESTS:
        if not path.name.startswith("test_"):
            continue
        for node in nodes(path):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("test_") and not ast.get_docstring(node):
                offenders.append(f"{shown(path)}:{node.lineno}: {node.name}")
    assert not offenders


def test_every_exception_to_a_rule_has_its_reason_beside_it() -> None:
    """Each noqa and type: ignore names the rule it breaks, and why."""
    offenders = []
    for path in [*PROXY, *TESTS]:
        for line, comment in comments(path):
            if EXCUSE.search(comment) and (BARE.search(comment) or not REASON.search(comment)):
                offenders.append(f"{shown(path)}:{line}: {comment}")
    assert not offenders


def test_modules_are_small() -> None:
    """The median is under `MEDIAN` lines; one over `LONG` says why in its docstring: "One module
    because".
    """
    sizes = {path: len(text_of(path).splitlines()) for path in PROXY}
    offenders = [
        f"{shown(path)}: {size} lines"
        for path, size in sizes.items()
        if size > LONG and "One module because" not in text_of(path)
    ]
    assert not offenders
    modules = sorted(size for path, size in sizes.items() if path.name != "__init__.py")
    assert modules[len(modules) // 2] < MEDIAN


@pytest.mark.parametrize("package", ["edge", "audit", "gate", "runtime", "protocol"])
def test_a_package_is_a_place_and_no_list(package: str) -> None:
    """A package has at most `ROOMS` modules and packages of its own."""
    entries = {
        path.name
        for path in (ROOT / "proxy" / package).iterdir()
        if path.name not in ("__init__.py", "__pycache__")
        and (path.suffix == ".py" or (path / "__init__.py").is_file())
    }
    assert len(entries) <= ROOMS, sorted(entries)


@pytest.mark.process
def test_nothing_names_a_path_of_the_machine_it_was_written_on() -> None:
    """A clone stands in another directory; such a path is a leftover."""
    # Put together from parts, so that this file does not find itself.
    places = (("work", ""), ("tmp", "pv"), ("tmp", "plan"), ("tmp", "wt"), ("root", ""))
    leftover = re.compile("|".join(re.escape("/" + "/".join(parts)) for parts in places))
    offenders = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        offenders += [
            f"{shown(path)}:{number}"
            for number, line in enumerate(text.splitlines(), 1)
            if leftover.search(line)
        ]
    assert not offenders


def test_the_reader_of_reasons_knows_good_from_bad() -> None:
    """The check above would pass on anything if its patterns matched nothing."""
    code = "no" + "qa"
    assert REASON.search(f"# {code}: S603  (our own file and arguments)")
    assert REASON.search("# type: " + "ignore[attr-defined]  # it ships no types")
    assert not REASON.search(f"# {code}: S603")
    assert BARE.search(f"# {code}")
    assert not BARE.search(f"# {code}: S603")
