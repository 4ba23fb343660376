"""``callgate audit report``: what controls ask for, as text, CSV or a page that prints well."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proxy.audit.checking.verify import verify_directory
from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, parse, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, logs
from proxy.audit.reading.query import STAGE_BYTES, CallRecord, Filter, find_calls
from proxy.audit.reading.reader import LogEntry, read_all
from proxy.audit.reporting import controls, policy_activations
from proxy.audit.reporting.rendering import as_csv, as_html, as_text
from proxy.audit.reporting.report import Report, covered_by, last_checkpoints
from proxy.cli.audit.common import (
    Config,
    Directory,
    app,
    directory_with_logs,
    fail,
    instant,
    verb,
)
from proxy.cli.audit.query import Since, Until
from proxy.cli.audit.renamed import VerbGroup
from proxy.cli.audit.trusted_keys import Key, trusted_keys
from proxy.cli.audit.verify import operator_log_of, progress
from proxy.common.durable_files import replace_atomically
from proxy.common.text import escape_controls
from proxy.errors import ConfigError

END_OF_TIME = "~"
"""A text that sorts after every time."""

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


RENDER: dict[Format, Callable[[Report], str]] = {
    Format.TEXT: as_text,
    Format.CSV: as_csv,
    Format.HTML: as_html,
}

OutputFormat = Annotated[
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
        "--checkpoint",
        metavar="LOG:SIZE|FILE",
        show_default=False,
        help="Compute the report as it was at a checkpoint: LOG:SIZE as the report names it, or a"
        " file of saved checkpoints; once a log.",
    ),
]


@dataclass(frozen=True, slots=True)
class Scope:
    """The records that a report is computed from.

    `basis` has the checkpoints that cover them, by log. `since` and `until` are times as records
    have them, or None.
    """

    directory: Path
    basis: dict[str, Checkpoint]
    since: str | None = None
    until: str | None = None

    @property
    def period(self) -> str:
        """The period as text."""
        begin = self.since or "the beginning of the log"
        return f"{begin} to {self.until or 'the last checkpoint'}"

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that cover the records."""
        return list(self.basis.values())

    def calls(self) -> Iterator[CallRecord]:
        """Stream the covered calls of the period."""
        wanted = Filter(since=self.since, until=self.until)
        return covered_by(find_calls(self.directory, wanted), self.basis)

    def entries(self, *stages: bytes) -> list[LogEntry]:
        """Return the covered records of these stages, of all times, by time."""

        def predicate(raw: bytes) -> bool:
            return any(stage in raw[STAGE_BYTES] for stage in stages)

        return [
            entry
            for entry in read_all(self.directory, predicate=predicate)
            if entry.log in self.basis and entry.record.seq < self.basis[entry.log].size
        ]

    def activations(self) -> list[policy_activations.PolicyActivation]:
        """Return the policy sets that came into force, of all times, by time."""
        entries = self.entries(b'"policy"', b'"segment"')
        return list(policy_activations.policy_activations(entries, self.directory))


def _period_report(
    example: str,
) -> Callable[[Callable[[Scope], Report]], Callable[[Scope], Report]]:
    """Make a function of a scope a report verb, with the options that such reports share."""

    def register(compute: Callable[[Scope], Report]) -> Callable[[Scope], Report]:
        def command(
            config: Config = None,
            dir_: Directory = None,
            since: Since = None,
            until: Until = None,
            checkpoint: At = None,
            format_: OutputFormat = Format.TEXT,
            out: Out = None,
        ) -> None:
            directory = directory_with_logs(dir_, config)
            basis = _basis(directory, checkpoint)
            scope = Scope(directory, basis, instant(since), instant(until))
            _write(compute(scope), format_, out)

        command.__doc__ = compute.__doc__
        verb(compute.__name__, example, report, "report ")(command)
        return compute

    return register


