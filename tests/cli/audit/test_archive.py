from pathlib import Path

import pytest

from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


def test_archive(audit: Path, tmp_path: Path) -> None:
    """Old segments move, on record; what is left and what was moved verify; a dry run moves
    nothing.
    """
    words = ("archive", "--before", "2026-01-02", "--to", tmp_path / "old", "--dir", audit)
    assert run(*words, "--dry-run").exit_code == 0 and not (tmp_path / "old").exists()
    result = run(*words)
    assert result.exit_code == 0 and "moved 1 segment" in result.stdout
    assert (
        run("verify", "--dir", audit).exit_code == 0
        and run("verify", "--dir", tmp_path / "old").exit_code == 0
    )
    assert "archived to" in run("verify", "--dir", audit).stdout
    assert "nothing is that old" in run(*words).stdout
    assert run("verify", "--dir", audit / "gate").exit_code == 0
