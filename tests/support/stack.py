"""A gate before any upstreams: started, killed and started again as a real process, asked, and its
journal read.

What this adds to `stage`: upstreams of either protocol, policies and limits of the test's own, and
restarts.
"""

import os
import re
import signal
import socket
import ssl
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from proxy.audit.reading.reader import read_all
from proxy.audit.reading.records import members_of
from proxy.cli.demo.certificate import make_self_signed
from proxy.identity.local_issuer import LocalIssuer
from tests.support.stage import FORM, POLICIES, Client, Process, Response, free_port, until

Record = dict[str, Any]


def accepts(port: int) -> bool:
    """Say whether somebody listens on `port`."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@cache
def _certificate(directory: Path) -> ssl.SSLContext:
    """Make a certificate in `directory`; give what trusts it."""
    made = make_self_signed(("localhost", "127.0.0.1"), directory, now=time.time())
    return ssl.create_default_context(cafile=str(made.ca))


def toml(value: object) -> str:
    """Write a value of the settings."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    return (
        str(value)
        if isinstance(value, int | float)
        else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    )


def table(name: str, values: Mapping[str, object]) -> str:
    """Write a table of the settings."""
    return "\n".join([name, *(f"{key} = {toml(value)}" for key, value in values.items())]) + "\n"


class Gate(Client):
    """A gate in a process of its own, its directory, and whatever a client of it needs."""

    def __init__(
        self,
        directory: Path,
        upstreams: Sequence[Mapping[str, object]],
        *,
        policies: Path = POLICIES,
        limits: Mapping[str, object] | None = None,
        tls: bool = True,
    ) -> None:
        """Write the settings; `start` starts it. `tls` False listens without TLS, for tests about
        something else.
        """
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(free_port(), _certificate(directory) if tls else None)
        self.directory = directory
        self.audit = directory / "audit"
        self.settings = directory / "callgate.toml"
        self.issuer = LocalIssuer(directory / "issuer")
        self.issuer.prepare(time.time())
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"
        self.process: Process
        self._tokens: dict[str, str] = {}
        transport: Mapping[str, object] = {"plain_http": True}
        if tls:
            transport = {"certificate": "tls.crt", "key": {"file": "tls.key"}}
        parts = [
            table("[[listeners]]", {"address": "127.0.0.1", "port": self.port, **transport}),
            table("[local_issuer]", {"directory": "issuer"}),
            *(table("[[upstreams]]", upstream) for upstream in upstreams),
            table("[policy]", {"directory": policies}),
            table("[audit]", {"directory": "audit"}),
            table("[limits]", limits or {}),
            table("[metrics]", {"port": 0}),
        ]
        self.settings.write_text("\n".join(parts), encoding="utf-8")

    def launch(self) -> None:
        """Start it, and do not wait."""
        command = [sys.executable, "-m", "proxy.cli.main", "serve", "--config", str(self.settings)]
        self.process = Process(command, self.directory, "gate")

    def start(self) -> "Gate":
        """Start it, and wait until it is ready."""
        self.launch()
        self.until_ready()
        return self

    def until_ready(self) -> None:
        """Wait until it serves."""
        self.process.until_ready(lambda: self.get("/-/readyz").status == 200)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        os.kill(self.process.pid, number)
        return self.process.wait()

    def serving(self) -> int:
        """The one process that serves; the one that was started only looks after it."""
        pid = self.process.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return int(child)

    def kill(self) -> None:
        """End all of it at once, as when the machine dies: nobody is left to hand over or to finish
        anything.
        """
        os.kill(self.process.pid, signal.SIGSTOP)
        os.kill(self.serving(), signal.SIGKILL)
        self.process.kill()

    def token(self, role: str) -> str:
        """A token for ``<role>-1``, whose one group is named after the role; ``stranger`` has a
        good token and no group.
        """
        if role not in self._tokens:
            self._tokens[role] = self.issuer.issue(
                f"{role}-1", [] if role == "stranger" else [role], 3600, time.time()
            )
        return self._tokens[role]

    @staticmethod
    def now() -> float:
        """Unix seconds."""
        return time.time()

    def ask(
        self, path: str, role: str | None, body: bytes = b"", *, kind: str = FORM, **headers: str
    ) -> Response:
        """POST `body`; `headers` are written with ``_`` for ``-``, and `role` None sends no
        credential.
        """
        sent = {"Content-Type": kind} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.send("POST", path, body, sent, None if role is None else self.token(role))

    def proxy(self, path: str, role: str | None, **options: Any) -> Any:
        """CPython's own XML-RPC client."""
        headers = [] if role is None else [("Authorization", f"Bearer {self.token(role)}")]
        return xmlrpc.client.ServerProxy(
            self.url + path, headers=headers, context=self.context, **options
        )

    def records(self) -> list[Record]:
        """The journal, read as an auditor's program would."""
        return [members_of(item.raw) for item in read_all(self.audit)]

    def _settled(self, since: int) -> list[Record] | None:
        """The records after the first `since`, when every allowed call among them is completed."""
        found = self.records()[since:]
        allowed = {r["seq"] for r in found if r.get("decision") == "allow" and "window" not in r}
        done = {r["decided_seq"] for r in found if r["stage"] == "completed"}
        return found if allowed <= done else None

    def mark(self) -> int:
        """How many records there are, once all is at rest; to look at later ones alone.

        Rejections are written a moment after their answer, so one more is made, and waited for.
        """
        last = self.ask("/", None).json["error"]["ref"]
        until(
            lambda: any(r.get("id") == last for r in self.records()),
            "the last rejection was recorded",
        )
        return len(until(lambda: self._settled(0), "every allowed call had its completed record"))

    def calls(self, since: int = 0) -> list[Record]:
        """The records about requests after the first `since`, at least one, once every allowed call
        among them is completed.
        """

        def about_calls() -> list[Record]:
            return [
                r
                for r in self._settled(since) or ()
                if r["stage"] in ("decided", "completed", "rejected")
            ]

        return until(about_calls, "every allowed call had its completed record")

    def written(self) -> bytes:
        """All that it has left on disk for people to read: the journal and its log."""
        return b"\n".join(item.raw for item in read_all(self.audit)) + self.process.log.read_bytes()

    def peak_memory(self) -> int:
        """VmHWM, the most memory that the serving process ever held, in bytes."""
        status = Path(f"/proc/{self.serving()}/status").read_text(encoding="ascii")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024


def only(records: Sequence[Record], **members: object) -> Record:
    """The one record with these members."""
    found = [r for r in records if all(r.get(name) == value for name, value in members.items())]
    assert len(found) == 1, (
        members,
        [(r["stage"], r.get("method"), r.get("reason")) for r in records],
    )
    return found[0]