@_period_report("--since 90d --format html --out access.html --config callgate.toml")
def access(scope: Scope) -> Report:
    """Show who holds which rights and which of them were used, unused rights first.

    Rights come from the policy set that was in force at the end of the period (or at --checkpoint),
    as it is saved in the audit directory. The policy files of today are not read.
    """
    # Imported here: reports that need no policies load none of the policy engine.
    from proxy.cli.audit.rights import rights_in_force

    sets = [each for each in scope.activations() if each.time < (scope.until or END_OF_TIME)]
    if not sets:
        fail("no record up to that time names a policy set: no gate was started on this log")
    last = sets[-1]
    try:
        rights = rights_in_force(last)
    except ConfigError as error:
        fail(f"{last.hash}, in force since {last.time}: {error}")
    begin = scope.since or ""
    # A set was in force in the period if the set after it came later than its beginning.
    in_period = {
        each.hash
        for number, each in enumerate(sets)
        if number + 1 == len(sets) or sets[number + 1].time >= begin
    }
    notes = [
        f"Rights are those of the policy set in force at the end of the period, {last.hash}, since"
        f" {last.time} at the latest.",
        "A right with conditions on arguments counts as granted.",
    ]
    if len(in_period) > 1:
        notes.append(
            f"{len(in_period)} policy sets were in force in the period; callgate audit report"
            " changes has the differences."
        )
    return controls.access(
        scope.calls(),
        lambda principal: rights.methods_of(principal.name, principal.roles, agent=principal.agent),
        rights.roles(),
        scope.period,
        scope.checkpoints,
        notes,
    )


@_period_report("--since 90d")
def changes(scope: Scope) -> Report:
    """Show every change of policies and roles: when, by which hash, with the difference in text."""
    return policy_activations.changes(
        scope.activations(),
        scope.since or "",
        scope.until or END_OF_TIME,
        scope.period,
        scope.checkpoints,
    )


@_period_report("--since 30d --format csv")
def refusals(scope: Scope) -> Report:
    """Show what was refused, to whom, why, and how often."""
    return controls.refusals(scope.calls(), scope.period, scope.checkpoints)


@verb(
    "completeness",
    "--key signing.pub --format html --out completeness.html",
    report,
    "report ",
)
def completeness(
    config: Config = None,
    dir_: Directory = None,
    key: Key = None,
    format_: OutputFormat = Format.TEXT,
    out: Out = None,
) -> None:
    """Verify all logs; show segments, counts, checkpoints, gaps, and the key used.

    The exit code is 1 when a log is broken.
    """
    directory = directory_with_logs(dir_, config)
    keys = trusted_keys(directory, key)
    with progress(directory, quiet=False) as count:
        checked = verify_directory(
            directory, keys, operator=operator_log_of(directory), progress=count
        )
    scope = Scope(directory, last_checkpoints(directory))
    disruptions = controls.disruptions(scope.entries(b'"gap"', b'"opened"', b'"closed"'))
    _write(controls.completeness(checked, keys, disruptions), format_, out)
    if any(found.broken for found in checked):
        raise typer.Exit(1)


def _basis(directory: Path, checkpoints: Sequence[str] | None) -> dict[str, Checkpoint]:
    """Return the checkpoints to compute from, by log."""
    if not checkpoints:
        return last_checkpoints(directory)
    basis = {
        checkpoint.origin.rpartition("/")[2]: checkpoint
        for text in checkpoints
        for checkpoint in _named_checkpoints(directory, text)
    }
    if missing := sorted(basis.keys() - logs(directory).keys()):
        name = escape_controls(missing[0])
        fail(f"the checkpoint is of the log {name}, which is not in {directory}")
    return basis


def _named_checkpoints(directory: Path, text: str) -> list[Checkpoint]:
    """Return the checkpoints that ``--checkpoint`` names: LOG:SIZE, or those of a file."""
    name, _, size = text.rpartition(":")
    try:
        if size.isascii() and size.isdigit() and (log := logs(directory).get(name)) is not None:
            found = _checkpoint_over(log, size)
            if found is None:
                fail(f"the log {escape_controls(name)} has no checkpoint over {size} records")
            return [found]
        return [parse(note) for note in split(Path(text).read_bytes())]
    except (OSError, BadCheckpointError) as error:
        fail(f"cannot read the checkpoint {escape_controls(text)}: {escape_controls(error)}")


def _checkpoint_over(log: Path, size: str) -> Checkpoint | None:
    for file in log.glob(f"*{CHECKPOINT_SUFFIX}"):
        for note in split(file.read_bytes()):
            if f"\n{size}\n".encode() in note and (found := parse(note)).size == int(size):
                return found
    return None


def _write(made: Report, format_: Format, out: Path | None) -> None:
    if made.basis:
        named = " ".join(
            f"--checkpoint {checkpoint.origin.rpartition('/')[2]}:{checkpoint.size}"
            for checkpoint in made.basis
        )
        note = f"To compute it again from these checkpoints, add {named}."
        made = replace(made, notes=(*made.notes, note))
    text = RENDER[format_](made)
    if out is None:
        sys.stdout.write(text)
        return
    try:
        replace_atomically(out, text.encode())
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror}")
