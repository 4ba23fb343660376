from pathlib import Path

from typer.testing import CliRunner, Result

from proxy.cli.catalog import app
from tests.support.paths import ROOT
from tests.support.xmlrpc_servers import jobs_server


def run(*arguments: object) -> Result:
    """Run ``callgate catalog`` with `arguments`."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_what_the_server_has_and_the_catalog_lacks_is_listed(tmp_path: Path) -> None:
    """And the reverse; exit code 1 for a difference, 0 for none."""
    catalog = tmp_path / "jobs.toml"
    with jobs_server() as port:
        url = f"http://127.0.0.1:{port}"
        assert run("draft", url, "--out", catalog).exit_code == 0
        same = run("diff", url, "--catalog", catalog)
        text = catalog.read_text().replace("[methods.ping]", "[methods.pong]")
        catalog.write_text(text.replace('= "unclassified"', '= "view"', 2))
        done = run("diff", url, "--catalog", catalog)
    assert same.exit_code == 0
    assert "lacks 0 and has 0 that are not listed; 6 are unclassified" in same.stdout
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "+ ping",
        "- pong",
        f"http://127.0.0.1:{port}/RPC2 lists 6 methods; jobs.toml lacks 1"
        " and has 1 that are not listed; 4 are unclassified",
    ]


def test_pages_are_no_methods_of_a_server(tmp_path: Path) -> None:
    """supervisord's catalog has pages, which no server lists."""
    names = tmp_path / "names"
    names.write_text("supervisor.getState\n")
    shipped = ROOT / "policies" / "catalogs" / "supervisor.toml"
    done = run("diff", "--names", names, "--catalog", shipped)
    assert "page." not in done.stdout
    assert "- supervisor.getPID" in done.stdout


def test_a_catalog_of_another_protocol_is_2(tmp_path: Path) -> None:
    """luigid lists nothing."""
    names = tmp_path / "names"
    names.write_text("a\n")
    done = run("diff", "--names", names, "--catalog", ROOT / "policies" / "catalogs" / "luigi.toml")
    assert done.exit_code == 2
    assert "Name one for xmlrpc." in done.stderr
