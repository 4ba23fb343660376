"""``callgate audit report``: what controls ask for, as text, CSV or a page that prints well."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proxy.audit.checking.verify import verify_directory
from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, parse, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, logs
from proxy.audit.reading.query import Filter, find_calls
from proxy.audit.reading.reader import LogEntry, read_all
from proxy.audit.reporting import controls
from proxy.audit.reporting.report import (
    Report,
    as_csv,
    as_html,
    as_text,
    covered_by,
    last_checkpoints,
)
from proxy.cli.audit.common import Config, Directory, app, directory_with_logs, fail, instant, verb
from proxy.cli.audit.query import Since, Until
from proxy.cli.audit.renamed import VerbGroup
from proxy.cli.audit.verify import Key, operator_log_of, progress, trusted_keys
from proxy.common.text import escape_controls
from proxy.errors import ConfigError

report = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Reports for controls, each naming the checkpoints it was computed from.",
)
app.add_typer(report, name="report")


class Format(StrEnum):
    """Output formats."""

    TEXT = "text"
    CSV = "csv"
    HTML = "html"


Shape = Annotated[
    Format, typer.Option("--format", help="Text, CSV, or one self-contained HTML page.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="The file to write; standard output without it.", show_default=False
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint", metavar="LOG:SIZE|FILE", show_default=False,
        help="Compute the report as it was at a checkpoint: as the report names it, or a file of kept ones; once a log.",
    ),
]  # fmt: skip


@verb(
    "access",
    "--since 90d --format html --out access.html --config callgate.toml",
    report,
    "report ",
)
def access(
    config: Config = None,
    dir_: Directory = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    format_: Shape = Format.TEXT,
    out: Out = None,
) -> None:
    """Show who holds which rights and what they used of them, unused rights first.

    Rights come from the policy set that was in force at the end of the period (or at --checkpoint), as it
    is kept beside the log; the files of today have no say.
    """
    # here, so that reports which need no policies load none of the policy engine
    from proxy.cli.audit.rights import rights

    where, basis = _where(dir_, config, at)
    end = instant(until) or "~"
    sets = [
        found
        for found in controls.policy_activations(
            _items(where, basis, b'"policy"', b'"segment"'), where
        )
        if found.time < end
    ]
    if not sets:
        fail(
            "no record up to there says which policy set was in force: was the gate ever started on this log?"
        )
    last = sets[-1]
    try:
        held = rights(last)
    except ConfigError as error:
        fail(f"{last.hash}, in force since {last.time}: {error}")
    begin = instant(since) or ""
    in_period = {
        found.hash
        for number, found in enumerate(sets)
        if number + 1 == len(sets) or sets[number + 1].time >= begin
    }
    notes = [f"Rights are those of the policy set in force at the end of the period, {last.hash}, since {last.time} at the latest.",
             "A right with conditions on arguments counts as granted."]  # fmt: skip
    if len(in_period) > 1:
        notes.append(
            f"{len(in_period)} policy sets were in force in the period; callgate audit report changes has the differences."
        )
    calls = covered_by(find_calls(where, Filter(since=instant(since), until=instant(until))), basis)
    _write(
        controls.access(
            calls, held.granted, held.given, _period(since, until), list(basis.values()), notes
        ),
        format_,
        out,
    )


@verb("changes", "--since 90d", report, "report ")
def changes(
    config: Config = None,
    dir_: Directory = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    format_: Shape = Format.TEXT,
    out: Out = None,
) -> None:
    """Show every policy and roles change that came into force: when, by which hash, with the
    difference in text.
    """
    where, basis = _where(dir_, config, at)
    sets = controls.policy_activations(_items(where, basis, b'"policy"', b'"segment"'), where)
    made = controls.changes(
        sets,
        instant(since) or "",
        instant(until) or "~",
        _period(since, until),
        list(basis.values()),
    )
    _write(made, format_, out)


@verb("refusals", "--since 30d --format csv", report, "report ")
def refusals(
    config: Config = None,
    dir_: Directory = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    format_: Shape = Format.TEXT,
    out: Out = None,
) -> None:
    """Show what was refused, to whom, why, and how often."""
    where, basis = _where(dir_, config, at)
    calls = covered_by(find_calls(where, Filter(since=instant(since), until=instant(until))), basis)
    _write(controls.refusals(calls, _period(since, until), list(basis.values())), format_, out)


@verb("completeness", "--key signing.pub --format html --out completeness.html", report, "report ")
def completeness(
    config: Config = None,
    dir_: Directory = None,
    key: Key = None,
    format_: Shape = Format.TEXT,
    out: Out = None,
) -> None:
    """Verify all logs and show segments, counts, checkpoints, gaps, and the key used. Exit code 1
    when a log is broken.
    """
    where, basis = _where(dir_, config, None)
    keys = trusted_keys(where, key)
    with progress(where, quiet=False) as count:
        reports = verify_directory(where, keys, operator=operator_log_of(where), progress=count)
    gaps = controls.disruptions(_items(where, basis, b'"gap"', b'"opened"', b'"closed"'))
    _write(controls.completeness(reports, keys, gaps), format_, out)
    if any(found.broken for found in reports):
        raise typer.Exit(1)


def _where(
    dir_: Path | None, config: Path | None, at: Sequence[str] | None
) -> tuple[Path, dict[str, Checkpoint]]:
    """Return the audit directory, and the checkpoints to compute from, by log."""
    where = directory_with_logs(dir_, config)
    if not at:
        return where, last_checkpoints(where)
    basis = {
        kept.origin.rpartition("/")[2]: kept for text in at for kept in _checkpoints(where, text)
    }
    if missing := sorted(basis.keys() - logs(where).keys()):
        fail(f"the checkpoint is of the log {escape_controls(missing[0])}, which is not in {where}")
    return where, basis


def _checkpoints(where: Path, text: str) -> list[Checkpoint]:
    """Return the checkpoints that ``--checkpoint`` means: those of a file, or the one of a log over so many
    records.
    """
    name, _, size = text.rpartition(":")
    try:
        if size.isascii() and size.isdigit() and (path := logs(where).get(name)) is not None:
            notes = [
                note
                for file in path.glob(f"*{CHECKPOINT_SUFFIX}")
                for note in split(file.read_bytes())
            ]
            found = [
                kept
                for note in notes
                if f"\n{size}\n".encode() in note and (kept := parse(note)).size == int(size)
            ]
            if not found:
                fail(f"the log {escape_controls(name)} has no checkpoint over {size} records")
            return found[:1]
        return [parse(note) for note in split(Path(text).read_bytes())]
    except (OSError, BadCheckpointError) as error:
        fail(f"cannot read the checkpoint {escape_controls(text)}: {escape_controls(error)}")


def _items(where: Path, basis: Mapping[str, Checkpoint], *stages: bytes) -> list[LogEntry]:
    """Return the records of these stages that the checkpoints cover, by time."""
    found = read_all(where, sift=lambda raw: any(stage in raw[70:110] for stage in stages))
    return [i for i in found if i.log in basis and i.record.get("seq", 0) < basis[i.log].size]


def _period(since: str | None, until: str | None) -> str:
    return f"{instant(since) or 'the beginning of the log'} to {instant(until) or 'the last checkpoint'}"


def _write(made: Report, format_: Format, out: Path | None) -> None:
    if made.basis:
        at = " ".join(
            f"--checkpoint {checkpoint.origin.rpartition('/')[2]}:{checkpoint.size}"
            for checkpoint in made.basis
        )
        made = replace(made, notes=(*made.notes, f"These checkpoints are named again by {at}"))
    text = {Format.TEXT: as_text, Format.CSV: as_csv, Format.HTML: as_html}[format_](made)
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror}")
