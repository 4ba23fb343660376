import importlib
import importlib.util
from pathlib import Path

import orjson
import pytest

from tests.support.audit_cli import run

pytestmark = pytest.mark.process  # starts the command, or another program


def test_export_is_json_lines(audit: Path, tmp_path: Path) -> None:
    """Each line is an event; Parquet needs a file to go to."""
    lines = run("export", "--dir", audit).stdout.splitlines()
    assert len(lines) == 15 and all(orjson.loads(line)["class_uid"] == 6003 for line in lines)
    assert run("export", "--format", "parquet", "--dir", audit).exit_code == 2


def test_parquet_with_and_without_the_extra(audit: Path, tmp_path: Path) -> None:
    """With pyarrow, an extra, the file has all rows and columns; without it the refusal says what
    to install.
    """
    result = run("export", "--format", "parquet", "--out", tmp_path / "x.parquet", "--dir", audit)
    if importlib.util.find_spec("pyarrow") is None:
        assert result.exit_code == 2 and "pip install" in result.stderr
    else:
        table = importlib.import_module("pyarrow.parquet").read_table(tmp_path / "x.parquet")
        assert result.exit_code == 0 and table.num_rows == 15 and "subject" in table.column_names
