"""Real luigid processes, the real gate, and plain clients of both, for end-to-end tests.

Everything listens on 127.0.0.1, on ports that were free a moment before. Waiting is polling for a
condition with a deadline; a process that ends early fails the wait with the end of its log.
"""

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from proxy.audit.reading.reader import read_all
from proxy.audit.reading.records import members_of
from proxy.cli.demo.certificate import make_self_signed
from proxy.identity.local_issuer import LocalIssuer
from tests.support.paths import ROOT

POLICIES = ROOT / "policies"
FORM = "application/x-www-form-urlencoded"
DEADLINE_SECONDS = 30.0
_PAUSE_SECONDS = 0.02

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Return the first true value of `condition`, polled until the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(_PAUSE_SECONDS)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def clean_environment(**extra: str) -> dict[str, str]:
    """Return the environment of child processes: no proxies, no netrc, no settings of luigi."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "HOME": "/nonexistent",
        **extra,
    }


_REFUSAL = re.compile(r"\[([a-z-]+), ref (\w+)\]")


@dataclass
class Response:
    """One HTTP response, read to its end; `source` is the address of the client."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    source: str

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        """Return the result of luigid's method."""
        assert self.status == 200, (self.status, self.reason, self.body[:300])
        return self.json["response"]

    @property
    def refused(self) -> str:
        """Return the reason code, the same in the body and in the reason phrase."""
        assert self.status >= 400, (self.status, self.body[:300])
        found = _REFUSAL.search(self.reason)
        assert found is not None, self.reason
        if self.headers.get("content-type", "").startswith("application/json"):
            error = self.json["error"]
            assert (error["reason"], error["ref"]) == (found[1], found[2])
        else:
            assert found[0].encode() in self.body
        return found[1]

    @property
    def ref(self) -> str:
        """Return the reference of a refusal."""
        found = _REFUSAL.search(self.reason)
        assert found is not None, self.reason
        return found[2]


