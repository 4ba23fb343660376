import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.main import VERBS, main
from tests.support.paths import ROOT

pytestmark = pytest.mark.process  # starts the command, or another program


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, output and errors."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code, *capsys.readouterr()


def callgate(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_verb_with_its_summary() -> None:
    """The list has a complete line for each verb."""
    done = callgate("--help")
    assert done.returncode == 0
    for verb, summary in VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(summary)}$", done.stdout, re.MULTILINE), verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Each verb, or each verb below it, has a line to copy."""
    code, shown, _ = run(capsys, verb, "--help")
    assert code == 0
    below = re.findall(r"(?m)^  ([a-z][a-z-]*)  ", shown.partition("Commands:")[2])
    for words in [[verb, name] for name in below] or [[verb]]:
        code, shown, _ = run(capsys, *words, "--help")
        assert code == 0
        assert re.search(rf"callgate {' '.join(words)}\b", shown), f"{words}: no example"


def test_help_imports_none_of_the_verbs() -> None:
    """The list of verbs needs none of the heavy libraries."""
    script = """
import sys
from proxy.cli.main import main

try:
    main(["--help"])
except SystemExit:
    pass
names = ("aiohttp", "cedarpy", "uvloop", "jwt", "pydantic")
print([name for name in names if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["--nonsense"], ["serve", "--nonsense"], ["check", "extra"]]
)
def test_bad_usage_is_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """A script can tell a usage error from a negative result."""
    code, _, errors = run(capsys, *words)
    assert code == 2
    assert "Error" in errors


@pytest.mark.parametrize("verb", ["serve", "check"])
def test_a_missing_settings_file_is_2_and_says_how_to_name_one(verb: str, tmp_path: Path) -> None:
    """The hint names the option."""
    done = callgate(verb, cwd=tmp_path)
    assert done.returncode == 2
    assert "--config" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_time_error_is_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the system is no negative result, and shows no traceback."""
    (tmp_path / "file").write_text("")
    code, shown, errors = run(capsys, "demo", "--dir", str(tmp_path / "file" / "demo"))
    assert (code, shown) == (2, "")
    assert errors == f"callgate: {tmp_path}/file/demo: Not a directory\n"


def test_the_version_is_that_of_the_package() -> None:
    """Bug reports need one line."""
    done = callgate("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("callgate ")
