"""``callgate check``: every problem of settings, files, catalogs, roles and policies at once; with
--online, of the world too.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proxy.audit.writing.keys import HMAC_KEY, SIGNING_KEY, load_hmac_key
from proxy.catalog.loading import Catalog, load_catalog
from proxy.cli.file_modes import open_to_others
from proxy.cli.problems import print_problems
from proxy.cli.serve import CONFIG
from proxy.config.loading import Issuer, LocalIssuer, Upstream, read_tables
from proxy.config.model import Audit
from proxy.edge.tls import server_context, upstream_context
from proxy.errors import ConfigError, Problem
from proxy.identity.jwks_file import JwksFile
from proxy.policy.load import load_policies
from proxy.runtime.connectivity import check_connectivity
from proxy.telemetry.logging import configure_logging

ONLINE = typer.Option(
    False, "--online", help="Ask the issuers for their keys and the upstreams a question, too."
)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")
EXAMPLE = "callgate check --config /etc/callgate/callgate.toml --online"


def command(config: Path = CONFIG, online: bool = ONLINE, as_json: bool = JSON) -> None:
    """Report every problem of the settings, policies, roles and files at once, each with its place
    and what to do.

    Changes nothing, and needs no gate to run. Leaves with 0 when there is no problem, 1 when there
    are some, 2 when the settings file cannot be read.
    """
    if not config.is_file():
        print_problems(
            [Problem(str(config), "there is no such settings file", "Name it with --config.")]
        )
        raise typer.Exit(2)
    # what the parts would log as warnings is in the problems, and standard output is for those
    configure_logging("error", "console")
    try:
        tables, problems = read_tables(config)
    except ConfigError as error:
        if isinstance(error.__cause__, OSError):
            raise  # nothing could be told
        tables, problems = {}, list(error.problems)
    if tables:
        problems += open_to_others(config.absolute(), tables)
        problems += _check_files(tables, config.name)
        problems += _check_policies(tables, config.name)
        if online:
            problems += asyncio.run(
                check_connectivity(config.name, tables["issuers"], tables["upstreams"])
            )
    if as_json:
        rows = [
            {"place": problem.location, "what": problem.message, "remedy": problem.hint}
            for problem in problems
        ]
        print(json.dumps({"ok": not problems, "problems": rows}, indent=2))
    elif problems:
        print_problems(problems, sys.stdout)
    else:
        print(f"{config}: no problem found")
    raise typer.Exit(1 if problems else 0)


def _check_files(tables: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """Look into the files that the settings name: certificates, keys, key sets, the journal's
    directory.
    """
    if tls := tables["tls"]:
        yield from _tried(
            f"{place}: tls",
            lambda: server_context(tls.certificate, tls.key.file or tls.key.reveal()),
        )
        yield from _check_dates(f"{place}: tls.certificate", tls.certificate)
    issuers: tuple[Issuer | None, ...] = tables["issuers"]
    for number, issuer in enumerate(issuers):
        here = f"{place}: issuers[{number}]"
        if issuer and issuer.ca_file:
            yield from _tried(f"{here}.ca_file", lambda ca=issuer.ca_file: upstream_context(ca))
        if issuer and issuer.jwks_file:
            yield from _check_key_set(f"{here}.jwks_file", issuer.jwks_file)
    local: LocalIssuer | None = tables["local_issuer"]
    if local and _is_there(local.jwks_file):  # it is made with the first token
        yield from _check_key_set(f"{place}: local_issuer.directory", local.jwks_file)
    for number, upstream in enumerate(tables["upstreams"]):
        if upstream:
            yield from _check_upstream_files(f"{place}: upstreams[{number}]", upstream)
    if audit := tables["audit"]:
        yield from _check_writable(f"{place}: audit.directory", audit.directory)
        yield from _check_journal_keys(f"{place}: audit", audit)


def _tried(place: str, load: Any) -> Iterator[Problem]:
    try:
        load()
    except ConfigError as error:
        yield from (
            Problem(place, f"{problem.location} {problem.message}", problem.hint)
            for problem in error.problems
        )


def _check_dates(place: str, certificate: Path) -> Iterator[Problem]:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return  # reported with its key
    now = datetime.fromtimestamp(time.time(), UTC)
    if now < found.not_valid_before_utc:
        yield Problem(
            place,
            f"is not valid before {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            "Check the clock, or wait.",
        )
    if now > found.not_valid_after_utc:
        yield Problem(
            place,
            f"expired on {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            "Renew it; a running gate takes the new one by itself.",
        )


def _check_key_set(place: str, path: Path) -> Iterator[Problem]:
    keys = JwksFile(path)
    keys.poll()
    if keys.problem is not None:
        yield Problem(
            place,
            f"holds no usable key set: {keys.problem}",
            "Fetch the issuer's jwks_uri again, or choose discovery.",
        )


def _check_upstream_files(here: str, upstream: Upstream) -> Iterator[Problem]:
    if not upstream.url.startswith("https://"):
        return
    key = (
        None
        if upstream.client_key is None
        else upstream.client_key.file or upstream.client_key.reveal()
    )
    yield from _tried(
        here, lambda: upstream_context(upstream.ca_file, upstream.client_certificate, key)
    )


def _check_writable(place: str, directory: Path) -> Iterator[Problem]:
    """Find out whether the journal could be written, without writing: the directory is made when
    the gate starts.
    """
    nearest = next((path for path in (directory, *directory.parents) if _is_there(path)), directory)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        yield Problem(
            place,
            f"{nearest} cannot be written",
            "Give the gate's user the right to write there; without a journal nothing is forwarded.",
        )


def _check_journal_keys(place: str, audit: Audit) -> Iterator[Problem]:
    """Read the keys beside the log as the journal would, but make none; modes are looked at
    elsewhere.
    """
    if (
        _is_there(audit.directory / HMAC_KEY)
        and not (audit.directory / HMAC_KEY).stat().st_mode & 0o077
    ):
        yield from _tried(f"{place}.directory", lambda: load_hmac_key(audit.directory, make=False))
    beside = audit.directory / SIGNING_KEY
    try:
        if audit.signing_key is not None:
            beside, pem = (
                audit.signing_key.file or Path(audit.signing_key.source),
                audit.signing_key.reveal().encode(),
            )
        elif _is_there(beside):
            pem = beside.read_bytes()
        else:
            return  # it is made when the gate starts
        usable = isinstance(load_pem_private_key(pem, password=None), Ed25519PrivateKey)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        usable = False
    if not usable:
        remedy = "Restore it from a backup, or make one with callgate audit key generate."
        yield Problem(
            f"{place}.signing_key", f"{beside} holds no Ed25519 key without a pass phrase", remedy
        )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # in a directory that this user cannot enter


def _check_policies(tables: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """Load catalogs, roles and policies as the gate would."""
    if tables["policy"] is None:
        return
    directory: Path = tables["policy"].directory
    catalogs: dict[str, Catalog] = {}
    known: dict[str, Catalog | None] = {}
    for path in sorted((directory / "catalogs").glob("*.toml")):
        try:
            known[path.stem] = load_catalog(path)
        except ConfigError as error:
            known[path.stem] = None
            yield from error.problems
    for number, upstream in enumerate(tables["upstreams"]):
        here = f"{place}: upstreams[{number}].catalog"
        if upstream is None:
            continue
        if upstream.catalog and upstream.catalog not in known:
            yield Problem(
                here,
                f"{directory / 'catalogs' / upstream.catalog}.toml does not exist",
                f"There are: {', '.join(known) or 'none'}.",
            )
        elif catalog := known.get(upstream.catalog):
            catalogs[upstream.name] = catalog
            if catalog.protocol != upstream.protocol:
                yield Problem(
                    here,
                    f"is a catalog for {catalog.protocol}, not for {upstream.protocol}",
                    "Name a catalog of the upstream's protocol.",
                )
    if None in known.values():
        return  # a policy that names a method of a broken catalog would be blamed for it
    used = {upstream.catalog for upstream in tables["upstreams"] if upstream}
    unused = [catalog for name, catalog in known.items() if catalog and name not in used]
    issuers = {issuer.name for issuer in tables["issuers"] if issuer}
    if tables["local_issuer"]:
        issuers.add("local")
    try:
        load_policies(directory, catalogs, unused=unused, issuers=issuers)
    except ConfigError as error:
        yield from error.problems
