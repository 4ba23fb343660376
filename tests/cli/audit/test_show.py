from pathlib import Path

import pytest

from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


def test_show_has_the_policy(audit: Path) -> None:
    """A call is shown with who, what came of it, and the text of the policy that decided."""
    shown = run("show", "call-1", "--dir", audit).stdout
    for part in (
        "okta|etl-07",
        "ok, status 200",
        '@id("etl-workers-work") permit',
        "After it",
        "hmac-sha256",
    ):
        assert part in shown


def test_match_reads_standard_input(audit: Path) -> None:
    """A suspected value need not stand on the command line, where others see it."""
    result = run("find-secret", "-", "--dir", audit, stdin="hunter2\n")
    assert result.exit_code == 0 and result.stdout.count("password") == 3
