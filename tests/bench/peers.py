"""The servers of a run, each with the settings that its column in the table names. All on loopback,
one thread each.
"""

import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.calls import LUIGI_ANSWER, XMLRPC_ANSWER
from tests.bench.credentials import AUDIENCE, ISSUER, Credentials
from tests.bench.process import Child, free_port, started
from tests.bench.tools import COMPILED, Tools
from tests.support.paths import ROOT

CONF = Path(__file__).parent / "conf"
INTERPRETED = "interpreted"
"""The column of Callgate from its sources as they stand, beside the compiled one."""
BARE = "bare relay"
"""The column of a Python proxy that hashes what it passes on, and does nothing else."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server under test: its ports, and the process trees that serve them.

    `checks` says whether it refuses anything, `routes` whether it knows the way to luigid.
    """

    name: str
    port: int
    tls_port: int
    plain: Child
    tls: Child
    checks: bool = True
    routes: bool = True

    def url(self, path: str, *, tls: bool) -> str:
        """The URL of `path` here."""
        return (
            f"https://127.0.0.1:{self.tls_port}{path}"
            if tls
            else f"http://127.0.0.1:{self.port}{path}"
        )

    def child(self, *, tls: bool) -> Child:
        """The tree that answers with or without TLS."""
        return self.tls if tls else self.plain


