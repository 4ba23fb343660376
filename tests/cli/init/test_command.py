import os
import stat
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.check import find_problems
from proxy.cli.demo.certificate import make_self_signed
from proxy.cli.main import build
from tests.support.xmlrpc_servers import jobs_server

NOW = 1_800_000_000.0
LUIGI = ("--upstream", "http://127.0.0.1:8082", "--protocol", "luigi")


def run(*arguments: object) -> Result:
    """Run ``callgate init`` with `arguments`."""
    return CliRunner().invoke(build("init"), ["init", *map(str, arguments)])


def modes(directory: Path) -> dict[str, int]:
    """The modes of everything in a directory, by relative path."""
    return {
        path.relative_to(directory).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in directory.rglob("*")
    }


def test_it_asks_nothing_and_writes_what_check_accepts(tmp_path: Path) -> None:
    """Some fifteen lines of settings without a problem, and three commands to go on with."""
    gate = tmp_path / "gate"
    done = run(*LUIGI, "--dir", gate)
    assert done.exit_code == 0, done.output
    text = (gate / "callgate.toml").read_text()
    assert 9 <= sum("=" in line for line in text.splitlines()) <= 16
    settings = tomllib.loads(text)
    assert settings["upstreams"] == [
        {"name": "luigi", "protocol": "luigi", "url": "http://127.0.0.1:8082", "catalog": "luigi"}
    ]
    assert settings["listeners"][0]["address"] == "127.0.0.1"
    assert find_problems(gate / "callgate.toml", online=False) == []
    commands = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert len(commands) == 3
    for verb, command in zip(("check", "serve", "token issue"), commands, strict=True):
        assert f"callgate {verb} --config {gate}/callgate.toml" in command


def test_the_modes_are_right_under_any_umask(tmp_path: Path) -> None:
    """Secrets are the owner's; policies and the certificate can be read, and nothing be written."""
    before = os.umask(0)
    try:
        assert run(*LUIGI, "--dir", tmp_path / "open").exit_code == 0
        os.umask(0o077)
        assert run(*LUIGI, "--dir", tmp_path / "closed").exit_code == 0
    finally:
        os.umask(before)
    found = modes(tmp_path / "open")
    assert found == modes(tmp_path / "closed")
    for secret in ("tls.key", "issuer/state.json"):
        assert found[secret] == 0o600
    for directory in ("audit", "issuer"):
        assert found[directory] == 0o700
    assert not any(mode & 0o022 for mode in found.values())
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_exists_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    """A directory with one file, a file, a link to an empty directory."""
    gate = tmp_path / "gate"
    if kind == "directory":
        gate.mkdir()
        (gate / "mine").write_text("mine")
    elif kind == "file":
        gate.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        gate.symlink_to("elsewhere")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = run(*LUIGI, "--dir", gate)
    assert done.exit_code == 2
    assert "exists already, and is left as it is" in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    """A misspelt path makes no tree of directories."""
    done = run(*LUIGI, "--dir", tmp_path / "etcc" / "gate")
    assert done.exit_code == 2
    assert f"{tmp_path / 'etcc'} is no directory." in done.stderr


def test_an_empty_directory_is_used(tmp_path: Path) -> None:
    """A package or an operator may have made it."""
    (tmp_path / "gate").mkdir()
    assert run(*LUIGI, "--dir", tmp_path / "gate").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--address", "not-an-address"), ("--certificate", "x.crt"), ("--issuer", "https://idp.example"),
        ("--certificate", "missing.crt", "--key", "missing.key"), ("--issuer", "http://idp.example", "--audience", "gate"),
        ("--catalog", "supervisor"), ("--catalog", "../x"), ("--user", "no-such-user-1"),
    ],
)  # fmt: skip
def test_what_could_not_be_served_leaves_nothing(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """So that the same command can be run again once it is right."""
    done = run(*LUIGI, "--dir", tmp_path / "gate", *arguments)
    assert done.exit_code == 2
    assert done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_a_unit_cannot_name_is_refused(tmp_path: Path) -> None:
    """A line end would add a line of its own to the unit."""
    for name in ("a\nExecStart=x", 'a"b', "a%b", "a$b", "a\\b"):
        assert run(*LUIGI, "--dir", tmp_path / name).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_given_certificate_and_issuer_are_used(tmp_path: Path) -> None:
    """None is made then, and the roles are those of the given issuer."""
    made = make_self_signed(("localhost",), tmp_path, now=NOW - 86400 * 40)
    gate = tmp_path / "gate"
    given = ("--issuer", "https://idp.example", "--audience", "gate")
    done = run(*LUIGI, "--dir", gate, "--certificate", made.certificate, "--key", made.key, *given)
    if done.exit_code == 2:  # the clock of the machine is outside the certificate's time
        assert "certificate" in done.stderr
        return
    settings = tomllib.loads((gate / "callgate.toml").read_text())
    assert settings["listeners"][0]["certificate"] == str(made.certificate)
    assert settings["issuers"][0]["audiences"] == ["gate"]
    assert not (gate / "issuer").exists() and not (gate / "tls.key").exists()
    assert 'issuer = "local"' not in (gate / "policies" / "roles.toml").read_text().replace(
        "# ", ""
    )


def test_an_xmlrpc_server_is_asked_for_its_catalog(tmp_path: Path) -> None:
    """What is no shipped one is drafted, and denied until its permissions are set."""
    gate = tmp_path / "gate"
    with jobs_server() as port:
        url = f"http://127.0.0.1:{port}/jobs"
        assert run("--upstream", url, "--protocol", "xmlrpc", "--dir", gate).exit_code == 2
        assert not gate.exists()  # it serves / and /RPC2 alone
        url = f"http://127.0.0.1:{port}/RPC2"
        done = run("--upstream", url, "--protocol", "xmlrpc", "--dir", gate)
    assert done.exit_code == 0, done.output
    assert "all 6 methods are denied until their permission is set" in done.stdout
    [warning] = find_problems(gate / "callgate.toml", online=False)
    assert warning.warning and warning.message.startswith("6 of 6 methods are unclassified")
    [upstream] = tomllib.loads((gate / "callgate.toml").read_text())["upstreams"]
    assert upstream["url"] == f"http://127.0.0.1:{port}"
    assert upstream["upstream_path"] == "/RPC2"


def test_a_shipped_catalog_is_recognised(tmp_path: Path) -> None:
    """supervisord is known by its methods; the shipped catalog has their permissions."""
    names = ["supervisor.getState", "supervisor.startProcess", "supervisor.getPID", "system.x"]
    with jobs_server(system={"listMethods": lambda: names}) as port:
        url = f"http://127.0.0.1:{port}"
        done = run("--upstream", url, "--protocol", "xmlrpc", "--dir", tmp_path / "gate")
    assert done.exit_code == 0
    assert "with the shipped catalog supervisor" in done.stdout
    assert find_problems(tmp_path / "gate" / "callgate.toml", online=False) == []


def test_the_servers_password_is_kept_in_a_file_of_its_own(tmp_path: Path) -> None:
    """Mode 0600; it is in no other file and not printed."""
    password = tmp_path / "password"
    password.write_text("gate:hunter2\n")
    password.chmod(0o600)
    gate = tmp_path / "gate"
    done = run(*LUIGI, "--dir", gate, "--basic-auth-file", password)
    assert done.exit_code == 0
    assert "hunter2" not in done.output
    holding = [
        path for path in gate.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()
    ]
    assert holding == [gate / "upstream-password"]
    assert modes(gate)["upstream-password"] == 0o600
