import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from proxy.audit.writing.keys import load_hmac_key, load_signing_key
from proxy.cli.demo.certificate import make_self_signed
from proxy.cli.file_modes import open_to_others, refuse_open
from proxy.config.loading import PartialSettings, load_settings, read_settings
from proxy.errors import ConfigError
from proxy.identity.local_issuer import LocalIssuer
from tests.support.paths import ROOT

SETTINGS = """\
[[listeners]]
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
    LocalIssuer(tmp_path / "issuer").prepare(time.time())
    (tmp_path / "audit" / "gate").mkdir(mode=0o700, parents=True)
    load_hmac_key(tmp_path / "audit")
    load_signing_key(tmp_path / "audit", "callgate")
    own(tmp_path)
    return tmp_path


def own(directory: Path) -> None:
    """Take from others what a wide umask gave them, here or in the clone."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(path.stat().st_mode & 0o7755)
    (directory / "audit").chmod(0o700)


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
    """Settings, certificate, catalogs, roles and policies: a mistake in one does not hide those in
    another.
    """
    (good / "callgate.toml").write_text(SETTINGS + "[limits]\nbody_byte = 1\n")
    make_self_signed(("localhost",), good, now=time.time() - 200 * 86400)
    (good / "policies" / "extra.cedar").write_text(
        '@id("x") permit (principal in Role::"nobody", action == Action::"explode", resource);\n'
    )
    roles = good / "policies" / "roles.toml"
    roles.write_text(roles.read_text() + '[[roles.viewer]]\nissuer = "local"\ngruop = "x"\n')
    code, problems = check(good)
    assert code == 1
    text = "\n".join(f"{problem['location']} {problem['message']}" for problem in problems)
    for part in ("limits.body_byte", "expired on", "extra.cedar", "explode", "gruop"):
        assert part in text, part
    assert all(problem["hint"] for problem in problems)


def test_a_broken_catalog_is_named_and_policies_are_not_blamed_for_it(good: Path) -> None:
    """A policy about a method whose catalog cannot be read is not wrong."""
    (good / "policies" / "catalogs" / "luigi.toml").write_text("methods = 3\n")
    _, problems = check(good)
    assert problems
    assert all("luigi.toml" in problem["location"] for problem in problems)


def test_a_catalog_that_does_not_exist_is_named_with_those_that_do(good: Path) -> None:
    """A misspelt name has its likely remedy."""
    (good / "callgate.toml").write_text(
        SETTINGS.replace('url = "http', 'catalog = "luigy"\nurl = "http')
    )
    _, problems = check(good)
    (problem,) = [
        problem
        for problem in problems
        if problem["location"] == "callgate.toml:9: upstreams[0].catalog"
    ]
    assert problem["hint"] == "There are: luigi, supervisor."


def test_a_catalog_of_the_other_protocol_is_refused(good: Path) -> None:
    """Its methods would be those of another kind of server."""
    (good / "callgate.toml").write_text(
        SETTINGS.replace('url = "http', 'catalog = "supervisor"\nurl = "http')
    )
    _, problems = check(good)
    assert "is a catalog for xmlrpc, not for luigi" in [problem["message"] for problem in problems]


def test_a_key_of_another_certificate_is_named(good: Path) -> None:
    """The pair is tried, not only looked for."""
    other = good / "other"
    other.mkdir()
    make_self_signed(("localhost",), other, now=time.time()).key.rename(good / "tls.key")
    _, (problem,) = check(good)
    assert problem["location"] == "callgate.toml:2: listeners[0].certificate"
    assert "cannot be used with its key" in problem["message"]


@pytest.mark.parametrize(
    "content", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AAAA"}]}']
)
def test_a_key_set_file_that_is_none_is_named(good: Path, content: str) -> None:
    """A gate with it would start, and identify nobody."""
    (good / "keys.json").write_text(content)
    issuer = '[[issuers]]\nname = "idp"\nissuer = "https://idp.example"\naudiences = ["x"]\njwks_file = "keys.json"\n'
    (good / "callgate.toml").write_text(SETTINGS + issuer)
    _, (problem,) = check(good)
    assert problem["location"] == "callgate.toml:18: issuers[0].jwks_file"


def test_online_asks_the_upstreams_too(good: Path) -> None:
    """Nobody listens on port 1: offline that is no problem, online it is."""
    assert check(good)[0] == 0
    code, (problem,) = check(good, "--online")
    assert code == 1
    assert "cannot be reached" in problem["message"]


IDP = '[[issuers]]\nname = "idp"\nissuer = "https://127.0.0.1:1"\naudiences = ["x"]\n'

# What may not be open to others, the mode that opens it, and what mends it.
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
    ("issuer/state.json", 0o640, "chmod 600"),
    ("issuer/state.json", 0o604, "chmod 600"),
    ("issuer/jwks.json", 0o666, "chmod 644"),
    ("audit", 0o777, "chmod 700"),
    ("audit", 0o755, "chmod 700"),
    ("audit/gate", 0o770, "chmod 700"),
    ("audit/hmac.key", 0o666, "chmod 600"),
    ("audit/hmac.key", 0o640, "chmod 600"),
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
    own(good)
    return good


