"""What the soak runs: a provider, a luigid, a supervisord, and the gate with two processes before
them, its journal on a small disk.
"""

import contextlib
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from proxy.cli.demo.certificate import make_self_signed
from proxy.identity.local_issuer import LocalIssuer
from tests.e2e.test_supervisor import Supervisord
from tests.soak.issuer import AUDIENCE, Provider
from tests.support.paths import ROOT
from tests.support.stack import accepts, table
from tests.support.stage import POLICIES, Client, Process, clean_environment, free_port, until

PROCESSES = 2
_ROLES = """
[[roles.{role}]]
issuer = "idp"
group = "{role}"
"""


class Luigid:
    """A real luigid that keeps its port and its state when it is started again."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = free_port()
        self.log = directory / "luigid.log"
        lines = [
            "[scheduler]",
            f"state_path = {directory}/state.pickle",
            "remove_delay = 86400",
            "retry_delay = 1",
        ]
        (directory / "luigid.cfg").write_text("\n".join([*lines, "prune_on_get_work = true", ""]))
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        start = "from luigi.cmdline import luigid; luigid()"
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            start,
            "--address",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        environment = clean_environment(LUIGI_CONFIG_PATH=str(self.directory / "luigid.cfg"))
        self.process = Process(command, self.directory, "luigid", environment)
        self.process.until_ready(lambda: Client(self.port).send("HEAD", "/").status == 204)

    def tasks(self) -> set[str]:
        """The ids of all tasks that it knows."""
        return set(
            Client(self.port).call("task_list", status="", upstream_status="", limit=False).result
        )


class World:
    """All of it, in one directory."""

    def __init__(self, directory: Path) -> None:
        """Start nothing yet."""
        self.directory = directory
        self.audit = directory / "audit"
        self.disk = "not mounted"
        self._started: list[Callable[[], object]] = []  # what ends each thing that was started

    def start(self, disk_megabytes: int) -> None:
        """Start everything and wait until the gate is ready. Without a disk of its own for the
        journal, `disk` says why.
        """
        directory = self.directory
        for name in ("provider", "gate", "s"):
            (directory / name).mkdir()
        self.disk = self._mount(disk_megabytes)
        self.provider = Provider(directory / "provider")
        self._started.append(self.provider.stop)
        self.luigid = Luigid(directory / "luigid")
        self._started.append(lambda: self.luigid.process.stop())  # whichever it is by then
        self.supervisord = Supervisord(directory / "s")
        self._started.append(self.supervisord.process.stop)
        self.local = LocalIssuer(directory / "gate" / "issuer")
        self.local.prepare(time.time())
        self.ca = make_self_signed(
            ("localhost", "127.0.0.1"), directory / "gate", now=time.time()
        ).ca
        self.context = ssl.create_default_context(cafile=str(self.ca))
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.policies = directory / "policies"
        shutil.copytree(POLICIES, self.policies)
        with (self.policies / "roles.toml").open("a") as roles:
            roles.write(
                "".join(_ROLES.format(role=role) for role in ("viewer", "worker", "operator"))
            )
        self.settings = directory / "gate" / "callgate.toml"
        for path in (self.policies, *self.policies.rglob("*")):
            # whatever the umask was when this was checked out
            path.chmod(path.stat().st_mode & ~0o022)
        self.settings.write_text(self._settings())
        self.gate: Process
        self._started.append(lambda: self.gate.stop())  # likewise
        self.start_gate()

    def _mount(self, megabytes: int) -> str:
        """Give the journal a small file system; an empty text, or why there is none."""
        self.audit.mkdir(mode=0o700)
        command = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={megabytes}m,mode=700",
            "tmpfs",
            str(self.audit),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"mount cannot be run: {error.strerror}"
        if done.returncode:
            return "a small file system cannot be mounted here (it takes root)"
        self._started.append(lambda: until(self._unmount, "the disk is free"))
        return ""

    def _unmount(self) -> bool:
        return (
            subprocess.run(["umount", str(self.audit)], capture_output=True, check=False).returncode
            == 0
        )

    def _settings(self) -> str:
        luigid, socket = f"http://127.0.0.1:{self.luigid.port}", f"unix:{self.directory}/s/s.sock"
        processes = {
            "name": "processes",
            "protocol": "xmlrpc",
            "catalog": "supervisor",
            "url": socket,
            "path_prefix": "/processes",
        }
        provider = {
            "name": "idp",
            "issuer": self.provider.issuer,
            "audiences": [AUDIENCE],
            "ca_file": self.provider.ca,
        }
        listener = {
            "address": "127.0.0.1",
            "port": self.port,
            "certificate": "tls.crt",
            "key": {"file": "tls.key"},
        }
        parts = [
            f"processes = {PROCESSES}\n",
            table("[[listeners]]", listener),
            table("[local_issuer]", {"directory": "issuer"}),
            table("[[issuers]]", provider),
            table(
                "[[upstreams]]",
                {"name": "luigi", "protocol": "luigi", "url": luigid, "path_prefix": "/"},
            ),
            table("[[upstreams]]", processes),
            table("[policy]", {"directory": self.policies}),
            table("[audit]", {"directory": self.audit}),
            table("[metrics]", {"port": 0}),
        ]
        return "\n".join(parts)

    def start_gate(self) -> None:
        """Start the gate and wait until it serves."""
        command = [sys.executable, "-m", "proxy.cli.main", "serve", "--config", str(self.settings)]
        self.gate = Process(command, self.directory / "gate", "gate")
        self.gate.until_ready(
            lambda: Client(self.port, self.context).send("GET", "/-/readyz").status == 200
        )

    def serving(self) -> list[int]:
        """The serving processes of the gate."""
        try:
            text = Path(f"/proc/{self.gate.pid}/task/{self.gate.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in text.split()]

    def callgate(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end."""
        command = [sys.executable, "-m", "proxy.cli.main", *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def stop(self) -> None:
        """End everything that was started, the last first, and give the disk back."""
        with contextlib.ExitStack() as ends:
            for end in self._started:
                ends.callback(end)


__all__ = ["PROCESSES", "Luigid", "World", "accepts"]
