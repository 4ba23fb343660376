"""``callgate audit verify``: check logs offline.

Exit codes: 0 intact, 1 broken, 2 could not be checked.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.audit.checking.log_verifier import LogReport
from proxy.audit.checking.log_verifier import Progress as Count
from proxy.audit.checking.signatures import Keys, checkpoint_signed_by
from proxy.audit.checking.verify import verify_directory, verify_log
from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, split
from proxy.audit.format.layout import OPERATOR, logs, segments
from proxy.audit.format.record import encode_json
from proxy.audit.reading.reader import last_entries
from proxy.cli.audit.common import AsJson, Config, Directory, audit_directory, fail, verb
from proxy.cli.audit.trusted_keys import Key, trusted_keys
from proxy.common.durable_files import replace_atomically
from proxy.common.text import escape_controls

INDENT = " " * 8


@verb(
    "verify",
    "--dir /var/lib/callgate/audit --key signing.pub --since-checkpoint last-month.checkpoint",
)
def verify(
    old: Annotated[str | None, typer.Argument(hidden=True)] = None,
    dir_: Directory = None,
    config: Config = None,
    segment: Annotated[
        int | None,
        typer.Option(
            "--segment",
            min=1,
            show_default=False,
            help="Check this segment alone; --dir is then one log.",
        ),
    ] = None,
    key: Key = None,
    since_checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--since-checkpoint",
            metavar="FILE",
            help="Check what follows the checkpoints that --save-checkpoint wrote.",
        ),
    ] = None,
    save_checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--save-checkpoint",
            metavar="FILE",
            help="Write the last checkpoint of each log to a file, for the next check.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that every record is there, in order, unaltered, and covered by a signature.

    An attacker with write access can cut a log and its checkpoints back to an earlier end. A file
    of --save-checkpoint, kept elsewhere and given as --since-checkpoint, shows that.
    """
    if old is not None:
        fail(f"the argument DIR is renamed to --dir: write --dir {escape_controls(old)}")
    directory = audit_directory(dir_, config)
    keys = trusted_keys(directory, key, quiet=as_json)
    try:
        saved = [] if since_checkpoint is None else _saved(since_checkpoint, keys)
        with progress(directory, quiet=as_json) as count:
            reports = _check(directory, segment, keys, saved, count)
    except (OSError, BadCheckpointError) as error:
        fail(f"cannot check: {escape_controls(error)}")
    if not reports:
        fail(f"there is no log in {escape_controls(directory)}. Name an audit directory, or a log.")
    absent = _absent(saved, reports)
    if saved and len(absent) == len(saved):
        origin = escape_controls(saved[0].origin)
        fail(f"the saved checkpoint is of the log {origin}, which is not here")
    for report in reports:
        print(encode_json(as_dict(report)).decode()) if as_json else _print(report)
    if segments(directory):
        absent = []  # one log alone: the others are not here to be checked
    for checkpoint in absent:
        _print_absent(checkpoint, as_json=as_json)
    if absent or any(report.broken for report in reports):
        raise typer.Exit(1)
    if save_checkpoint is not None:
        _save(save_checkpoint, reports)


def as_dict(report: LogReport) -> dict[str, object]:
    """Return the members that ``--json`` prints of a report."""
    broken = report.broken
    return {
        "log": report.log,
        "origin": report.origin,
        "intact": broken is None,
        "wrong": broken and broken.defect.value,
        "record": broken and broken.seq,
        "segment": report.segment,
        "text": broken and broken.text,
        "first": report.first,
        "records": report.records,
        "segments": report.segments,
        "checkpoints": report.checkpoints,
        "signed": report.signed,
        "unsigned": report.unsigned,
        "torn_bytes": report.torn_bytes,
        "begins": report.first_time,
        "ends": report.last_time,
        "open": report.open,
        "unknown": report.unknown,
        "gaps": report.gaps,
        "notes": report.notes,
        "checkpoint": report.last.note.decode() if report.last else None,
    }


