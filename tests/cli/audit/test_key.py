from pathlib import Path

import pytest

from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


def test_keys(audit: Path, tmp_path: Path) -> None:
    """A key is made once and private; the public keys are shown, also under a log's own name."""
    made = tmp_path / "signing.key"
    assert run("key", "generate", made).exit_code == 0 and made.stat().st_mode & 0o777 == 0o600
    assert run("key", "generate", made).exit_code == 2
    assert run("key", "show", "--dir", audit).stdout.startswith("callgate+")
    assert run("key", "show", "--dir", audit, "--log", "gate").stdout.startswith("callgate/gate+")
