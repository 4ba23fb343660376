from pathlib import Path

import pytest

from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


def test_a_key_is_a_file_or_the_key(audit: Path) -> None:
    """What key show prints can be given as it is; what is neither is refused in words."""
    key = run("key", "show", "--dir", audit).stdout.strip()
    assert run("verify", "--dir", audit, "--key", key).exit_code == 0
    for wrong in ("none.pub", "a+b+c"):
        result = run("verify", "--dir", audit, "--key", wrong)
        assert result.exit_code == 2 and wrong in result.stderr and "Error" not in result.stderr
