"""The schedulers that the demo starts: each in a process group of its own, and none left behind.

Their own group keeps a Ctrl-C at the terminal from reaching them: the demo ends them itself, after
the gate has finished the calls it has in hand.
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
    """One started process, which runs in the demo's directory; its output goes to `log`."""

    def __init__(
        self, kind: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str]
    ) -> None:
        """Start it in the directory of its log."""
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
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The end of its log, to show when it would not start."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    async def stop(self) -> None:
        """Ask it to end, and make sure that its whole group has."""
        if self.ended is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        with suppress(ProcessLookupError):  # that the group is empty is what should be
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
    """Say whether a server could listen on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
