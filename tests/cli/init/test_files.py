import os
import pwd
from pathlib import Path

import pytest

from proxy.cli.init.files import Plan, has_unit_path, host_names, write_all
from proxy.errors import ConfigError, Problem

NOW = 1_800_000_000.0


def plan(directory: Path) -> Plan:
    """A plan for luigid."""
    return Plan(
        directory, "luigi", "luigi", "http://127.0.0.1:8082", "", "", None, "luigi", "", "127.0.0.1", 8443, None, None, "", "",
        pwd.getpwuid(os.geteuid()),
    )  # fmt: skip


def accept(settings: Path) -> None:
    """Find no problem."""
    assert settings.is_file()


def refuse(settings: Path) -> None:
    """Find one."""
    raise ConfigError([Problem("here", "is wrong", "Fix it.")])


def test_the_directory_is_there_completely_or_not_at_all(tmp_path: Path) -> None:
    """A failure leaves nothing, not even a temporary directory; a success leaves nothing else."""
    with pytest.raises(ConfigError):
        write_all(plan(tmp_path / "gate"), refuse, now=NOW)
    assert list(tmp_path.iterdir()) == []
    write_all(plan(tmp_path / "gate"), accept, now=NOW)
    assert list(tmp_path.iterdir()) == [tmp_path / "gate"]


def test_a_directory_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """The rename fails on a directory with content."""
    gate = tmp_path / "gate"

    def interfere(settings: Path) -> None:
        gate.mkdir()
        (gate / "mine").write_text("mine")

    with pytest.raises(OSError, match="not empty"):
        write_all(plan(gate), interfere, now=NOW)
    assert [path.name for path in tmp_path.rglob("*")] == ["gate", "mine"]


def test_a_path_is_one_that_systemd_reads_as_it_is() -> None:
    """Blanks are quoted; what systemd expands or unescapes is refused."""
    assert has_unit_path(Path("/srv/call gate"))
    assert has_unit_path(Path("/srv/größe"))
    for name in ("a%h", "a$b", 'a"b', "a'b", "a\\b", "a\nb", "a\u202eb"):
        assert not has_unit_path(Path("/srv") / name)


def test_a_certificate_has_the_names_of_the_host() -> None:
    """Clients on this host use localhost, others its name."""
    names = host_names()
    assert names[0] == "localhost"
    assert names[-2:] == ("127.0.0.1", "::1")
    assert len(set(names)) == len(names)