def fill(template: str, **values: object) -> str:
    """Put `values` into a file of conf/, where they stand as @NAME@."""
    text = (CONF / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", str(value))
    return text


@contextmanager
def nginx(
    tools: Tools, directory: Path, credentials: Credentials, core: str | None
) -> Iterator[Peer]:
    """The upstream: nginx with a fixed answer for each protocol."""
    port, tls_port = free_port(), free_port()
    config = directory / "nginx.conf"
    config.write_text(
        fill(
            "nginx.conf",
            dir=directory,
            user=pwd.getpwuid(os.geteuid()).pw_name,
            port=port,
            tls_port=tls_port,
            cert=credentials.certificate,
            key=credentials.key,
            xmlrpc_answer=XMLRPC_ANSWER.decode(),
            luigi_answer=LUIGI_ANSWER.decode(),
        )
    )
    with started(
        "nginx", [tools.nginx, "-c", config, "-p", directory], directory, port=port, core=core
    ) as child:
        yield Peer("upstream alone", port, tls_port, child, child, checks=False, routes=False)


@contextmanager
def luigid(
    directory: Path, core: str | None, *, port: int = 0, state: Path | None = None
) -> Iterator[tuple[int, Child]]:
    """A real luigid, with a copy of the state in `state` or with none."""
    port = port or free_port()
    config = directory / "luigi.cfg"
    config.write_text("[scheduler]\nrecord_task_history=false\n")
    pickle = directory / f"luigid-{port}.pickle"
    pickle.unlink(missing_ok=True)
    if state is not None:
        shutil.copy(state, pickle)
    command = [sys.executable, "-c", "from luigi.cmdline import luigid; luigid()"]
    arguments = ["--address", "127.0.0.1", "--port", str(port), "--state-path", str(pickle)]
    environ = {"LUIGI_CONFIG_PATH": str(config)}
    with started(
        "luigid", [*command, *arguments], directory, port=port, core=core, environ=environ
    ) as child:
        yield port, child


@contextmanager
def envoy(
    tools: Tools,
    directory: Path,
    credentials: Credentials,
    core: str | None,
    upstream: int,
    luigid_port: int,
) -> Iterator[Peer]:
    """Envoy: jwt_authn with local keys and its cache, a Lua pattern over the body, a JSON access
    log in a file.
    """
    port, tls_port = free_port(), free_port()
    files = f"certificate_chain: {{filename: {credentials.certificate}}}, private_key: {{filename: {credentials.key}}}"
    transport = (
        'transport_socket: {name: envoy.transport_sockets.tls, typed_config: {"@type": '
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, "
        f"common_tls_context: {{tls_certificates: [{{{files}}}], alpn_protocols: [http/1.1]}}}}}}"
    )
    # A list item needs a first key; for the plain listener that is a name alone.
    given = {"dir": directory, "issuer": ISSUER, "audience": AUDIENCE, "jwks": credentials.jwks}
    listeners = fill(
        "envoy-listener.yaml", name="plain", port=port, transport="name: plain", **given
    )
    listeners += fill(
        "envoy-listener.yaml", name="tls", port=tls_port, transport=transport, **given
    )
    config = directory / "envoy.yaml"
    config.write_text(
        fill("envoy.yaml", listeners=listeners, upstream=upstream, luigid=luigid_port)
    )
    command: list[str | Path] = [
        tools.envoy,
        "-c",
        config,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warn",
    ]
    with started("envoy", command, directory, port=tls_port, core=core) as child:
        yield Peer("Envoy", port, tls_port, child, child)


@contextmanager
def haproxy(
    tools: Tools,
    directory: Path,
    credentials: Credentials,
    core: str | None,
    upstream: int,
    luigid_port: int,
) -> Iterator[Peer]:
    """HAProxy: jwt_verify and the claims, a regular expression over the body, a log line."""
    port, tls_port = free_port(), free_port()
    config = directory / "haproxy.cfg"
    config.write_text(
        fill(
            "haproxy.cfg",
            port=port,
            tls_port=tls_port,
            pem=credentials.combined,
            public=credentials.public,
            issuer=ISSUER,
            audience=AUDIENCE,
            upstream=upstream,
            luigid=luigid_port,
        )
    )
    with started(
        "haproxy", [tools.haproxy, "-db", "-f", config], directory, port=tls_port, core=core
    ) as child:
        yield Peer("HAProxy", port, tls_port, child, child)


@contextmanager
def mitmproxy(
    tools: Tools,
    directory: Path,
    credentials: Credentials,
    core: str | None,
    upstream: int,
    luigid_port: int,
) -> Iterator[Peer]:
    """mitmproxy as a reverse proxy with a token check. It takes TLS and plain HTTP on one port."""
    port = free_port()
    command = [
        tools.mitmdump, "--quiet", "--set", f"confdir={directory / 'mitmproxy'}", "--certs", f"*={credentials.combined}",
        "--listen-host", "127.0.0.1", "--listen-port", str(port), "--mode", f"reverse:http://127.0.0.1:{upstream}",
        "--set", "connection_strategy=lazy", "-s", str(CONF / "mitm_addon.py"),
    ]  # fmt: skip
    environ = {
        "BENCH_PUBLIC": str(credentials.public), "BENCH_LOG": str(directory / "mitmproxy-access.log"), "BENCH_ISSUER": ISSUER,
        "BENCH_AUDIENCE": AUDIENCE, "BENCH_LUIGID": str(luigid_port), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    with started("mitmproxy", command, directory, port=port, core=core, environ=environ) as child:
        yield Peer("mitmproxy", port, port, child, child)


@contextmanager
def bare(
    directory: Path, credentials: Credentials, core: str | None, upstream: int, luigid_port: int
) -> Iterator[Peer]:
    """The least that a proxy in Python can do (tests/bench/bare.py)."""
    port, tls_port = free_port(), free_port()
    numbers = map(str, (port, tls_port, upstream, luigid_port))
    command: list[str | Path] = [
        sys.executable,
        Path(__file__).with_name("bare.py"),
        *numbers,
        credentials.certificate,
        credentials.key,
    ]
    with started("bare", command, directory, port=port, core=core) as child:
        yield Peer(BARE, port, tls_port, child, child, checks=False)


def is_compiled() -> bool:
    """Whether there is a compiled package to measure."""
    return (COMPILED / ".built").exists()


def python_environ(*, interpreted: bool = False) -> dict[str, str]:
    """What Callgate's own processes need to run from this checkout, installed or not: compiled
    where it has been, unless `interpreted`.
    """
    first = [] if interpreted or not is_compiled() else [str(COMPILED)]
    return {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [*first, str(ROOT), os.environ.get("PYTHONPATH", "")])
        )
    }
