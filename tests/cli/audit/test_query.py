import csv
import io
from pathlib import Path

import pytest

from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


def test_query_csv_is_whole(audit: Path) -> None:
    """Every row of the CSV has the header's columns."""
    rows = list(csv.reader(io.StringIO(run("query", "--csv", "--dir", audit).stdout)))
    assert len(rows) == 1 + 3 + 1 + 11 and {len(row) for row in rows} == {8}


@pytest.mark.parametrize(
    "words",
    [
        ("--permission", "admn"),
        ("--decision", "denied"),
        ("--reason", "norole"),
        ("--address", "10.0.0.0/8"),
    ],
    ids=" ".join,
)
def test_a_mistyped_filter_is_no_answer(audit: Path, words: tuple[str, str]) -> None:
    """A word that no record can hold is refused: none found would read as none happened."""
    result = run("query", *words, "--dir", audit)
    assert result.exit_code == 2 and words[1] in result.stderr


def test_no_match_is_reported(audit: Path) -> None:
    """An empty answer says so on standard error."""
    assert "no call matches" in run("query", "--method", "none", "--dir", audit).stderr


def test_rejected_requests_are_found_by_the_word_of_the_record(audit: Path) -> None:
    """``--decision reject`` is the one name of what never became a call."""
    found = run("query", "--decision", "reject", "--dir", audit)
    assert found.exit_code == 0 and "no-credential" in found.stdout
    assert run("query", "--decision", "rejected", "--dir", audit).exit_code == 2
