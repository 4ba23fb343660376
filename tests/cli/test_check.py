import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from proxy.cli.demo.certificate import make_self_signed
from tests.support.installation import IDP, SETTINGS, run_check
from tests.support.paths import ROOT

pytestmark = pytest.mark.process  # starts the command, or another program


def test_nothing_wrong_is_0(good: Path) -> None:
    """The output says that there is no problem, and nothing is written."""
    before = sorted(good.rglob("*"))
    assert run_check(good) == (0, [])
    assert sorted(good.rglob("*")) == before


def test_every_problem_is_reported_at_once(good: Path) -> None:
    """A mistake in the settings hides none in certificates, roles or policies."""
    (good / "callgate.toml").write_text(SETTINGS + "[limits]\nbody_byte = 1\n")
    make_self_signed(("localhost",), good, now=time.time() - 200 * 86400)
    (good / "policies" / "extra.cedar").write_text(
        '@id("x") permit (principal in Role::"nobody", action == Action::"explode", resource);\n'
    )
    roles = good / "policies" / "roles.toml"
    roles.write_text(roles.read_text() + '[[roles.viewer]]\nissuer = "local"\ngruop = "x"\n')
    code, problems = run_check(good)
    assert code == 1
    text = "\n".join(f"{problem['location']} {problem['message']}" for problem in problems)
    for part in ("limits.body_byte", "expired on", "extra.cedar", "explode", "gruop"):
        assert part in text, part
    assert all(problem["hint"] for problem in problems)


def test_a_certificate_that_ends_soon_is_a_warning_and_no_problem(good: Path) -> None:
    """It is in the text and in the JSON, and the exit code is that of success."""
    make_self_signed(("localhost",), good, now=time.time() - 80 * 86400)
    assert run_check(good) == (0, [])
    command = [sys.executable, "-m", "proxy", "check", "--config", str(good / "callgate.toml")]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "listeners[0].certificate: warning: expires on 20" in text
    assert "no problem found" in text
    shown = subprocess.run(
        [*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    answer = json.loads(shown.stdout)
    assert answer["ok"]
    [warning] = answer["warnings"]
    assert warning["message"].startswith("expires on 20")
    assert "Renew it" in warning["hint"]


def test_online_checks_the_upstreams_too(good: Path) -> None:
    """A dead upstream is a problem online, and none offline."""
    assert run_check(good)[0] == 0
    code, (problem,) = run_check(good, "--online")
    assert code == 1
    assert "cannot be reached" in problem["message"]


def test_a_dead_issuer_and_a_page_instead_of_an_upstream_are_explained(good: Path) -> None:
    """Messages have no names of exceptions, and no status without its meaning."""

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
        code, problems = run_check(good, "--online")
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
    """A file that cannot be read is a run-time error, no negative result."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", "--json", "--config", "/proc/self/mem"],
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
    """The file can be read and is wrong: a negative result."""
    (good / "callgate.toml").write_text("[listen\n")
    code, (problem,) = run_check(good)
    assert code == 1
    assert problem["location"] == "callgate.toml:1"


def test_without_json_a_problem_is_two_lines(good: Path) -> None:
    """Location and message come first, the hint below."""
    (good / "callgate.toml").write_text(SETTINGS + "[limits]\nbody_byte = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check"],
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
