import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.process  # starts the command, or another program


def loaded(code: str) -> str:
    """Run `code` in a new interpreter, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_serving_process_has_no_rich() -> None:
    """rich and pygments would be 3.7 MB in each process; other verbs still find rich."""
    code = """
import sys
from proxy.cli import main, serve
main.build("serve"); serve._serve_imports()
names = ("rich", "pygments", "structlog", "proxy.gate.pipeline")
print([name for name in names if name in sys.modules])
import rich
"""
    assert loaded(code) == "['structlog', 'proxy.gate.pipeline']"


def test_rich_that_is_loaded_already_stays() -> None:
    """The module never replaces one that another module has imported."""
    code = """
import sys, rich
from proxy.cli.structlog_without_rich import structlog

print(sys.modules["rich"] is rich, structlog.__name__)
"""
    assert loaded(code) == "True structlog"
