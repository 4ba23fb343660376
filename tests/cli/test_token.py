import stat
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.token import app
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.identity.verifier import Verifier
from proxy.model import Credentials, RoleGrant


def run(*arguments: str) -> Result:
    """Run ``callgate token`` with `arguments`."""
    return CliRunner().invoke(app, list(arguments))


async def subject_of(token: str, directory: Path) -> str:
    """Return the principal and groups that a verifier with the keys of `directory` finds."""
    profile = TokenProfile("https://callgate.local/issuer", ("callgate",))
    verifier = Verifier(
        [Issuer("local", profile, JwksFile(directory / "jwks.json"))],
        lambda *_: RoleGrant(()),
    )
    principal = await verifier.authenticate(Credentials(b"Bearer " + token.encode()), time.time())
    return f"{principal.name} in {','.join(principal.groups)}"


async def test_issue_prints_the_token_and_nothing_else(tmp_path: Path) -> None:
    """Standard output is one line, a token that the verifier accepts."""
    done = run(
        "issue",
        "--subject",
        "etl-07",
        "--group",
        "etl",
        "--group",
        "dev",
        "--ttl",
        "1h",
        "--dir",
        str(tmp_path / "issuer"),
    )
    assert done.exit_code == 0 and done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert await subject_of(done.stdout.strip(), tmp_path / "issuer") == "local|etl-07 in dev,etl"


async def test_issue_into_a_file_for_the_owner(tmp_path: Path) -> None:
    """With --out nothing is printed, and only the owner can read the file."""
    out = tmp_path / "etl.jwt"
    done = run(
        "issue",
        "--subject",
        "etl-07",
        "--ttl",
        "90s",
        "--dir",
        str(tmp_path / "issuer"),
        "--out",
        str(out),
    )
    assert (done.exit_code, done.output) == (0, "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert await subject_of(out.read_text().strip(), tmp_path / "issuer") == "local|etl-07 in "


async def test_rotate_keeps_tokens_good(tmp_path: Path) -> None:
    """A token issued before a rotation is valid after it, and the rotation prints no token."""
    before = run(
        "issue", "--subject", "a", "--ttl", "1d", "--dir", str(tmp_path / "issuer")
    ).stdout.strip()
    done = run("rotate", "--dir", str(tmp_path / "issuer"))
    assert done.exit_code == 0 and "new signing key" in done.stdout
    assert await subject_of(before, tmp_path / "issuer") == "local|a in "


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["issue", "--subject", "a", "--ttl", "soon"], "is not a duration"),
        (["issue", "--subject", "a", "--ttl", "60"], "is not a duration"),
        (["issue", "--subject", "a", "--ttl", "0s"], "lifetime"),
        (["issue", "--subject", "a", "--ttl", "367d"], "lifetime"),
        (["issue", "--subject", "a\nb", "--ttl", "1h"], "subject"),
        (["issue", "--subject", "a", "--group", "", "--ttl", "1h"], "group"),
        (
            ["issue", "--subject", "a", "--ttl", "1h", "--out", "nowhere/at/all"],
            "existing directory",
        ),
    ],
)
def test_a_mistake_is_one_line_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    """Exit code 2, nothing on standard output, one line on standard error."""
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, "--dir", str(tmp_path / "issuer"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Both verbs name the directory."""
    (tmp_path / "file").write_text("")
    for verb in (["issue", "--subject", "a", "--ttl", "1h"], ["rotate"]):
        done = run(*verb, "--dir", str(tmp_path / "file"))
        assert (done.exit_code, done.stdout) == (2, "")
        assert str(tmp_path / "file") in done.stderr and done.stderr.count("\n") == 1


def test_missing_settings_are_named(tmp_path: Path) -> None:
    """Without --dir the settings are read."""
    done = run("rotate", "--config", str(tmp_path / "callgate.toml"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "callgate.toml" in done.stderr


@pytest.mark.parametrize("verb", [["issue", "--help"], ["rotate", "--help"]])
def test_help_shows_an_example(verb: list[str]) -> None:
    """Each verb's help has an example."""
    done = run(*verb)
    assert done.exit_code == 0 and "Example: callgate token" in done.stdout


SETTINGS = """
[[listeners]]
address = "127.0.0.1"
port = 8443
plain_http = true
[local_issuer]
directory = "issuer"
max_lifetime_seconds = 7200
[[upstreams]]
name = "luigi"
protocol = "luigi"
url = "http://127.0.0.1:8082"
[policy]
directory = "policies"
[audit]
directory = "audit"
"""


async def test_the_settings_have_the_directory_and_the_longest_lifetime(tmp_path: Path) -> None:
    """Without --dir the local issuer of the settings issues, up to the lifetime set there."""
    (tmp_path / "policies").mkdir()
    settings = tmp_path / "callgate.toml"
    settings.write_text(SETTINGS)
    done = run("issue", "--subject", "a", "--ttl", "2h", "--config", str(settings))
    assert done.exit_code == 0, done.stderr
    assert await subject_of(done.stdout.strip(), tmp_path / "issuer") == "local|a in "
    done = run("issue", "--subject", "a", "--ttl", "3h", "--config", str(settings))
    assert (done.exit_code, done.stdout) == (2, "") and "max_lifetime_seconds" in done.stderr


@pytest.mark.parametrize("how", ["-c", "CALLGATE_CONFIG"])
def test_the_settings_are_named_as_for_the_other_verbs(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short option and the variable of the other verbs name the settings file, too."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "callgate.toml").write_text(SETTINGS)
    if how == "CALLGATE_CONFIG":
        monkeypatch.setenv(how, str(tmp_path / "callgate.toml"))
    named = ["-c", str(tmp_path / "callgate.toml")] if how == "-c" else []
    for words in (["issue", "--subject", "a", "--ttl", "1h"], ["rotate"]):
        done = run(*words, *named)
        assert done.exit_code == 0, done.stderr
    assert (tmp_path / "issuer" / "jwks.json").is_file()
