import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = """
import pytest

def test_runs():
    pass

def test_skips():
    pytest.skip("no chromium here")

@pytest.mark.skipif(True, reason="no node here")
def test_skips_by_mark():
    pass

@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    assert False
"""
WHOLE = 'import pytest\npytest.skip("no luigi here", allow_module_level=True)\n'

pytestmark = pytest.mark.process  # starts the command, or another program


@pytest.mark.parametrize(
    ("ci", "summary"),
    [("true", "1 failed, 1 passed, 1 xfailed, 2 errors"), ("", "1 passed, 3 skipped, 1 xfailed")],
)
def test_under_ci_a_skip_is_a_failure_with_its_reason(
    tmp_path: Path, ci: str, summary: str
) -> None:
    """A test that could not run must not look like one that passed; elsewhere it is skipped, and
    says why.
    """
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "test_whole.py").write_text(WHOLE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-ra",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        str(tmp_path),
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert summary in done.stdout.splitlines()[-1], done.stdout
    for reason in ("no chromium here", "no node here", "no luigi here"):
        assert reason in done.stdout
    assert (done.returncode != 0) == bool(ci)
