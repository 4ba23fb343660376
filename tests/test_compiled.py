"""The compiled package is whole: all that is named to be compiled is, in this process and in those
that it starts, or none of it.
"""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pathspec import GitIgnoreSpec

from proxy.audit.redaction.redactor import Redactor
from proxy.model import Value
from proxy.protocol.xmlrpc.codec import encode_call, encode_response
from proxy.runtime import process as app
from tests.conftest import COMPILED
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOOK = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]


def compiled_paths() -> list[str]:
    """Return the modules that the build hook's patterns select, as it matches them."""
    include = GitIgnoreSpec.from_lines(HOOK["include"])
    exclude = GitIgnoreSpec.from_lines(HOOK["exclude"])
    paths = (path.relative_to(ROOT).as_posix() for path in (ROOT / "proxy").rglob("*.py"))
    return sorted(
        path for path in paths if include.match_file(path) and not exclude.match_file(path)
    )


def test_the_patterns_select_modules_and_are_off_unless_asked_for() -> None:
    """A folder that was renamed would quietly be left interpreted, and so would its exceptions."""
    paths = compiled_paths()
    assert len(paths) > 60
    for pattern in HOOK["include"]:
        spec = GitIgnoreSpec.from_lines([pattern])
        assert any(map(spec.match_file, paths)), pattern
    for pattern in HOOK["exclude"]:
        assert pattern == "__init__.py" or (ROOT / pattern).is_file(), pattern
    assert HOOK["enable-by-default"] is False


def test_all_that_is_selected_is_compiled_or_nothing() -> None:
    """A tree in which an old binary stands beside newer sources would be neither."""
    suffix = ".so" if COMPILED else ".py"
    offenders = []
    for path in compiled_paths():
        name = path.removesuffix(".py").replace("/", ".")
        found = importlib.import_module(name).__file__
        if found is None or not found.endswith(suffix) or not Path(found).is_relative_to(ROOT):
            offenders.append(f"{name}: {found}")
    assert not offenders


def test_the_gate_says_which_it_is() -> None:
    """In its log, where it says that it serves."""
    assert app.COMPILED is COMPILED


def _waits(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Where a coroutine may be suspended in `body`; not in functions that are defined there."""
    nodes: list[ast.AST] = list(body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Yield | ast.YieldFrom):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))


@pytest.mark.interpreted
def test_nothing_waits_while_an_exception_is_handled() -> None:
    """mypyc's coroutines share one exception state: what waits in a handler leaves it to others,
    and raises theirs, or nothing, again.
    """
    offenders = []
    for path in compiled_paths():
        found: list[ast.AST] = []
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                found += _waits(node.body)
            elif isinstance(node, ast.Try | ast.TryStar):
                found += _waits(node.finalbody)
            elif isinstance(node, ast.AsyncWith):  # it leaves in a handler
                found.append(node)
        offenders += [
            f"{path}:{node.lineno}" for node in found if isinstance(node, ast.expr | ast.stmt)
        ]
    assert not offenders


@pytest.mark.interpreted
def test_no_literal_has_half_a_surrogate_pair() -> None:
    """mypyc compiles none, not even in a docstring."""
    offenders = [
        f"{path}:{node.lineno}"
        for path in compiled_paths()
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and not node.value.isascii()
        and any("\ud800" <= character <= "\udfff" for character in node.value)
    ]
    assert not offenders


def test_the_check_sees_what_waits() -> None:
    """In a handler, also deep in it; not in a function that is only defined there."""
    source = (
        "async def f():\n try: pass\n except E:\n  if x: y = [await z]\n  async def g(): await h"
    )
    [function] = ast.parse(source).body
    assert isinstance(function, ast.AsyncFunctionDef)
    [tried] = function.body
    assert isinstance(tried, ast.Try)
    found = list(_waits(tried.handlers[0].body))
    assert [node.lineno for node in found if isinstance(node, ast.expr | ast.stmt)] == [4]


@pytest.mark.parametrize("value", [2**62, -(2**62) - 1, 2**63 - 1, -(2**63)])
def test_large_integers_leave_nothing_behind(value: int) -> None:
    """What str() or an f-string makes of an integer of 63 bits leaks in mypyc 2.4: callers could
    fill the memory with them.
    """
    redactor = Redactor(b"k" * 32)
    arguments: dict[str, Value] = {"n": value, "m": value * 2**70}

    def use() -> None:
        encode_call("m", [value])
        encode_response(value)
        redactor.encode(arguments)

    use()
    before = sys.getallocatedblocks()
    for _ in range(2_000):
        use()
    assert sys.getallocatedblocks() - before < 1_000


@pytest.mark.process
def test_a_process_that_is_started_has_the_same() -> None:
    """What the end-to-end tests start is what they mean to test."""
    program = "import proxy.gate.pipeline; print(proxy.gate.pipeline.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert Path(ran.stdout.strip()) == Path(
        importlib.import_module("proxy.gate.pipeline").__file__ or ""
    )
