import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.catalog.loading import load_catalog
from proxy.cli.catalog import app
from tests.support.xmlrpc_servers import jobs_server


def run(*arguments: object) -> Result:
    """Run ``callgate catalog draft`` with `arguments`."""
    return CliRunner().invoke(app, ["draft", *map(str, arguments)])


def test_standard_output_is_the_catalog_and_nothing_else(tmp_path: Path) -> None:
    """The same as the file; both twice the same."""
    out = tmp_path / "jobs.toml"
    with jobs_server() as port:
        url = f"http://127.0.0.1:{port}"
        done, again = run(url, "--name", "jobs"), run(url, "--name", "jobs")
        assert run(url, "--out", out).exit_code == 0
    assert done.exit_code == 0
    assert done.stdout == again.stdout == out.read_text()
    assert "6 methods, unclassified and denied." in done.stderr
    catalog = load_catalog(out)
    assert (catalog.name, len(catalog.unclassified)) == ("jobs", 6)
    assert stat.S_IMODE(out.stat().st_mode) == 0o644


def test_a_catalog_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    """It has the permissions that a person has set."""
    out = tmp_path / "jobs.toml"
    out.write_text("mine")
    names = tmp_path / "names"
    names.write_text("a\n")
    done = run("--names", names, "--out", out)
    assert done.exit_code == 2
    assert "exists already" in done.stderr
    assert out.read_text() == "mine"


def test_names_from_a_file_need_no_server(tmp_path: Path) -> None:
    """Every method takes what its callers send."""
    names = tmp_path / "names"
    names.write_text("get_a\nx y\n")
    done = run("--names", names)
    assert done.exit_code == 0
    assert done.stdout.count("allow_extra = true") == 1
    assert "left out: 1 names" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("http://127.0.0.1:1", "--names", "x"), ("http://127.0.0.1:1",), ("http://127.0.0.1:1", "--name", "A b")],
)  # fmt: skip
def test_what_cannot_be_drafted_is_2_and_one_line(arguments: tuple[str, ...]) -> None:
    """Nothing on standard output, which may be a file."""
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_list_without_a_usable_name_is_2(tmp_path: Path) -> None:
    """A catalog has at least one method."""
    names = tmp_path / "names"
    names.write_text("x y\n")
    assert run("--names", names).exit_code == 2
