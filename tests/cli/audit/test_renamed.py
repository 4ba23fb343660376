from pathlib import Path

import pytest

from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (["verify", "--keep", "x"], "--save-checkpoint"),
        (["verify", "--from", "x"], "--since-checkpoint"),
        (["verify", "--from=x"], "--since-checkpoint"),
        (["verify", "directory"], "--dir"),
        (["query", "--class", "admin"], "--permission"),
        (["export", "--form", "csv"], "--format"),
        (["report", "refusals", "--form", "csv"], "--format"),
        (["report", "refusals", "--at", "gate:1"], "--checkpoint"),
        (["tail", "--local"], "--local-time"),
        (["match", "--value", "x"], "find-secret"),
        (["find-secret", "--value", "x"], "the argument VALUE"),
        (["key", "make", "x"], "generate"),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_an_old_name_is_refused_with_the_new_one(audit: Path, words: list[str], new: str) -> None:
    """An old verb or option is a usage error that names the new one."""
    result = run(*words, *([] if words[0] == "key" else ["--dir", audit]))
    assert result.exit_code == 2 and f"renamed to {new}" in " ".join(result.stderr.split())
