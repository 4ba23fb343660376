"""The files of a demo directory.

A start leaves ``policies/`` (to be edited), the issuer's keys, a valid certificate, the audit log
and luigid's state as they are. It writes settings, the schedulers' configurations and tokens anew.
Every file that holds a credential has mode 0600.
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
from proxy.cli.demo import texts
from proxy.cli.demo.certificate import make_self_signed
from proxy.cli.shipped import shipped_policies
from proxy.common.durable_files import replace_atomically
from proxy.identity.local_issuer import LocalIssuer

DAY = 86400
HOSTNAMES = ("localhost", "127.0.0.1", "::1")
_RENEW_BEFORE = 7 * DAY
# Bytes, of the 107 that the kernel permits: supervisord adds a suffix while it opens the socket.
_MAX_SOCKET_PATH = 80

GROUPS: dict[str, tuple[str, ...]] = {
    "viewer": ("viewer",),
    "worker": ("worker",),
    "operator": ("operator",),
    "admin": ("admin",),
    "agent": ("agent",),
    "stranger": (),
}
"""The subjects that get a token, with its groups. ``policies/roles.toml`` maps groups to roles."""


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """The ports and paths of one demo. `directory` is absolute."""

    directory: Path
    port: int
    luigid_port: int
    metrics_port: int
    socket: Path

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.directory / "callgate.toml"

    def token(self, who: str) -> str:
        """Return the token of one of `GROUPS`."""
        return (self.directory / "tokens" / f"{who}.jwt").read_text(encoding="ascii").strip()


def write_files(files: DemoFiles, *, now: float) -> None:
    """Write what the demo needs into its directory. `now` is in Unix seconds."""
    directory = files.directory
    for part in ("tokens", "audit", "output"):
        (directory / part).mkdir(mode=0o700, exist_ok=True)
    if not (directory / "policies").exists():
        _copy_policies(directory / "policies")
    if not _still_valid(directory / "tls.crt", now):
        make_self_signed(HOSTNAMES, directory, now=now)
    _write(
        files.settings,
        texts.SETTINGS.format(
            port=files.port,
            luigid=files.luigid_port,
            metrics=files.metrics_port,
            socket=json.dumps(f"unix:{files.socket}"),
        ),
    )
    _write(directory / "luigid.cfg", texts.LUIGID)
    _write(directory / "luigi.cfg", texts.LUIGI.format(port=files.port))
    _write(directory / "demo_tasks.py", texts.TASKS)
    _write(directory / "supervisord.conf", _supervisord(files))
    _write_tokens(directory, now)


def socket_path(directory: Path) -> Path:
    """Return a path for supervisord's socket: in `directory`, unless that path is too long."""
    path = directory / "supervisor.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))  # noqa: S108  (the socket has mode 0700 wherever it is)
    return runtime / f"callgate-demo-{os.getuid()}-{os.getpid()}.sock"


def _copy_policies(to: Path) -> None:
    """Copy the shipped policies, writable by their owner only whatever the umask of the clone."""
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
    # Atomic: a worker may read its netrc while the demo restarts.
    replace_atomically(path, text.encode(), mode)


def _supervisord(files: DemoFiles) -> str:
    def plain(text: object) -> str:
        return str(text).replace("%", "%%")  # supervisord would expand %(name)s

    text = texts.SUPERVISORD.format(socket=plain(files.socket))
    for name in ("cleaner", "mailer"):
        text += texts.PROGRAM.format(
            name=name,
            command=plain(shlex.join([sys.executable, "-P", demo_child.__file__, "program", name])),
        )
    return text
