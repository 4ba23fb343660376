"""Settings files for tests, and what loading them gives."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.config.loading import load_settings
from proxy.config.model import Settings
from proxy.errors import ConfigError, Problem

MINIMAL = """\
[[listeners]]
plain_http = true
[local_issuer]
directory = "issuer"
[[upstreams]]
name = "luigi"
protocol = "luigi"
url = "http://127.0.0.1:8082"
[policy]
directory = "policies"
[audit]
directory = "audit"
"""


def write(directory: Path, text: str) -> Path:
    """Write the settings and an empty directory of policies."""
    (directory / "policies").mkdir(exist_ok=True)
    path = directory / "callgate.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Load valid settings."""
    return load_settings(write(directory, text), environ or {})


def problems(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Return every problem of invalid settings."""
    with pytest.raises(ConfigError) as caught:
        read(directory, text, environ)
    return list(caught.value.problems)


def only(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Problem:
    """Return the one problem of invalid settings."""
    (problem,) = problems(directory, text, environ)
    return problem


def place(problem: Problem) -> str:
    """Return the key that a problem of the file is about, without the line."""
    found = re.fullmatch(r"callgate\.toml(?::\d+)?: (.*)", problem.location)
    assert found, problem
    return found[1]


def secret_file(directory: Path, text: str = "s3cr3t-value\n", mode: int = 0o600) -> Path:
    """Write a file with a secret."""
    path = directory / "secret"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def with_upstream(**keys: str) -> str:
    """Return the minimal settings with a second upstream, of XML-RPC."""
    row = {
        "name": "second",
        "protocol": "xmlrpc",
        "url": "http://127.0.0.1:9001",
        "path_prefix": "/second",
        "catalog": "supervisor",
        **keys,
    }
    return (
        MINIMAL
        + "[[upstreams]]\n"
        + "".join(f'{key} = "{value}"\n' for key, value in row.items() if value)
    )
