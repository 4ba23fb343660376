"""Callgate under test: its settings, its policies, and `callgate serve` as it ships."""

import http.client
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.credentials import AUDIENCE, ISSUER, Credentials
from tests.bench.peers import CONF, INTERPRETED, Peer, python_environ
from tests.bench.process import Child, free_port, started, wait_until
from tests.bench.verify import UNVERIFIED
from tests.support.paths import ROOT

_ROLES = ("viewer", "worker", "assistant", "operator", "admin", "agent")
READY = "/-/readyz"  # answered once the gate would forward a call
_SEGMENTS = 64 << 20  # bytes, as is usual
_SMALL_SEGMENTS = 4 << 20
"""Bytes: sixteen segments in the place of one, so that each row pays for the compression of its own
records, and not one row for all.
"""
SERVE = (sys.executable, "-m", "proxy.cli.main", "serve")


def policies(directory: Path) -> Path:
    """The shipped policies, with the bench's issuer in roles.toml and its catalog added."""
    target = directory / "policies"
    if not target.exists():
        (target / "catalogs").mkdir(parents=True)
        for path in [
            *(ROOT / "policies").glob("*.cedar"),
            *(ROOT / "policies" / "catalogs").glob("*.toml"),
        ]:
            shutil.copyfile(path, target / path.relative_to(ROOT / "policies"))
        shutil.copyfile(CONF / "catalog.toml", target / "catalogs" / "bench.toml")
        (target / "roles.toml").write_text(
            "".join(f'[[roles.{role}]]\nissuer = "bench"\ngroup = "{role}"\n' for role in _ROLES)
        )
    return target


def settings(
    directory: Path,
    credentials: Credentials,
    name: str,
    port: int,
    *,
    tls: bool,
    upstream: int,
    luigid: int = 0,
    more: str = "",
    processes: int = 1,
    segment_bytes: int = _SEGMENTS,
) -> Path:
    """Write the settings of one gate. Its journal is under `directory`, so that must be on a real
    disk.
    """
    certificate = (
        f'certificate = "{credentials.certificate}"\nkey = {{ file = "{credentials.key}" }}\n'
        if tls
        else "plain_http = true\n"
    )
    upstreams = [
        ("luigi", "luigi", upstream, "/", ""),
        ("rpc", "xmlrpc", upstream, "/rpc", 'catalog = "bench"\n'),
    ]
    if luigid:
        upstreams.append(("luigid", "luigi", luigid, "/luigid", ""))
    tables = "".join(
        f'[[upstreams]]\nname = "{given}"\nprotocol = "{protocol}"\nurl = "http://127.0.0.1:{to}"\npath_prefix = "{prefix}"\n{catalog}'
        for given, protocol, to, prefix, catalog in upstreams
    )
    several = f"processes = {processes}\n" if processes > 1 else ""
    path = directory / f"{name}.toml"
    path.write_text(
        f'{several}[[listeners]]\naddress = "127.0.0.1"\nport = {port}\n{certificate}'
        f'[[issuers]]\nname = "bench"\nissuer = "{ISSUER}"\naudiences = ["{AUDIENCE}"]\njwks_file = "{credentials.jwks}"\n'
        f'{tables}[policy]\ndirectory = "{policies(directory)}"\n[audit]\ndirectory = "{directory / "audit"}"\nname = "{name}"\n'
        f"segment_bytes = {segment_bytes}\n[metrics]\nport = {free_port() if processes == 1 else 0}\n{more}"
    )
    return path


@contextmanager
def serving(
    directory: Path,
    credentials: Credentials,
    core: str | None,
    *,
    name: str,
    tls: bool,
    upstream: int,
    luigid: int = 0,
    more: str = "",
    processes: int = 1,
    segment_bytes: int = _SEGMENTS,
    command: Sequence[str] = SERVE,
    environ: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, Child]]:
    """One gate, until the block ends: its port and its process tree."""
    port = free_port()
    config = settings(
        directory,
        credentials,
        name,
        port,
        tls=tls,
        upstream=upstream,
        luigid=luigid,
        more=more,
        processes=processes,
        segment_bytes=segment_bytes,
    )
    whole = [*command, "--config", str(config)]
    environ = {**python_environ(), **(environ or {})}
    with started(
        name,
        whole,
        directory,
        port=port,
        core=core,
        environ=environ,
        ready=lambda: answers(port, tls=tls),
    ) as child:
        yield port, child


@dataclass(frozen=True, slots=True)
class Observed:
    """A gate with the observer of `tests.bench.inside` in it."""

    port: int
    child: Child
    out: Path

    def take(self) -> dict[str, Any]:
        """What it observed since the last time."""
        self.out.unlink(missing_ok=True)
        os.kill(self.child.pid, signal.SIGUSR2)
        wait_until(self.out.exists, self.child)
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found


@contextmanager
def observed(
    directory: Path,
    credentials: Credentials,
    core: str | None,
    out: Path,
    *flags: str,
    **given: Any,
) -> Iterator[Observed]:
    """One observed gate; `flags` are those of `tests.bench.inside`, the rest is as for `serving`."""
    command = (sys.executable, "-m", "tests.bench.inside", str(out), *flags)
    # compiled code has no lines to be seen on
    environ = python_environ(interpreted="sample" in flags)
    with serving(directory, credentials, core, command=command, environ=environ, **given) as (
        port,
        child,
    ):
        yield Observed(port, child, out)


def answers(port: int, *, tls: bool) -> bool:
    """Whether the gate at `port` says that it is ready."""
    try:
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=UNVERIFIED)
            if tls
            else http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        )
        with closing(connection):
            connection.request("GET", READY)
            return connection.getresponse().status == 200
    except OSError:
        return False


@contextmanager
def callgate(
    directory: Path,
    credentials: Credentials,
    core: str | None,
    upstream: int,
    luigid: int,
    column: str = "Callgate",
) -> Iterator[Peer]:
    """Callgate's column: one process for plain HTTP and one for TLS, since a gate listens in one
    way. `INTERPRETED` is another.
    """
    environ = python_environ(interpreted=column == INTERPRETED)
    given: dict[str, Any] = {
        "upstream": upstream,
        "luigid": luigid,
        "segment_bytes": _SMALL_SEGMENTS,
        "environ": environ,
    }
    label = "interpreted-" if column == INTERPRETED else ""
    with (
        serving(directory, credentials, core, name=f"{label}plain", tls=False, **given) as (
            port,
            plain,
        ),
        serving(directory, credentials, core, name=f"{label}tls", tls=True, **given) as (
            tls_port,
            tls,
        ),
    ):
        yield Peer(column, port, tls_port, plain, tls)
