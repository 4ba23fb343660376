from pathlib import Path

import pytest

from proxy.config.loading import read_settings
from proxy.errors import ConfigError
from tests.support.settings import MINIMAL, with_upstream, write


def test_valid_settings_are_complete(tmp_path: Path) -> None:
    """Partial settings without a problem have every table."""
    settings, problems = read_settings(write(tmp_path, MINIMAL), {})
    assert not problems
    assert settings.file == tmp_path / "callgate.toml"
    assert [listener and listener.port for listener in settings.listeners] == [8443]
    assert settings.processes == 1
    assert settings.limits is not None
    assert settings.locate(("audit", "directory")) == "callgate.toml:12: audit.directory"


def test_a_bad_table_or_row_is_none_and_the_others_are_there(tmp_path: Path) -> None:
    """Tables are read one by one, so that a mistake in one hides no problem of another."""
    text = with_upstream(url="ftp://x") + "[limits]\nbody_bytes = 1\n"
    settings, problems = read_settings(write(tmp_path, f"processes = 0\n{text}"), {})
    assert len(problems) == 3
    assert settings.processes is None
    assert settings.limits is None
    first, second = settings.upstreams
    assert first is not None
    assert first.catalog == "luigi"
    assert second is None
    assert settings.audit is not None
    assert settings.metrics is not None


def test_a_missing_table_is_none_or_its_default(tmp_path: Path) -> None:
    """A required table has no default."""
    text = MINIMAL.replace('[policy]\ndirectory = "policies"\n', "")
    settings, (problem,) = read_settings(write(tmp_path, text), {})
    assert problem.location == "callgate.toml: policy.directory"
    assert settings.policy is None
    assert settings.log is not None


def test_a_list_that_is_none_has_no_rows(tmp_path: Path) -> None:
    """A value of the wrong kind is a problem of its own."""
    settings, _ = read_settings(write(tmp_path, f"issuers = 3\n{MINIMAL}"), {})
    assert settings.issuers == ()


def test_a_file_that_is_no_toml_has_no_partial_settings(tmp_path: Path) -> None:
    """Nothing of it can be read."""
    with pytest.raises(ConfigError):
        read_settings(write(tmp_path, "[listeners"), {})
