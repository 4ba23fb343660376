from pathlib import Path

import pytest

from proxy.audit.writing.keys import PUBLIC_KEYS
from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


def test_prove_and_verify_proof(audit: Path, tmp_path: Path) -> None:
    """A proof holds with the public key alone, and a changed one does not."""
    proof = tmp_path / "proof"
    proof.write_text(run("prove", "call-2", "--dir", audit).stdout)
    good = run("verify-proof", proof, "--key", audit / PUBLIC_KEYS)
    assert good.exit_code == 0 and good.stdout.count("PROVED") == 2
    proof.write_text(proof.read_text().replace("etl-07", "etl-08"))
    assert run("verify-proof", proof, "--key", audit / PUBLIC_KEYS).exit_code == 1
