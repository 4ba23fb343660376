import re
import sys
from pathlib import Path

import pytest

from proxy.cli.audit.common import print_table
from tests.support.audit_cli import READING, run

pytestmark = pytest.mark.process  # starts the command, or another program


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_reading_verbs_work_and_print_nothing_raw(audit: Path, words: list[str]) -> None:
    """Each verb succeeds, and whatever callers put into names and headers, no control character
    reaches the terminal.
    """
    result = run(*words, "--dir", audit)
    assert result.exit_code == 0, result.output
    assert result.stdout and not re.search(
        "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]", result.stdout
    )
    assert not re.search("^forged line", result.stdout, re.MULTILINE) and (
        words[0] == "find-secret" or "hunter2" not in result.stdout
    )


@pytest.mark.parametrize(
    "words",
    [
        *READING,
        ["verify"],
        ["archive"],
        ["key", "generate"],
        ["key", "show"],
        ["verify-proof"],
        ["report", "access"],
    ],
    ids=" ".join,
)
def test_help_has_an_example(words: list[str]) -> None:
    """Every verb's help shows an example of itself."""
    verb = [
        word
        for word in words[: 2 if words[0] in ("report", "key") else 1]
        if not word.startswith("-")
    ]
    result = run(*verb, "--help")
    assert result.exit_code == 0 and f"Example: callgate audit {' '.join(verb)}" in re.sub(
        r"\s+", " ", result.stdout
    )


@pytest.mark.parametrize(
    "words",
    [
        ["tail"],
        ["query"],
        ["stats"],
        ["show", "x"],
        ["verify"],
        ["export"],
        ["report", "refusals"],
        ["query", "--since", "yesterday"],
        ["verify-proof", "/none", "--key", "/none"],
        ["find-secret", "x"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_told_is_2(tmp_path: Path, words: list[str]) -> None:
    """A directory, file or time that is not there or makes no sense is exit code 2, with a message,
    not a stack trace.
    """
    result = run(*words, *([] if words[0] == "verify-proof" else ["--dir", tmp_path / "none"]))
    assert (
        result.exit_code == 2
        and result.stderr
        and not isinstance(result.exception, AttributeError | KeyError | TypeError)
    )


def test_the_answer_no_is_1(audit: Path) -> None:
    """Nothing found is exit code 1."""
    assert run("query", "--dir", audit, "--method", "none").exit_code == 1
    assert run("show", "none", "--dir", audit).exit_code == 1
    assert run("find-secret", "hunter3", "--dir", audit).exit_code == 1
    assert run("prove", "none", "--dir", audit).exit_code == 1


@pytest.mark.parametrize(
    "words",
    [["tail"], ["query"], ["stats"], ["report", "refusals"], ["report", "access"]],
    ids=" ".join,
)
def test_a_directory_without_logs_is_refused(tmp_path: Path, words: list[str]) -> None:
    """Where there is no log there is no answer, least of all that nothing was refused."""
    result = run(*words, "--dir", tmp_path)
    assert result.exit_code == 2 and "there is no log in" in result.stderr


def test_rows_are_not_folded_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However narrow the terminal, a row is one line with the id in one piece."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    print_table([("2026-01-01T00:00:00.000000Z", "x" * 60, "7Q2M4K1X")], ("time", "who", "id"))
    header, row = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert header.split() == ["time", "who", "id"] and row.split() == [
        "2026-01-01T00:00:00.000000Z",
        "x" * 60,
        "7Q2M4K1X",
    ]
