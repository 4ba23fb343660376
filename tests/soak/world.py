"""What the soak runs: a provider, a luigid, a supervisord, and the gate with two processes before them, its journal on a small disk."""

import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

from proxy.edge.self_signed import make_self_signed
from proxy.identity.local import LocalIssuer
from tests.e2e.stack import accepts, table
from tests.e2e.stage import POLICIES, ROOT, Client, Process, clean_environment, free_port, until
from tests.e2e.test_supervisor import Supervisord

from .issuer import AUDIENCE, Provider

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
        lines = ["[scheduler]", f"state_path = {directory}/state.pickle", "remove_delay = 86400", "retry_delay = 1"]
        (directory / "luigid.cfg").write_text("\n".join([*lines, "prune_on_get_work = true", ""]))
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        start = "from luigi.cmdline import luigid; luigid()"
        command = [sys.executable, "-W", "ignore", "-c", start, "--address", "127.0.0.1", "--port", str(self.port)]
        environment = clean_environment(LUIGI_CONFIG_PATH=str(self.directory / "luigid.cfg"))
        self.process = Process(command, self.directory, "luigid", environment)
        self.process.until_ready(lambda: Client(self.port).send("HEAD", "/").status == 204)

    def tasks(self) -> set[str]:
        """The ids of all tasks that it knows."""
        return set(Client(self.port).call("task_list", status="", upstream_status="", limit=False).result)


class World:
    """All of it, in one directory."""

    def __init__(self, directory: Path, disk_megabytes: int) -> None:
        """Start everything and wait until the gate is ready. Without a disk of its own for the journal, `disk` says why."""
        self.directory = directory
        for name in ("provider", "gate", "s"):
            (directory / name).mkdir()
        self.audit = directory / "audit"
        self.disk = self._mount(disk_megabytes)
        self.provider = Provider(directory / "provider")
        self.luigid = Luigid(directory / "luigid")
        self.supervisord = Supervisord(directory / "s")
        self.local = LocalIssuer(directory / "gate" / "issuer")
        self.local.prepare(time.time())
        self.ca = make_self_signed(("localhost", "127.0.0.1"), directory / "gate", now=time.time()).ca
        self.context = ssl.create_default_context(cafile=str(self.ca))
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.policies = directory / "policies"
        shutil.copytree(POLICIES, self.policies)
        with (self.policies / "roles.toml").open("a") as roles:
            roles.write("".join(_ROLES.format(role=role) for role in ("viewer", "worker", "operator")))
        self.settings = directory / "gate" / "callgate.toml"
        self.settings.write_text(self._settings())
        self.gate: Process
        self.start_gate()

    def _mount(self, megabytes: int) -> str:
        """Give the journal a small file system; an empty text, or why there is none."""
        self.audit.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(self.audit)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"mount cannot be run: {error.strerror}"
        return "" if done.returncode == 0 else "a small file system cannot be mounted here (it takes root)"

    def _settings(self) -> str:
        luigid, socket = f"http://127.0.0.1:{self.luigid.port}", f"unix:{self.directory}/s/s.sock"
        processes = {"name": "processes", "protocol": "xmlrpc", "catalog": "supervisor", "url": socket, "prefix": "/processes"}
        provider = {"name": "idp", "issuer": self.provider.issuer, "audience": AUDIENCE, "ca_file": self.provider.ca}
        parts = [
            table("[listen]", {"address": "127.0.0.1", "port": self.port, "processes": PROCESSES}),
            table("[tls]", {"certificate": "tls.crt", "key": {"file": "tls.key"}}),
            table("[local_issuer]", {"directory": "issuer"}),
            table("[[issuers]]", provider),
            table("[[upstreams]]", {"name": "luigi", "protocol": "luigi", "url": luigid, "prefix": "/"}),
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
        self.gate.until_ready(lambda: Client(self.port, self.context).send("GET", "/-/readyz").status == 200)

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
        return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=600, check=False)

    def stop(self) -> None:
        """End everything that still runs, and give the disk back."""
        for process in (self.gate, self.luigid.process, self.supervisord.process):
            if process.running:
                process._process.send_signal(signal.SIGTERM)
        for process in (self.gate, self.luigid.process, self.supervisord.process):
            process.wait()
        self.provider.stop()
        if not self.disk:
            until(lambda: subprocess.run(["umount", str(self.audit)], capture_output=True, check=False).returncode == 0, "the disk is free")


__all__ = ["PROCESSES", "Luigid", "World", "accepts"]