@dataclass
class Process:
    """A child process with its log in a file."""

    command: Sequence[str]
    directory: Path
    name: str
    environment: Mapping[str, str] = field(default_factory=clean_environment)

    def __post_init__(self) -> None:
        """Start it."""
        self.log = self.directory / f"{self.name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.directory, env=self.environment, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether it has not ended."""
        return self._process.poll() is None

    def text(self) -> str:
        """Return its output so far."""
        return self.log.read_text(errors="replace")

    def until_ready(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` is true; a process that ends before fails at once."""

        def asked() -> bool:
            assert self.running, f"{self.name} ended:\n{self.text()[-3000:]}"
            try:
                return ready()
            except OSError:
                return False

        until(asked, f"{self.name} is ready; its log:\n{self.text()[-3000:]}")

    def wait(self, seconds: float = 60.0) -> int:
        """Return its exit code, once it has ended."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{self.name} did not end within {seconds:g} s:\n{self.text()[-3000:]}"
            ) from None

    def stop(self) -> int:
        """Send SIGTERM, and return its exit code."""
        if self.running:
            self._process.terminate()
        return self.wait()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._process.wait()


class Client:
    """A plain HTTP client of one server, with a new connection for every request.

    `context` is None for plain HTTP. Every request comes from another loopback address, because the
    journal summarises the rejections of one address.
    """

    _sources = cycle([f"127.0.0.{number}" for number in range(2, 250)])

    def __init__(self, port: int, context: ssl.SSLContext | None = None, prefix: str = "") -> None:
        """Open no connection yet."""
        self.port = port
        self.context = context
        self.prefix = prefix

    def send(
        self,
        verb: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Response:
        """Send one request, with its target exactly as given after the prefix."""
        source = next(self._sources)
        connection: http.client.HTTPConnection
        if self.context is None:
            connection = http.client.HTTPConnection(
                "127.0.0.1", self.port, DEADLINE_SECONDS, (source, 0)
            )
        else:
            connection = http.client.HTTPSConnection(
                "localhost",
                self.port,
                timeout=DEADLINE_SECONDS,
                source_address=(source, 0),
                context=self.context,
            )
        try:
            connection.putrequest(verb, self.prefix + target, skip_accept_encoding=True)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            if token is not None:
                connection.putheader("Authorization", f"Bearer {token}")
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Response(
                answer.status,
                answer.reason,
                {k.lower(): v for k, v in answer.getheaders()},
                answer.read(),
                source,
            )
        finally:
            connection.close()

    def get(
        self, target: str, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """GET a page."""
        return self.send("GET", target, None, headers, token)

    def call(self, method: str, token: str | None = None, **args: Any) -> Response:
        """Call a method as a stock worker does."""
        return self.send(
            "POST",
            f"/api/{method}",
            urlencode({"data": json.dumps(args)}).encode(),
            {"Content-Type": FORM},
            token,
        )


class Luigid(Client):
    """A real luigid with its task history in sqlite, and a client of it."""

    def __init__(self, directory: Path, **scheduler: object) -> None:
        """Start it and wait until it answers; `scheduler` goes to luigi's ``[scheduler]``."""
        super().__init__(free_port())
        directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "state_path": directory / "state.pickle",
            "record_task_history": "true",
            **scheduler,
        }
        lines = ["[scheduler]", *(f"{name} = {value}" for name, value in settings.items())]
        lines += ["[task_history]", f"db_connection = sqlite:///{directory}/history.db"]
        (directory / "luigid.cfg").write_text("\n".join(lines) + "\n")
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
        self.process = Process(
            command,
            directory,
            "luigid",
            clean_environment(LUIGI_CONFIG_PATH=str(directory / "luigid.cfg")),
        )
        self.process.until_ready(lambda: self.send("HEAD", "/").status == 204)

    @property
    def url(self) -> str:
        """Return its URL for workers."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def paused(self) -> bool:
        """Return whether it is paused."""
        paused: bool = self.call("is_paused").result["paused"]
        return paused

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return every task by its id."""
        tasks: dict[str, dict[str, Any]] = self.call(
            "task_list", status="", upstream_status=""
        ).result
        return tasks

    def status(self, task_id: str) -> str:
        """Return the status of a task, or an empty string."""
        task: dict[str, Any] = self.tasks().get(task_id, {})
        return str(task.get("status", ""))

    def stop(self) -> None:
        """Stop it."""
        self.process.kill()


class Gate(Client):
    """The real gate as a process: TLS, shipped policies, the local issuer, upstreams by prefix."""

    def __init__(
        self,
        directory: Path,
        upstreams: Mapping[str, Luigid],
        *,
        cedar: str = "",
        roles: str = "",
        settings: str = "",
    ) -> None:
        """Start it and wait until it is ready.

        `upstreams` are luigids by prefix (``/``, ``/team-a``). `cedar` and `roles` are added to a
        copy of the shipped policies, `settings` to the settings.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        files = make_self_signed(("localhost", "127.0.0.1"), directory, now=time.time())
        self.ca = files.ca
        super().__init__(free_port(), ssl.create_default_context(cafile=str(files.ca)))
        self.issuer = LocalIssuer(directory / "issuer")
        self.issuer.prepare(time.time())
        self._tokens: dict[tuple[str, tuple[str, ...]], str] = {}
        shutil.copytree(POLICIES, directory / "policies")
        if cedar:
            (directory / "policies" / "added.cedar").write_text(cedar)
        if roles:
            with (directory / "policies" / "roles.toml").open("a") as file:
                file.write(roles)
        text = _SETTINGS.format(port=self.port) + settings
        for number, (prefix, luigid) in enumerate(upstreams.items()):
            name = "luigi" if prefix == "/" else f"luigi-{number}"
            text += f'\n[[upstreams]]\nname = "{name}"\nprotocol = "luigi"\n'
            text += f'url = "{luigid.url.rstrip("/")}"\npath_prefix = "{prefix}"\n'
        (directory / "callgate.toml").write_text(text)
        command = [
            sys.executable,
            "-m",
            "proxy.cli.main",
            "serve",
            "--config",
            str(directory / "callgate.toml"),
        ]
        self.process = Process(command, directory, "gate")
        self.process.until_ready(lambda: self.send("GET", "/-/readyz").status == 200)

    def token(self, subject: str, *groups: str, ttl: int = 3600) -> str:
        """Return a token; `groups` are roles, by default the one in the subject's name."""
        key = (subject, groups or (subject,))
        if key not in self._tokens:
            self._tokens[key] = self.issuer.issue(subject, key[1], ttl, time.time())
        return self._tokens[key]

    def url(self, prefix: str = "/", token: str = "") -> str:
        """Return its URL for workers, with the token if one is given."""
        return f"https://{'jwt:' + token + '@' if token else ''}localhost:{self.port}{prefix}"

    def under(self, prefix: str) -> Client:
        """Return a client of the upstream at `prefix`."""
        return Client(self.port, self.context, prefix)

    def records(self) -> list[dict[str, Any]]:
        """Return the journal so far, without the records about the log itself."""
        records = [members_of(item.raw) for item in read_all(self.directory / "audit")]
        return [
            record for record in records if record["stage"] in ("decided", "completed", "rejected")
        ]

    def written(self) -> bytes:
        """Return the bytes of all records, those of compressed segments too."""
        written = b"\n".join(item.raw for item in read_all(self.directory / "audit"))
        assert written, "nothing is in the journal"
        return written

    def record(self, ref: str, stage: str) -> dict[str, Any]:
        """Return the record of one request, once it is written.

        A record that needs no durability before the response is written a moment later.
        """

        def find() -> dict[str, Any] | None:
            return next(
                (r for r in self.records() if r.get("id") == ref and r["stage"] == stage), None
            )

        return until(find, f"there is a {stage} record of {ref}")

    def recorded(self, **wanted: object) -> dict[str, Any]:
        """Return the last record with these values, once it is written."""

        def find() -> dict[str, Any] | None:
            return next(
                (
                    r
                    for r in reversed(self.records())
                    if all(r.get(name) == value for name, value in wanted.items())
                ),
                None,
            )

        return until(find, f"there is a record with {wanted}")

    def denied(self, answer: Response, reason: str, principal: str, method: str) -> None:
        """Assert that `answer` is the denial of a call, and that the journal agrees."""
        assert (answer.status, answer.refused) == (403, reason)
        record = self.record(answer.ref, "decided")
        assert (record["decision"], record["reason"], record["method"]) == ("deny", reason, method)
        assert (record["principal"]["subject"], record["peer"]["address"]) == (
            principal,
            answer.source,
        )

    def rejected(self, answer: Response, reason: str, principal: str | None) -> None:
        """Assert that `answer` rejects a request, and that the journal agrees."""
        assert answer.refused == reason
        record = self.record(answer.ref, "rejected")
        assert (record["reason"], record["peer"]["address"]) == (reason, answer.source)
        assert (record.get("principal") or {}).get("subject") == principal

    def stop(self) -> None:
        """Stop it; the exit code has to be 0, and its log without an internal error."""
        code = self.process.stop()
        assert code == 0, self.process.text()[-3000:]
        assert "internal error" not in self.process.text()


_SETTINGS = """\
[[listeners]]
address = "127.0.0.1"
port = {port}
certificate = "tls.crt"
key = {{ file = "tls.key" }}
[local_issuer]
directory = "issuer"
[policy]
directory = "policies"
[metrics]
port = 0
[audit]
directory = "audit"
"""


# -- workers


SUMMARY = re.compile(
    r"===== Luigi Execution Summary =====\n(.*?)\n===== Luigi Execution Summary =====", re.DOTALL
)
NO_REQUESTS = 'raise ImportError("hidden by the test")\n'


class Worker(Process):
    """An unmodified ``luigi`` process with the tasks of `tests/e2e/tasks`."""

    def __init__(
        self,
        directory: Path,
        url: str,
        arguments: Sequence[str],
        *,
        requests: bool = True,
        ca: Path | None = None,
        netrc: Path | None = None,
        settings: str = "",
    ) -> None:
        """Start it; `requests` False hides that library, `settings` go to its ``luigi.cfg``."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT / "tests" / "e2e" / "tasks")]
        if not requests:
            (directory / "hide").mkdir()
            (directory / "hide" / "requests.py").write_text(NO_REQUESTS)
            paths.insert(0, str(directory / "hide"))
        (directory / "luigi.cfg").write_text(_WORKER_SETTINGS.format(url=url) + settings)
        environment = clean_environment(
            LUIGI_CONFIG_PATH=str(directory / "luigi.cfg"), PYTHONPATH=os.pathsep.join(paths)
        )
        if ca is not None:
            environment["REQUESTS_CA_BUNDLE" if requests else "SSL_CERT_FILE"] = str(ca)
        if netrc is not None:
            environment["NETRC"] = str(netrc)
        start = "import sys; from luigi.cmdline import luigi_run; luigi_run(sys.argv[1:])"
        command = [sys.executable, "-W", "ignore", "-c", start, *arguments]
        super().__init__(command, directory, "worker", environment)

    def summary(self) -> dict[str, int]:
        """Return the counts of the execution summary, ``{"ran successfully": 40, ...}``."""
        found = SUMMARY.search(self.text())
        assert found is not None, self.text()[-3000:]
        counts = re.findall(r"^ *\* (\d+) ([^:\n]+):$", found[1], re.MULTILINE)
        total = re.search(r"Scheduled (\d+) tasks", found[1])
        assert total is not None
        return {"scheduled": int(total[1]), **{words: int(number) for number, words in counts}}


def write_netrc(path: Path, token: str) -> Path:
    """Replace a netrc at once, because a worker may read it at any moment."""
    fresh = path.with_suffix(".new")
    fresh.write_text(f"machine localhost login jwt password {token}\n")
    fresh.chmod(0o600)
    fresh.replace(path)
    return path


def basic(token: str, user: str = "jwt") -> str:
    """Return the value of an Authorization header with the token as the password."""
    return "Basic " + b64encode(f"{user}:{token}".encode()).decode()


_WORKER_SETTINGS = """\
[core]
default_scheduler_url = {url}
rpc-retry-wait = 0
[worker]
wait_interval = 0.05
wait_jitter = 0.05
ping_interval = 0.5
keep_alive = true
"""
