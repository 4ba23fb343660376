"""``callgate audit report``: what controls ask for, as text, CSV or a page that prints well."""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.audit import controls
from proxy.audit.checkpoint import BadCheckpointError, Checkpoint, parse
from proxy.audit.policies import kept_policy_set
from proxy.audit.query import Filter, find
from proxy.audit.reader import Item, read_all
from proxy.audit.report import Report, as_csv, as_html, as_text, below, last_checkpoints
from proxy.audit.show import printable
from proxy.audit.verify import verify_directory
from proxy.cli.audit.common import Config, Directory, app, directory, fail, instant
from proxy.cli.audit.query import Since, Until
from proxy.cli.audit.verify import Key, progress, trusted_keys
from proxy.errors import ConfigError

report = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Reports for controls, each naming the checkpoints it was computed from."
)
app.add_typer(report, name="report")


class Form(StrEnum):
    """The forms there are."""

    TEXT = "text"
    CSV = "csv"
    HTML = "html"


Shape = Annotated[Form, typer.Option("--form", help="Text, CSV, or one self-contained HTML page.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; standard output without it.", show_default=False)]
At = Annotated[
    list[Path] | None, typer.Option("--at", help="A kept checkpoint: compute the report as it was then (one a log).", show_default=False)
]


@report.command(epilog="Example: callgate audit report access --since 90d --form html --out access.html --config callgate.toml")
def access(
    config: Config = None,
    dir_: Directory = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    form: Shape = Form.TEXT,
    out: Out = None,
) -> None:
    """Show who holds which rights and what they used of them, unused rights first. Needs the settings, for the catalogs."""
    where, basis = _where(dir_, config, at)
    granted, roles, notes = _grants(where, config or Path("callgate.toml"))
    calls = below(find(where, Filter(since=instant(since), until=instant(until))), basis)
    _write(controls.access(calls, granted, roles, _period(since, until), list(basis.values()), notes), form, out)


@report.command(epilog="Example: callgate audit report changes --since 90d")
def changes(
    config: Config = None,
    dir_: Directory = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    form: Shape = Form.TEXT,
    out: Out = None,
) -> None:
    """Show every policy and roles change that came into force: when, by which hash, with the difference in text."""
    where, basis = _where(dir_, config, at)
    _write(controls.changes(_items(where, basis, b'"policy"', since, until), where, _period(since, until), list(basis.values())), form, out)


@report.command(epilog="Example: callgate audit report refusals --since 30d --form csv")
def refusals(
    config: Config = None,
    dir_: Directory = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    form: Shape = Form.TEXT,
    out: Out = None,
) -> None:
    """Show what was refused, to whom, why, and how often."""
    where, basis = _where(dir_, config, at)
    calls = below(find(where, Filter(since=instant(since), until=instant(until))), basis)
    _write(controls.refusals(calls, _period(since, until), list(basis.values())), form, out)


@report.command(epilog="Example: callgate audit report completeness --key signing.pub --form html --out completeness.html")
def completeness(config: Config = None, dir_: Directory = None, key: Key = None, form: Shape = Form.TEXT, out: Out = None) -> None:
    """Verify all logs and show segments, counts, checkpoints, gaps, and the key used. Exit code 1 when a log is broken."""
    where, basis = _where(dir_, config, None)
    keys = trusted_keys(where, key)
    with progress(where, quiet=False) as count:
        reports = verify_directory(where, keys, progress=count)
    gaps = _items(where, basis, b'"gap"', None, None)
    gaps += [item for item in _items(where, basis, b'"opened"', None, None) if item.record.get("recovered")]
    _write(controls.completeness(reports, keys, sorted(gaps, key=lambda item: item.time)), form, out)
    if any(found.broken for found in reports):
        raise typer.Exit(1)


def _where(dir_: Path | None, config: Path | None, at: Sequence[Path] | None) -> tuple[Path, dict[str, Checkpoint]]:
    """Return the audit directory, and the checkpoints to compute from."""
    where = directory(dir_, config)
    if not at:
        return where, last_checkpoints(where)
    try:
        kept = [parse(path.read_bytes()) for path in at]
    except (OSError, BadCheckpointError) as error:
        fail(f"cannot read the checkpoint: {printable(error)}")
    return where, {checkpoint.origin.rpartition("/")[2]: checkpoint for checkpoint in kept}


def _items(where: Path, basis: Mapping[str, Checkpoint], stage: bytes, since: str | None, until: str | None) -> list[Item]:
    begin, end = instant(since) or "", instant(until) or "~"
    found = read_all(where, sift=lambda raw: stage in raw[70:110])
    return [i for i in found if begin <= i.time < end and i.log in basis and i.record.get("seq", 0) < basis[i.log].size]


def _period(since: str | None, until: str | None) -> str:
    return f"{instant(since) or 'the beginning of the log'} to {instant(until) or 'the last checkpoint'}"


def _write(made: Report, form: Form, out: Path | None) -> None:
    text = {Form.TEXT: as_text, Form.CSV: as_csv, Form.HTML: as_html}[form](made)
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror}")


def _grants(where: Path, config: Path) -> tuple[controls.Granted, list[tuple[str, str]], list[str]]:
    """Return what the policies in force last would allow, to whom roles are given, and what to say about it."""
    # Here, so that reports which need no policies load none of this.
    from proxy.config import load_settings
    from proxy.edge.app import groups_claims, load_catalogs
    from proxy.policy.load import load_policies
    from proxy.policy.possible import Known, possible
    from proxy.policy.schema import actions_of
    from proxy.protocol.catalog import load_catalog

    try:
        settings = load_settings(config)
        catalogs = load_catalogs(settings)
        in_use = {catalog.name for catalog in catalogs.values()}
        others = [load_catalog(path) for path in sorted((settings.policy.directory / "catalogs").glob("*.toml")) if path.stem not in in_use]
        last = max(
            (item for item in read_all(where, sift=lambda raw: b'"policy"' in raw[70:110])), key=lambda item: item.time, default=None
        )
        texts = None if last is None else kept_policy_set(where, str(last.record.get("hash")))
        if texts is None:
            fail("no policy set is kept beside the log: was the gate ever started on it?")
        with tempfile.TemporaryDirectory() as directory:
            for name, text in texts.items():
                (Path(directory) / Path(name).name).write_text(text, encoding="utf-8")
            policies = load_policies(Path(directory), catalogs, unused=others, groups_claims=groups_claims(settings))
    except ConfigError as error:
        fail(str(error))
    trees = tuple(policy.tree for policy in policies.policies.values())
    actions = actions_of([*catalogs.values(), *others])

    def granted(principal: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
        rights: dict[tuple[str, str], list[str]] = defaultdict(list)
        name = f"{principal.get('issuer_name')}|{principal.get('subject')}"
        roles, agent = tuple(principal.get("roles", ())), bool(principal.get("agent"))
        for upstream, catalog in catalogs.items() if roles else ():
            for method, made in catalog.methods.items():
                if possible(trees, Known(name, roles, agent, upstream, method, actions[method])):
                    rights[upstream, made.permission].append(method)
        return rights

    given = [
        (
            m.role,
            f"{m.issuer}: "
            + (f"group {m.group}" if m.group else f"subject {m.subject}" if m.subject else f"claim {m.claim}" if m.claim else "anyone"),
        )
        for m in policies.roles.matchers
    ]
    note = f"Rights are those of the policy set last in force, {policies.hash}; a right with conditions on arguments counts as granted."
    return granted, given, [note]
