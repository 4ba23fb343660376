from pathlib import Path

import pytest

from proxy.config.loading import load_settings
from tests.support.settings import MINIMAL, only, place, read, secret_file, with_upstream, write


def with_basic_auth(value: str) -> str:
    """Return settings whose upstream requires a password."""
    return MINIMAL.replace('protocol = "luigi"', f'protocol = "luigi"\nbasic_auth = {value}')


def test_a_literal_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """Settings end up in version control, and problems in logs."""
    problem = only(tmp_path, with_basic_auth('"user:hunter2"'))
    assert "literal secret" in problem.message
    assert "hunter2" not in repr(problem)


def test_a_url_with_a_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """User info in a URL is a literal secret too."""
    problem = only(tmp_path, MINIMAL.replace("http://127", "http://user:hunter2@127"))
    assert problem.location.endswith("upstreams[0].url")
    assert "hunter2" not in repr(problem)


def test_a_secret_is_read_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    """Editors and echo end files with a line end that is no part of a password."""
    path = secret_file(tmp_path)
    found = read(tmp_path, with_basic_auth('{ file = "secret" }')).upstreams[0].basic_auth
    assert found is not None
    assert (found.reveal(), found.file) == ("s3cr3t-value", path)


def test_a_secret_is_read_from_the_environment(tmp_path: Path) -> None:
    """Containers get their secrets as variables."""
    found = (
        read(tmp_path, with_basic_auth('{ env = "UPSTREAM" }'), {"UPSTREAM": "u:p"})
        .upstreams[0]
        .basic_auth
    )
    assert found is not None
    assert (found.reveal(), found.file) == ("u:p", None)


def test_settings_with_a_secret_can_be_printed(tmp_path: Path) -> None:
    """A log line or a traceback with the settings has no secret in it."""
    secret_file(tmp_path)
    found = read(tmp_path, with_basic_auth('{ file = "secret" }'))
    assert "s3cr3t-value" not in f"{found!r}{found}{found.upstreams[0].basic_auth}"


@pytest.mark.parametrize("mode", [0o604, 0o660, 0o644, 0o601])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """A key that other users can read is no secret; the hint is the command to run."""
    path = secret_file(tmp_path, mode=mode)
    problem = only(tmp_path, with_basic_auth('{ file = "secret" }'))
    assert f"{mode:04o}" in problem.message
    assert problem.hint == f"Run: chmod 600 {path}"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('{ env = "UNSET" }', "UNSET is not set"),
        ('{ file = "absent" }', "does not exist"),
        ('{ file = "policies" }', "not a file"),
        ('{ file = "secret", env = "X" }', "exactly one"),
        ("{ }", "exactly one"),
        ('{ path = "secret" }', "exactly one"),
        ("{ file = 3 }", "must be text"),
        ("3", "literal secret"),
    ],
)
def test_a_secret_that_is_not_available_is_a_problem(tmp_path: Path, value: str, says: str) -> None:
    """Each mistake in naming a secret has its own message."""
    secret_file(tmp_path)
    assert says in only(tmp_path, with_basic_auth(value)).message


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    """An empty password would be sent as if it were one."""
    secret_file(tmp_path, "\n")
    assert "is empty" in only(tmp_path, with_basic_auth('{ file = "secret" }')).message


def test_relative_paths_start_at_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory has no influence on the settings."""
    path = write(tmp_path, MINIMAL)
    monkeypatch.chdir("/")
    found = load_settings(path, {})
    assert found.policy.directory == tmp_path / "policies"
    assert found.audit.directory == tmp_path / "audit"


@pytest.mark.parametrize("name", ["Okta", "", "-a", "a_b", "a|b", "a" * 33, "a b", "ä", "a\\n"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    """Principals, policies and records have names in them, separated by |."""
    rows = f'[[issuers]]\nname = "{name}"\nissuer = "https://a.example"\naudiences = ["x"]\n'
    assert place(only(tmp_path, MINIMAL + rows)) == "issuers[0].name"


@pytest.mark.parametrize(
    "prefix",
    [
        "second",
        "/second/",
        "//second",
        "/a//b",
        "/..",
        "/a/../b",
        "/%41",
        "/a b",
        "/a?b",
        "/a#b",
        "/-/x",
        "/é",
    ],
)
def test_a_prefix_is_one_path_in_one_spelling(tmp_path: Path, prefix: str) -> None:
    """The raw path is compared with it; a second spelling would miss. /-/ is reserved."""
    assert place(only(tmp_path, with_upstream(path_prefix=prefix))) == "upstreams[1].path_prefix"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:9001",
        "ftp://127.0.0.1",
        "http://",
        "http:///path",
        "http://a b",
        "http://h:99999",
        "http://h:x",
        "http://h:0",
        "http://h/path",
        "http://h?q",
        "http://h#f",
        "http://h\\\\x",
        "http://é",
        "unix:relative.sock",
        "http://[::1",
    ],
)
def test_an_upstream_is_one_place_in_one_spelling(tmp_path: Path, url: str) -> None:
    """A URL that two parsers could read differently is refused."""
    assert place(only(tmp_path, with_upstream(url=url))) == "upstreams[1].url"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://gate.example", "must begin with https://"),
        ("https://gate.example/path", "must have no path"),
        ("https://user@gate.example", "has a user name or password in it"),
        ("https://gate.example?q", "must have no query and no fragment"),
        ("gate.example", "is not an http or https URL"),
    ],
)
def test_the_public_url_is_an_origin(tmp_path: Path, url: str, message: str) -> None:
    """Redirects and token audiences are made from it: scheme, host and port."""
    problem = only(tmp_path, f'public_url = "{url}"\n{MINIMAL}')
    assert (problem.location, problem.message) == ("callgate.toml:1: public_url", message)
