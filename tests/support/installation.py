"""An installation of Callgate in which nothing is wrong: settings and every file they name."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from proxy.audit.writing.keys import load_hmac_key, load_signing_key
from proxy.cli.demo.certificate import make_self_signed
from proxy.config.loading import PartialSettings, read_settings
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
IDP = '[[issuers]]\nname = "idp"\nissuer = "https://127.0.0.1:1"\naudiences = ["x"]\n'


def install(directory: Path) -> Path:
    """Make the installation, and return its directory."""
    (directory / "callgate.toml").write_text(SETTINGS)
    make_self_signed(("localhost",), directory, now=time.time())
    shutil.copytree(ROOT / "policies", directory / "policies")
    LocalIssuer(directory / "issuer").prepare(time.time())
    (directory / "audit" / "gate").mkdir(mode=0o700, parents=True)
    load_hmac_key(directory / "audit")
    load_signing_key(directory / "audit", "callgate")
    close_to_others(directory)
    return directory


def close_to_others(directory: Path) -> None:
    """Take from other users what a wide umask gave them, here or in the clone."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(path.stat().st_mode & 0o7755)
    (directory / "audit").chmod(0o700)


def settings_of(directory: Path) -> PartialSettings:
    """Return the settings, which have no problem of their own."""
    settings, problems = read_settings(directory / "callgate.toml", {})
    assert not problems
    return settings


def run_check(directory: Path, *more: str) -> tuple[int, list[dict[str, str]]]:
    """Run ``callgate check --json``; return its exit code and the problems."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", "--json", *more],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] == (not result["problems"]) == (done.returncode == 0)
    return done.returncode, result["problems"]
