"""``callgate init``: write settings, a certificate, an issuer, policies and a unit; ask nothing.

The catalog of luigid is shipped. An XML-RPC server is asked for its methods: a shipped catalog that
has most of them is taken, or else one is drafted, of which every method is denied until its
permission is set.
"""

import os
import pwd
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from proxy.catalog.loading import load_catalog
from proxy.cli.catalog.asking import BasicAuthFile, CaFile, ask, make_server, show_server
from proxy.cli.catalog.diff import has_method
from proxy.cli.catalog.writing import write_catalog
from proxy.cli.check import find_problems
from proxy.cli.demo.instructions import program as shown_program
from proxy.cli.init import texts
from proxy.cli.init.files import Plan, has_unit_path, is_taken, write_all
from proxy.cli.problems import print_problems
from proxy.cli.shipped import shipped_policies
from proxy.clients.introspection import (
    MethodDescription,
    MethodNames,
    Server,
    describe_methods,
)
from proxy.common.text import escape_controls
from proxy.errors import ConfigError

EXAMPLE = "callgate init --upstream http://localhost:8082 --protocol luigi --dir gate"
_LUIGI = "luigi"
_SERVER = "server"


def command(
    upstream: Annotated[
        str,
        typer.Option("--upstream", help="http://host:port, https://host:port or unix:/path.sock."),
    ],
    protocol: Annotated[Literal["luigi", "xmlrpc"], typer.Option("--protocol")],
    directory: Annotated[Path, typer.Option("--dir", help="A new directory for all of it.")] = Path(
        "callgate"
    ),
    address: Annotated[
        str, typer.Option("--address", help="Where to listen; 0.0.0.0 for other hosts.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8443,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="A PEM chain, instead of one made here.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The certificate's key.")] = None,
    issuer: Annotated[
        str, typer.Option("--issuer", help="An OIDC issuer's URL, instead of a local issuer.")
    ] = "",
    audience: Annotated[
        str, typer.Option("--audience", help="The audience of that issuer's tokens.")
    ] = "",
    catalog: Annotated[
        str, typer.Option("--catalog", help="A shipped catalog, instead of asking the server.")
    ] = "",
    basic_auth_file: BasicAuthFile = None,
    ca_file: CaFile = None,
    user: Annotated[
        str, typer.Option("--user", help="The user that runs Callgate; by default this one.")
    ] = "",
) -> None:
    """Write a directory of settings that serve at once, and print the next three commands.

    Makes a certificate and a local issuer unless others are given. A directory that exists is left
    as it is, unless it is empty.
    """
    if (certificate is None) != (key is None):
        _fail("--certificate and --key belong together. Pass both, or none.")
    if bool(issuer) != bool(audience):
        _fail("--issuer and --audience belong together. Pass both, or none.")
    target = Path(os.path.abspath(directory))  # noqa: PTH100  (resolve would follow a link)
    if not has_unit_path(target):
        _fail("the directory's name has quotes, %, $ or control characters. Choose another.")
    if is_taken(target):
        _exists(directory)
    if not target.parent.is_dir():
        _fail(f"{target.parent} is no directory. Create it first.")
    server = make_server(upstream, basic_auth_file, ca_file and ca_file.absolute())
    name, text, note = _catalog(protocol, catalog, server)
    plan = Plan(
        directory=target,
        protocol=protocol,
        name=name,
        url=f"unix:{server.socket}" if server.socket else server.origin,
        upstream_path=_upstream_path(protocol, upstream, server),
        basic_auth=server.basic_auth,
        ca_file=server.ca_file,
        catalog=name,
        catalog_text=text,
        address=address,
        port=port,
        certificate=certificate and certificate.absolute(),
        key=key and key.absolute(),
        issuer=issuer,
        audience=audience,
        user=_user(user),
    )
    try:
        write_all(plan, _check, now=time.time())
    except ConfigError as error:
        print_problems(error.problems)
        raise typer.Exit(2) from None
    except FileExistsError:
        _exists(directory)
    _report(plan, directory, note)


def _check(settings: Path) -> None:
    """Raise `ConfigError` with every problem of the files that were written or given."""
    problems = [each for each in find_problems(settings, online=False) if not each.warning]
    if problems:
        raise ConfigError(problems)


def _report(plan: Plan, shown: Path, note: str) -> None:
    """Print what is next."""
    callgate = shown_program("callgate") or f"{shlex.quote(sys.executable)} -m proxy"
    config = shlex.quote(str(shown / "callgate.toml"))
    here = shlex.quote(str(shown))
    out = shlex.quote(str(shown / "worker.jwt"))
    token = (
        f"{callgate} token issue --config {config} --subject me --group worker --ttl 1h --out {out}"
    )
    if plan.protocol != _LUIGI:
        token = token.replace("worker", "viewer")
    if plan.issuer:
        token = f"{callgate} check --config {config} --online"
    trust = "" if plan.certificate else f", and trust {here}/ca.pem"
    print(
        texts.NEXT.format(
            directory=escape_controls(shown),
            url=plan.url,
            catalog=note,
            callgate=callgate,
            config=config,
            token=token,
            client=f"https://localhost:{plan.port}/",
            trust=trust,
            unit=plan.unit,
        ),
        end="",
    )


def _catalog(protocol: str, wanted: str, server: Server) -> tuple[str, str, str]:
    """Return the catalog's name, its text unless it is shipped, and a few words about it."""
    shipped = shipped_policies() / "catalogs"
    if protocol == _LUIGI:
        wanted = wanted or _LUIGI
    if wanted:
        path = shipped / f"{wanted}.toml"
        known = sorted(each.stem for each in shipped.glob("*.toml"))
        if wanted not in known:
            _fail(f"there is no shipped catalog {wanted!r}. Choose one of {', '.join(known)}.")
        if load_catalog(path).protocol != protocol:
            _fail(f"the catalog {wanted} is not for {protocol}. Choose another.")
        return wanted, "", f"the catalog {wanted}"
    listed, methods = ask(describe_methods(server))
    if nearest := _nearest_shipped(shipped, listed):
        return nearest, "", f"the shipped catalog {nearest}"
    if not methods:
        _fail("the server lists no method that a catalog can have. Check the URL and its path.")
    return _SERVER, _draft(server, methods, listed), _note(len(methods))


def _draft(server: Server, methods: list[MethodDescription], listed: MethodNames) -> str:
    return write_catalog(_SERVER, methods, source=f"{show_server(server)} lists", odd=listed.odd)


def _note(count: int) -> str:
    return (
        f"a draft of its catalog\n(all {count} methods are denied until their permission is set in"
        f" policies/catalogs/{_SERVER}.toml)"
    )


def _nearest_shipped(shipped: Path, listed: MethodNames) -> str | None:
    """Return the shipped catalog that has most of the listed methods, None if none has half."""
    best, most = None, len(listed.names) // 2
    for path in sorted(shipped.glob("*.toml")):
        catalog = load_catalog(path)
        if catalog.protocol == "xmlrpc":
            count = sum(has_method(catalog, name) for name in listed.names)
            if count > most:
                best, most = path.stem, count
    return best


def _upstream_path(protocol: str, url: str, server: Server) -> str:
    """Return the path of the settings, empty for the default one of the protocol."""
    if server.socket:
        return ""
    path = url.split("://", 1)[-1].partition("/")[2].strip("/")
    return f"/{path}" if path else ""


def _user(name: str) -> pwd.struct_passwd:
    if not name:
        return pwd.getpwuid(os.geteuid())
    if os.geteuid() != 0:
        _fail("--user needs the rights of root, to give it the files. Leave it out.")
    try:
        return pwd.getpwnam(name)
    except KeyError:
        _fail(f"there is no user {name!r}. Create it: useradd --system {shlex.quote(name)}")


def _exists(directory: Path) -> NoReturn:
    _fail(f"{directory} exists already, and is left as it is. Name another with --dir.")


def _fail(text: str) -> NoReturn:
    """End with 2 and one line."""
    print(f"callgate init: {escape_controls(text)}", file=sys.stderr)
    raise typer.Exit(2)
