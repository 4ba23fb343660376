"""The schedulers that the demo starts, each in a process group of its own.

The group keeps a Ctrl-C at the terminal from reaching them: the demo stops them itself, after the
proxy has finished its calls. Stopping one kills its whole group.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from proxy.cli.demo import child as demo_child

STOP_SECONDS = 10.0
_LOG_LINES = 12


class Child:
    """A started process. It runs in the directory of `log`, which gets its output."""

    def __init__(
        self, kind: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str]
    ) -> None:
        """Start ``child.py`` as `kind`, one of its functions."""
        self.name = kind
        self.log = log
        command = [sys.executable, "-P", demo_child.__file__, kind, str(os.getpid()), *arguments]
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  (our own file and arguments; no shell)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **environ},
                cwd=log.parent,
            )

    @property
    def ended(self) -> int | None:
        """The exit code, negative for a signal; None while it is running."""
        return self._process.poll()

    def log_tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    async def stop(self) -> None:
        """Send SIGTERM, then kill what is left of its group."""
        if self.ended is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        with suppress(ProcessLookupError):  # the group is empty already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def start_luigid(directory: Path, port: int) -> Child:
    """Start luigid on 127.0.0.1 with the configuration ``luigid.cfg`` in `directory`."""
    arguments = ["--address", "127.0.0.1", "--port", str(port)]
    return Child(
        "luigid",
        arguments,
        directory / "luigid.log",
        {"LUIGI_CONFIG_PATH": str(directory / "luigid.cfg")},
    )


def start_supervisord(directory: Path) -> Child:
    """Start supervisord with the configuration ``supervisord.conf`` in `directory`."""
    arguments = ["--nodaemon", "--configuration", str(directory / "supervisord.conf")]
    return Child("supervisord", arguments, directory / "supervisord.out", {})


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