def settings_of(directory: Path) -> PartialSettings:
    """Return the settings as far as they can be read."""
    settings, problems = read_settings(directory / "callgate.toml", {})
    assert not problems
    return settings


@pytest.mark.parametrize(
    ("name", "mode", "mend"),
    OPEN,
    ids=lambda value: f"{value:04o}" if isinstance(value, int) else value,
)
def test_what_is_open_to_others_is_named_with_its_mend(
    every_file: Path, name: str, mode: int, mend: str
) -> None:
    """A door that others could open is a problem of its own, with its path and the command that
    closes it, and that command does.
    """
    settings = settings_of(every_file)
    assert not list(open_to_others(settings))
    path = every_file / name
    path.chmod(mode)
    (problem,) = open_to_others(settings)
    assert Path(problem.location) == path
    assert f"(mode {mode:04o})" in problem.message
    assert problem.hint == f"Run: {mend} {shlex.quote(problem.location)}"
    subprocess.run(shlex.split(problem.hint.removeprefix("Run: ")), check=True)
    assert not list(open_to_others(settings))
    with pytest.raises(ConfigError) as refused:
        path.chmod(mode)
        refuse_open(load_settings(every_file / "callgate.toml", {}))
    assert refused.value.problems == (problem,)


def test_all_of_them_are_named_at_once(every_file: Path) -> None:
    """One run of the check is enough."""
    paths = {every_file / name for name, _, _ in OPEN}
    for path in paths:
        path.chmod(0o777)
    code, problems = check(every_file)
    assert code == 1
    assert {Path(problem["location"]) for problem in problems} == paths


@pytest.mark.parametrize("name", ["policies/roles.toml", "audit/hmac.key"])
def test_serve_refuses_what_the_check_names(good: Path, name: str) -> None:
    """Check and serve cannot disagree: the same lines, and nothing is served with somebody else's
    policy.
    """
    (good / name).chmod(0o666)
    code, (problem,) = check(good)
    assert code == 1
    done = subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", "serve"],
        cwd=good,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"{problem['location']}: {problem['message']}\n    {problem['hint']}\n"


def test_a_directory_with_the_sticky_bit_may_hold_the_settings(good: Path) -> None:
    """In such a directory nobody can replace another's file."""
    good.chmod(0o1777)
    assert check(good) == (0, [])


def test_a_group_may_look_at_the_names_of_the_journal(good: Path) -> None:
    """The auditors' group, for one; the files in it stay their owner's."""
    (good / "audit").chmod(0o750)
    assert check(good) == (0, [])


@pytest.mark.parametrize(
    ("name", "content"),
    [("hmac.key", b"ab\n"), ("hmac.key", b"no hex"), ("signing.key", b"no key")],
)
def test_a_damaged_key_of_the_journal_is_named(good: Path, name: str, content: bytes) -> None:
    """Serve would not start with it."""
    (good / "audit" / name).write_bytes(content)
    code, (problem,) = check(good)
    assert code == 1
    assert name in problem["message"]


def test_a_signing_key_of_another_kind_is_named(good: Path) -> None:
    """The key that the settings name is tried too."""
    (good / "callgate.toml").write_text(SETTINGS + 'signing_key = { file = "tls.key" }\n')
    code, (problem,) = check(good)
    assert (code, problem["location"]) == (1, "callgate.toml:14: audit.signing_key")


def test_an_issuer_that_is_dead_and_a_page_in_the_upstreams_place_are_told_clearly(
    good: Path,
) -> None:
    """Who, what, and what to do, in one line each; no exception's name, no status without its
    meaning.
    """

    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>sign in</html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (good / "callgate.toml").write_text(
            SETTINGS.replace("127.0.0.1:1", f"127.0.0.1:{server.server_port}") + IDP
        )
        code, problems = check(good, "--online")
        server.shutdown()
    assert code == 1
    assert problems == [
        {
            "location": "callgate.toml:16: issuers[0].issuer",
            "message": "the issuer idp publishes no keys: no connection (Connection refused)",
            "hint": "Check the URL, the network and ca_file, or give the keys in jwks_file.",
        },
        {
            "location": "callgate.toml:9: upstreams[0].url",
            "message": "the upstream luigi answers HTML, expected JSON (status 200)",
            "hint": "Another program listens there. Name the luigid itself, and its path.",
        },
    ]


def test_settings_that_cannot_be_read_are_2() -> None:
    """A file that is there and gives an error instead of its content: nothing could be told."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", "check", "--json", "--config", "/proc/self/mem"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_broken_toml_is_a_problem_like_any_other(good: Path) -> None:
    """The file is there and it is wrong: the answer is no."""
    (good / "callgate.toml").write_text("[listen\n")
    code, (problem,) = check(good)
    assert code == 1
    assert problem["location"] == "callgate.toml:1"


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
    assert (
        done.stdout
        == "callgate.toml:15: limits.body_byte: is not a known key\n    Did you mean body_bytes?\n"
    )
