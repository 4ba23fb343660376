"""The files of a demo directory: what is kept between runs, and what is fresh at each start.

Kept: ``policies/`` (yours to edit), the issuer's keys, the certificate while it is valid, the audit
journal, luigid's state. Fresh: settings, the schedulers' configurations, tokens. Everything that
holds a credential has mode 0600.
"""

import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from proxy.cli.demo import child as demo_child
from proxy.cli.demo.certificate import make_self_signed
from proxy.cli.shipped import shipped_policies
from proxy.identity.local_issuer import LocalIssuer

DAY = 86400
HOSTNAMES = ("localhost", "127.0.0.1", "::1")
_RENEW_BEFORE = 7 * DAY
_LONGEST_SOCKET_PATH = 80  # of 107 bytes; supervisord adds a suffix while it opens it

GROUPS: dict[str, tuple[str, ...]] = {
    "viewer": ("viewer",),
    "worker": ("worker",),
    "operator": ("operator",),
    "admin": ("admin",),
    "agent": ("agent",),
    "stranger": (),
}
"""Who gets a token, and the groups in it; ``policies/roles.toml`` gives the groups their roles."""


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Where everything is. `directory` is absolute."""

    directory: Path
    port: int
    luigid_port: int
    metrics_port: int
    socket: Path

    @property
    def settings(self) -> Path:
        """The settings of the gate."""
        return self.directory / "callgate.toml"

    def token(self, who: str) -> str:
        """The token of one of `GROUPS`."""
        return (self.directory / "tokens" / f"{who}.jwt").read_text(encoding="ascii").strip()


def write_files(files: DemoFiles, *, now: float) -> None:
    """Write all that the demo needs into its directory. `now` is in Unix seconds."""
    directory = files.directory
    for part in ("tokens", "audit", "output"):
        (directory / part).mkdir(mode=0o700, exist_ok=True)
    if not (directory / "policies").exists():
        _copy_policies(directory / "policies")
    if not _still_valid(directory / "tls.crt", now):
        make_self_signed(HOSTNAMES, directory, now=now)
    _write(
        files.settings,
        _SETTINGS.format(
            port=files.port,
            luigid=files.luigid_port,
            metrics=files.metrics_port,
            socket=json.dumps(f"unix:{files.socket}"),
        ),
    )
    _write(directory / "luigid.cfg", _LUIGID)
    _write(directory / "luigi.cfg", _LUIGI.format(port=files.port))
    _write(directory / "demo_tasks.py", _TASKS)
    _write(directory / "supervisord.conf", _supervisord(files))
    _write_tokens(directory, now)


def socket_path(directory: Path) -> Path:
    """Choose where supervisord's socket goes: a socket's path has little room, so not every
    directory can hold it.
    """
    path = directory / "supervisor.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))  # noqa: S108  (the socket has mode 0700 wherever it is)
    return runtime / f"callgate-demo-{os.getuid()}-{os.getpid()}.sock"


def _copy_policies(to: Path) -> None:
    """Copy the shipped policies for their new owner alone to write: a clone made with another umask
    is open to its group.
    """
    shutil.copytree(shipped_policies(), to)
    for path in (to, *to.rglob("*")):
        path.chmod(path.stat().st_mode & 0o755 | 0o600)


def _still_valid(certificate: Path, now: float) -> bool:
    try:
        ends = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return False
    return certificate.with_suffix(".key").exists() and ends > datetime.fromtimestamp(
        now + _RENEW_BEFORE, UTC
    )


def _write_tokens(directory: Path, now: float) -> None:
    issuer = LocalIssuer(directory / "issuer")
    for who, groups in GROUPS.items():
        _write(
            directory / "tokens" / f"{who}.jwt", issuer.issue(who, groups, DAY, now) + "\n", 0o600
        )
    token = (directory / "tokens" / "worker.jwt").read_text(encoding="ascii").strip()
    _write(directory / "netrc", f"machine localhost login jwt password {token}\n", 0o600)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Put a whole file in place at once: a worker that runs across a restart must not read half a
    netrc.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(
        os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8"
    ) as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(text)
    fresh.replace(path)


def _supervisord(files: DemoFiles) -> str:
    def plain(text: object) -> str:
        return str(text).replace("%", "%%")  # supervisord would expand %(name)s

    text = _SUPERVISORD.format(socket=plain(files.socket))
    for name in ("cleaner", "mailer"):
        text += _PROGRAM.format(
            name=name,
            command=plain(shlex.join([sys.executable, "-P", demo_child.__file__, "program", name])),
        )
    return text


_SETTINGS = """\
# The demo's settings, written anew at each start. deploy/callgate.toml shows every key.
[listen]
address = "127.0.0.1"
port = {port}

[tls]
certificate = "tls.crt"
key = {{ file = "tls.key" }}

[local_issuer]
directory = "issuer"

[[upstreams]]
name = "luigi"
protocol = "luigi"
url = "http://127.0.0.1:{luigid}"

[[upstreams]]
name = "processes"
protocol = "xmlrpc"
url = {socket}
path_prefix = "/processes"
catalog = "supervisor"

[policy]
directory = "policies"

[audit]
directory = "audit"
name = "demo"

[metrics]
port = {metrics}
"""

_LUIGID = """\
# luigid's own configuration, written anew at each start. It runs in this directory.
[scheduler]
state_path = luigi-state.pickle
record_task_history = true

[task_history]
db_connection = sqlite:///luigi-history.db
"""

_LUIGI = """\
# For workers: LUIGI_CONFIG_PATH names this file, NETRC the token, REQUESTS_CA_BUNDLE the certificate to trust.
[core]
scheduler_url = https://localhost:{port}/
"""

_SUPERVISORD = """\
; supervisord's own configuration, written anew at each start. It runs in this directory.
[unix_http_server]
file = {socket}
chmod = 0700

[supervisord]
logfile = supervisord.log
pidfile = supervisord.pid

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """
[program:{name}]
command = {command}
stdout_logfile = {name}.log
redirect_stderr = true
stopasgroup = true
killasgroup = true
"""

_TASKS = '''\
"""A small pipeline to run through the gate: a report over four extracts. Each run has a number, so that it can be run again."""

from pathlib import Path

import luigi

OUTPUT = Path(__file__).parent / "output"


class Extract(luigi.Task):
    """Write one number."""

    run_number = luigi.Parameter()
    part = luigi.IntParameter()

    def output(self):
        return luigi.LocalTarget(OUTPUT / self.run_number / f"{self.part}.txt")

    def run(self):
        with self.output().open("w") as out:
            out.write(f"{self.part * self.part}\\n")


class Report(luigi.Task):
    """Add the numbers up."""

    run_number = luigi.Parameter()

    def requires(self):
        return [Extract(run_number=self.run_number, part=part) for part in range(1, 5)]

    def output(self):
        return luigi.LocalTarget(OUTPUT / self.run_number / "report.txt")

    def run(self):
        total = 0
        for part in self.input():
            with part.open() as lines:
                total += int(lines.read())
        with self.output().open("w") as out:
            out.write(f"{total}\\n")
'''
