import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.file_modes import open_to_others, refuse_open
from proxy.common.file_trust import Trust
from proxy.config.loading import load_settings
from proxy.errors import ConfigError
from tests.support.installation import (
    IDP,
    SETTINGS,
    close_to_others,
    install,
    run_check,
    settings_of,
)
from tests.support.other_user import NOBODY, as_root
from tests.support.paths import ROOT

# A file, a mode that is too wide for it, and the command that closes it.
TRUST = Trust.of_this_process()

OPEN = [
    ("callgate.toml", 0o666, "chmod go-w"),
    ("callgate.toml", 0o664, "chmod go-w"),
    (".", 0o777, "chmod go-w"),
    ("policies", 0o777, "chmod go-w"),
    ("policies", 0o775, "chmod go-w"),
    ("policies/roles.cedar", 0o666, "chmod go-w"),
    ("policies/luigi.cedar", 0o646, "chmod go-w"),
    ("policies/roles.toml", 0o664, "chmod go-w"),
    ("policies/catalogs", 0o777, "chmod go-w"),
    ("policies/catalogs/luigi.toml", 0o666, "chmod go-w"),
    ("issuer", 0o777, "chmod 700"),
    ("issuer", 0o770, "chmod 700"),
    ("issuer/state.json", 0o644, "chmod 600"),
    ("issuer/state.json", 0o604, "chmod 600"),
    ("issuer/jwks.json", 0o666, "chmod 644"),
    ("audit", 0o777, "chmod 700"),
    ("audit", 0o755, "chmod 700"),
    ("audit/gate", 0o777, "chmod 700"),
    ("audit/hmac.key", 0o666, "chmod 600"),
    ("audit/hmac.key", 0o644, "chmod 600"),
    ("audit/signing.key", 0o644, "chmod 600"),
    ("keys/keys.json", 0o666, "chmod go-w"),
    ("keys", 0o777, "chmod go-w"),
    ("ca.pem", 0o666, "chmod go-w"),
]


@pytest.fixture
def every_file(good: Path) -> Path:
    """Make settings that name a file of every kind."""
    (good / "keys").mkdir()
    shutil.copy(good / "issuer" / "jwks.json", good / "keys" / "keys.json")
    (good / "callgate.toml").write_text(
        SETTINGS + IDP + 'jwks_file = "keys/keys.json"\nca_file = "ca.pem"\n'
    )
    close_to_others(good)
    return good


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "mode", "command"),
    OPEN,
    ids=lambda value: f"{value:04o}" if isinstance(value, int) else value,
)
def test_a_file_open_to_others_is_named_with_the_command_that_closes_it(
    every_file: Path, name: str, mode: int, command: str
) -> None:
    """The command in the hint closes the file, and `serve` refuses it until then."""
    settings = settings_of(every_file)
    assert not list(open_to_others(settings, TRUST))
    path = every_file / name
    path.chmod(mode)
    (problem,) = open_to_others(settings, TRUST)
    assert Path(problem.location) == path
    assert f"(mode {mode:04o})" in problem.message
    assert problem.hint == f"Run: {command} {shlex.quote(problem.location)}"
    subprocess.run(shlex.split(problem.hint.removeprefix("Run: ")), check=True)
    assert not list(open_to_others(settings, TRUST))
    with pytest.raises(ConfigError) as refused:
        path.chmod(mode)
        refuse_open(load_settings(every_file / "callgate.toml", {}))
    assert refused.value.problems == (problem,)


@pytest.mark.process
def test_all_of_them_are_named_at_once(every_file: Path) -> None:
    """One run of the check names all of them."""
    paths = {every_file / name for name, _, _ in OPEN}
    for path in paths:
        path.chmod(0o777)
    code, problems = run_check(every_file)
    assert code == 1
    assert {Path(problem["location"]) for problem in problems} == paths


@pytest.mark.parametrize("name", ["policies/roles.toml", "audit/hmac.key"])
@pytest.mark.process
def test_serve_refuses_what_the_check_names(good: Path, name: str) -> None:
    """Check and serve report the same lines, and nothing is served with an open policy."""
    (good / name).chmod(0o666)
    code, (problem,) = run_check(good)
    assert code == 1
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "serve"],
        cwd=good,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"{problem['location']}: {problem['message']}\n    {problem['hint']}\n"


@pytest.mark.process
def test_a_directory_with_the_sticky_bit_may_hold_the_settings(good: Path) -> None:
    """In such a directory users cannot replace files of each other."""
    good.chmod(0o1777)
    assert run_check(good) == (0, [])


@pytest.mark.process
def test_a_group_may_list_the_journal(good: Path) -> None:
    """It can be the auditors' group; the keys inside stay private."""
    (good / "audit").chmod(0o750)
    assert run_check(good) == (0, [])


@as_root
@pytest.mark.parametrize("name", [name for name, _, _ in OPEN])
def test_a_file_of_another_user_is_named(every_file: Path, name: str) -> None:
    """Its owner can change its mode at any time; `serve` refuses it."""
    path = every_file / name
    os.chown(path, NOBODY, -1)
    problems = list(open_to_others(settings_of(every_file), TRUST))
    assert str(path) in {problem.location for problem in problems}
    assert all("belongs to" in problem.message for problem in problems)
    with pytest.raises(ConfigError):
        refuse_open(load_settings(every_file / "callgate.toml", {}))


@as_root
@pytest.mark.parametrize("name", ["audit/hmac.key", "issuer/state.json", "tls.key", "audit"])
def test_the_group_of_callgate_may_read_secrets_and_another_group_may_not(
    every_file: Path, name: str
) -> None:
    """Kubernetes' fsGroup and Debian's ssl-cert; a group with other members is other users."""
    path = every_file / name
    path.chmod(0o770 if path.is_dir() else 0o640)
    settings = settings_of(every_file)
    assert not list(open_to_others(settings, TRUST))
    os.chown(path, -1, NOBODY)
    assert [p.location for p in open_to_others(settings, TRUST)] == [str(path)]


def test_a_directory_above_that_others_can_write_is_named(tmp_path: Path) -> None:
    """They could replace the whole installation, whatever the modes inside."""
    installed = tmp_path / "shared" / "etc"
    installed.mkdir(parents=True)
    install(installed)
    assert not list(open_to_others(settings_of(installed), TRUST))
    (tmp_path / "shared").chmod(0o777)
    (problem,) = open_to_others(settings_of(installed), TRUST)
    assert problem.location == str(tmp_path / "shared")


@as_root
def test_an_audit_directory_behind_a_planted_link_is_named(good: Path, tmp_path: Path) -> None:
    """Another user would choose where the log goes."""
    (good / "audit").rename(good / "elsewhere")
    (good / "audit").symlink_to(good / "elsewhere")
    assert not list(open_to_others(settings_of(good), TRUST))
    os.chown(good / "audit", NOBODY, NOBODY, follow_symlinks=False)
    assert {p.location for p in open_to_others(settings_of(good), TRUST)} == {str(good / "audit")}
