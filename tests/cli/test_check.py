import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.edge.self_signed import make_self_signed

ROOT = Path(__file__).parent.parent.parent
SETTINGS = """
[tls]
certificate = "tls.crt"
key = { file = "tls.key" }
[local_issuer]
directory = "issuer"
[[upstreams]]
name = "luigi"
protocol = "luigi"
url = "http://127.0.0.1:1"
[policy]
directory = "policies"
[audit]
directory = "audit"
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Make a directory in which nothing is wrong."""
    (tmp_path / "callgate.toml").write_text(SETTINGS)
    make_self_signed(("localhost",), tmp_path, now=time.time())
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    return tmp_path


def check(directory: Path, *more: str) -> tuple[int, list[dict[str, str]]]:
    """Run the check; gives its exit code and the problems."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", "check", "--json", *more],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr
    said = json.loads(done.stdout)
    assert said["ok"] == (not said["problems"]) == (done.returncode == 0)
    return done.returncode, said["problems"]


def test_nothing_wrong_is_0(good: Path) -> None:
    """No problem, no output but that there is none, and nothing is written."""
    before = sorted(good.rglob("*"))
    assert check(good) == (0, [])
    assert sorted(good.rglob("*")) == before


def test_everything_wrong_is_said_at_once(good: Path) -> None:
    """Settings, certificate, catalogs, roles and policies: a mistake in one does not hide those in another."""
    (good / "callgate.toml").write_text(SETTINGS + "[limits]\nbody_byte = 1\n")
    make_self_signed(("localhost",), good, now=time.time() - 200 * 86400)
    (good / "policies" / "extra.cedar").write_text(
        '@id("x") permit (principal in Role::"nobody", action == Action::"explode", resource);\n'
    )
    roles = good / "policies" / "roles.toml"
    roles.write_text(roles.read_text() + '[[roles.viewer]]\nissuer = "local"\ngruop = "x"\n')
    code, problems = check(good)
    assert code == 1
    text = "\n".join(f"{problem['place']} {problem['what']}" for problem in problems)
    for part in ("limits.body_byte", "expired on", "extra.cedar", "explode", "gruop"):
        assert part in text, part
    assert all(problem["remedy"] for problem in problems)


def test_a_broken_catalog_is_named_and_policies_are_not_blamed_for_it(good: Path) -> None:
    """A policy about a method whose catalog cannot be read is not wrong."""
    (good / "policies" / "catalogs" / "luigi.toml").write_text("methods = 3\n")
    _, problems = check(good)
    assert problems
    assert all("luigi.toml" in problem["place"] for problem in problems)


def test_a_catalog_that_does_not_exist_is_named_with_those_that_do(good: Path) -> None:
    """A misspelt name has its likely remedy."""
    (good / "callgate.toml").write_text(SETTINGS.replace('url = "http', 'catalog = "luigy"\nurl = "http'))
    _, problems = check(good)
    (problem,) = [problem for problem in problems if problem["place"] == "callgate.toml: upstreams[0].catalog"]
    assert problem["remedy"] == "There are: luigi, supervisor."


def test_a_catalog_of_the_other_protocol_is_refused(good: Path) -> None:
    """Its methods would be those of another kind of server."""
    (good / "callgate.toml").write_text(SETTINGS.replace('url = "http', 'catalog = "supervisor"\nurl = "http'))
    _, problems = check(good)
    assert "is a catalog for xmlrpc, not for luigi" in [problem["what"] for problem in problems]


def test_a_key_of_another_certificate_is_named(good: Path) -> None:
    """The pair is tried, not only looked for."""
    other = good / "other"
    other.mkdir()
    make_self_signed(("localhost",), other, now=time.time()).key.rename(good / "tls.key")
    _, (problem,) = check(good)
    assert problem["place"] == "callgate.toml: tls"
    assert "cannot be used with its key" in problem["what"]


@pytest.mark.parametrize("content", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AAAA"}]}'])
def test_a_key_set_file_that_is_none_is_named(good: Path, content: str) -> None:
    """A gate with it would start, and identify nobody."""
    (good / "keys.json").write_text(content)
    issuer = '[[issuers]]\nname = "idp"\nissuer = "https://idp.example"\naudience = "x"\njwks_file = "keys.json"\n'
    (good / "callgate.toml").write_text(SETTINGS + issuer)
    _, (problem,) = check(good)
    assert problem["place"] == "callgate.toml: issuers[0].jwks_file"


def test_online_asks_the_upstreams_too(good: Path) -> None:
    """Nobody listens on port 1: offline that is no problem, online it is."""
    assert check(good)[0] == 0
    code, (problem,) = check(good, "--online")
    assert code == 1
    assert "cannot be reached" in problem["what"]


def test_broken_toml_is_a_problem_like_any_other(good: Path) -> None:
    """The file is there and it is wrong: the answer is no."""
    (good / "callgate.toml").write_text("[listen\n")
    code, (problem,) = check(good)
    assert code == 1
    assert "line 1" in problem["what"]


def test_people_get_place_what_and_remedy(good: Path) -> None:
    """Without --json each problem is two lines."""
    (good / "callgate.toml").write_text(SETTINGS + "[limits]\nbody_byte = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", "check"],
        cwd=good,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "callgate.toml: limits.body_byte: is not a setting\n    Did you mean body_bytes?\n"
