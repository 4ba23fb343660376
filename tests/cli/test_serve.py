import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installation import SETTINGS, install
from tests.support.paths import ROOT

pytestmark = pytest.mark.process  # starts the command, or another program


def serve(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run ``callgate serve`` in `directory` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", "serve"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_problem_of_the_settings_is_listed(tmp_path: Path) -> None:
    """Each has its location and a hint, and there is no traceback."""
    (tmp_path / "callgate.toml").write_text("[[listeners]]\nprt = 1\n")
    done = serve(tmp_path)
    assert done.returncode == 2
    assert (
        "callgate.toml:2: listeners[0].prt: is not a known key\n    Did you mean port?"
        in done.stderr
    )
    assert "callgate.toml: upstreams: no upstream is configured" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """The commonest failure of valid settings is one line with address and port."""
    install(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = SETTINGS.replace("[[listeners]]\n", f"[[listeners]]\nport = {port}\n")
        (tmp_path / "callgate.toml").write_text(f"{text}[metrics]\nport = 0\n")
        done = serve(tmp_path)
    assert done.returncode == 2
    assert f"cannot serve on 127.0.0.1 port {port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_gate_with_the_same_settings_is_refused(tmp_path: Path) -> None:
    """The status file belongs to one supervisor."""
    from proxy.runtime.supervision.status_file import StatusFile

    install(tmp_path)
    running = StatusFile(tmp_path / "audit" / "gate.status")
    try:
        done = serve(tmp_path)
    finally:
        running.close()
    assert done.returncode == 2
    assert done.stderr.startswith(f"callgate: cannot serve: {tmp_path / 'audit'}: ")
    assert done.stderr.count("\n") == 1