def operator_log_of(directory: Path) -> Path | None:
    """Return the log that records acts on `directory`, if `directory` is one log."""
    if segments(directory) and directory.name != OPERATOR:
        return directory.parent / OPERATOR
    return None


@contextmanager
def progress(directory: Path, *, quiet: bool) -> Iterator[Count | None]:
    """Show a bar on a terminal, and nothing in a pipe.

    The total is the sum of the last sequence numbers of the logs.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    total = sum(
        max(0, entry.record.seq)
        for path in logs(directory).values()
        for entry in last_entries(path, 1)
    )
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total or None)
        yield lambda count: bar.advance(task, count)


def _saved(path: Path, keys: Keys) -> list[Checkpoint]:
    """Return the checkpoints of a file of ``--save-checkpoint``, each signed by a known key."""
    found = [checkpoint_signed_by(note, keys) for note in split(path.read_bytes())]
    if not found:
        raise BadCheckpointError(f"{path} holds no checkpoint")
    return found


def _save(path: Path, reports: list[LogReport]) -> None:
    notes = [report.last.note for report in reports if report.last is not None]
    try:
        replace_atomically(path, b"\n".join(notes))
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")


def _check(
    directory: Path,
    segment: int | None,
    keys: Keys,
    saved: list[Checkpoint],
    count: Count | None,
) -> list[LogReport]:
    if segment is None:
        return verify_directory(
            directory, keys, saved=saved, operator=operator_log_of(directory), progress=count
        )
    if segment not in segments(directory):
        fail(f"{escape_controls(directory)} has no segment {segment}. Name one log with --dir.")
    return [verify_log(directory, keys, only=segment, progress=count)]


def _absent(saved: list[Checkpoint], reports: list[LogReport]) -> list[Checkpoint]:
    """Return the saved checkpoints whose log was not checked."""
    return [
        checkpoint
        for checkpoint in saved
        if not any(report.origin == checkpoint.origin or report.broken for report in reports)
    ]


def _print_absent(checkpoint: Checkpoint, *, as_json: bool) -> None:
    text = (
        f"{escape_controls(checkpoint.origin)}: there is a saved checkpoint over"
        f" {checkpoint.size:,} records, and the log is not here"
    )
    document = {"log": checkpoint.origin, "intact": False, "text": text}
    print(encode_json(document).decode() if as_json else f"BROKEN  {text}")


def _print(report: LogReport) -> None:
    broken = report.broken
    if broken is not None:
        where = "" if broken.seq is None else f" record {broken.seq}"
        print(
            f"BROKEN  {report.log}:{where} in segment {report.segment}:"
            f" {escape_controls(broken.text)} [{broken.defect}]"
        )
        return
    print(
        f"INTACT  {report.log}: {report.records:,} records in {report.segments} segment(s),"
        f" {report.first_time} to {report.last_time}"
    )
    for line in _remarks(report):
        print(f"{INDENT}{line}")


def _remarks(report: LogReport) -> Iterator[str]:
    """Yield what a reader of the verdict must know, a line each."""
    yield (
        f"{report.checkpoints:,} checkpoints signed as {escape_controls(report.origin)},"
        f" the last over {report.signed:,} records"
    )
    if report.unsigned:
        yield (
            f"{report.unsigned} record(s) at the end have no checkpoint yet: if some were cut off,"
            " this check could not find it"
        )
    if report.open or report.unknown:
        yield (
            f"{report.open} call(s) open at the end, {report.unknown} closed as unknown after a"
            " crash"
        )
    if not report.ended_in_order:
        yield (
            f"no clean end: still open, killed, or truncated after {report.last_time} (a checkpoint"
            " from elsewhere tells: --since-checkpoint)"
        )
    if report.gaps:
        yield f"{report.gaps} gap(s) on record in which the log could not be written"
    if report.torn_bytes:
        yield (
            f"the last {report.torn_bytes} bytes are an incomplete record (being written, or torn)"
        )
    yield from (escape_controls(note) for note in report.notes)
