"""The compiled package is whole: all that is named to be compiled is, in this process and in those that it starts, or none of it."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from proxy.edge import app
from tests.conftest import COMPILED

ROOT = Path(__file__).parent.parent
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
MODULES = [path.removesuffix(".py").replace("/", ".") for path in HOOK["include"]]


def test_the_hook_names_modules_that_exist_and_is_off_unless_asked_for() -> None:
    """A module that was renamed would quietly be left interpreted."""
    assert len(MODULES) == len(set(MODULES)) > 50
    for path in HOOK["include"]:
        assert (ROOT / path).is_file(), path
    assert HOOK["enable-by-default"] is False


@pytest.mark.parametrize("name", MODULES)
def test_all_that_is_named_is_compiled_or_nothing(name: str) -> None:
    """A tree in which an old binary stands beside newer sources would be neither."""
    found = importlib.import_module(name).__file__
    assert found is not None
    assert found.endswith(".so" if COMPILED else ".py")
    assert Path(found).is_relative_to(ROOT)


def test_the_gate_says_which_it_is() -> None:
    """In its log, where it says that it serves."""
    assert app._COMPILED is COMPILED


def test_a_process_that_is_started_has_the_same() -> None:
    """What the end-to-end tests start is what they mean to test."""
    program = "import proxy.gate; print(proxy.gate.__file__)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(ran.stdout.strip()) == Path(importlib.import_module("proxy.gate").__file__ or "")
