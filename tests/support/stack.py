"""A gate with any upstreams, policies and limits: started, killed, restarted, and its journal.

It is a process of its own. `stage` has the fixed one, with luigids behind it.
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
    """Return whether `port` accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@cache
def _certificate(directory: Path) -> ssl.SSLContext:
    """Make a certificate in `directory`, and return a context that trusts it."""
    made = make_self_signed(("localhost", "127.0.0.1"), directory, now=time.time())
    return ssl.create_default_context(cafile=str(made.ca))


def toml(value: object) -> str:
    """Return a value as TOML."""
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
    """Return a table of the settings as TOML."""
    return "\n".join([name, *(f"{key} = {toml(value)}" for key, value in values.items())]) + "\n"


class Gate(Client):
    """A gate in a process of its own, its directory, and a client of it."""

    def __init__(
        self,
        directory: Path,
        upstreams: Sequence[Mapping[str, object]],
        *,
        policies: Path = POLICIES,
        limits: Mapping[str, object] | None = None,
        tls: bool = True,
    ) -> None:
        """Write the settings; `start` starts it. Without `tls` it listens on plain HTTP."""
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
        """Start it without waiting."""
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
        """Send a signal, wait for the end, and return the exit code."""
        os.kill(self.process.pid, number)
        return self.process.wait()

    def serving(self) -> int:
        """Return the one serving process; the process that was started supervises it."""
        pid = self.process.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return int(child)

    def kill(self) -> None:
        """Kill supervisor and serving process at once, as a power failure would."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.kill(self.serving(), signal.SIGKILL)
        self.process.kill()

    def token(self, role: str) -> str:
        """Return a token of ``<role>-1`` in the group of the role; `stranger` is in no group."""
        if role not in self._tokens:
            self._tokens[role] = self.issuer.issue(
                f"{role}-1", [] if role == "stranger" else [role], 3600, time.time()
            )
        return self._tokens[role]

    @staticmethod
    def now() -> float:
        """Return Unix seconds."""
        return time.time()

    def ask(
        self, path: str, role: str | None, body: bytes = b"", *, kind: str = FORM, **headers: str
    ) -> Response:
        """POST `body` as `role`, or without a credential.

        `headers` are written with ``_`` for ``-``.
        """
        sent = {"Content-Type": kind} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.send("POST", path, body, sent, None if role is None else self.token(role))

    def proxy(self, path: str, role: str | None, **options: Any) -> Any:
        """Return CPython's own XML-RPC client."""
        headers = [] if role is None else [("Authorization", f"Bearer {self.token(role)}")]
        return xmlrpc.client.ServerProxy(
            self.url + path, headers=headers, context=self.context, **options
        )

    def records(self) -> list[Record]:
        """Return every record of the journal."""
        return [members_of(item.raw) for item in read_all(self.audit)]

    def _settled(self, since: int) -> list[Record] | None:
        """Return the records after the first `since`, if each allowed call of them is completed."""
        found = self.records()[since:]
        allowed = {r["seq"] for r in found if r.get("decision") == "allow" and "window" not in r}
        done = {r["decided_seq"] for r in found if r["stage"] == "completed"}
        return found if allowed <= done else None

    def mark(self) -> int:
        """Return the number of records, once every call and rejection is recorded.

        Rejections are written a moment after the response, so one more is made and waited for.
        """
        last = self.ask("/", None).ref
        until(
            lambda: any(r.get("id") == last for r in self.records()),
            "the last rejection was recorded",
        )
        return len(until(lambda: self._settled(0), "every allowed call had its completed record"))

    def calls(self, since: int = 0) -> list[Record]:
        """Return the records about requests after the first `since`, at least one.

        Waits until every allowed call of them is completed.
        """

        def about_calls() -> list[Record]:
            return [
                r
                for r in self._settled(since) or ()
                if r["stage"] in ("decided", "completed", "rejected")
            ]

        return until(about_calls, "every allowed call had its completed record")

    def written(self) -> bytes:
        """Return the bytes of the journal and of the log."""
        return b"\n".join(item.raw for item in read_all(self.audit)) + self.process.log.read_bytes()

    def peak_memory(self) -> int:
        """Return VmHWM, the peak memory of the serving process, in bytes."""
        status = Path(f"/proc/{self.serving()}/status").read_text(encoding="ascii")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024


def only(records: Sequence[Record], **members: object) -> Record:
    """Return the one record with these members."""
    found = [r for r in records if all(r.get(name) == value for name, value in members.items())]
    assert len(found) == 1, (
        members,
        [(r["stage"], r.get("method"), r.get("reason")) for r in records],
    )
    return found[0]
