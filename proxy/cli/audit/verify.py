"""``callgate audit verify``: check logs offline. 0 intact, 1 broken, 2 could not tell."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.audit.checking.verify import (
    Keys,
    LogReport,
    checkpoint_signed_by,
    verify_directory,
    verify_log,
)
from proxy.audit.checking.verify import Progress as Count
from proxy.audit.format.checkpoint import (
    BadCheckpointError,
    Checkpoint,
    format_key,
    parse_keys,
    split,
)
from proxy.audit.format.record import dumps
from proxy.audit.reading.reader import last_entries
from proxy.audit.writing.disk import OPERATOR, logs, segments
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.cli.audit.common import AsJson, app, fail
from proxy.common.text import escape_controls
from proxy.errors import ConfigError

Key = Annotated[
    str | None,
    typer.Option(
        "--key", "-k", metavar="KEY", show_default=False,
        help="The public key, from a place the operator cannot write: a file, or the text that callgate audit key show prints.",
    ),
]  # fmt: skip


@app.command(
    epilog="Example: callgate audit verify /var/lib/callgate/audit --key signing.pub --from last-month.checkpoint"
)
def verify(
    path: Annotated[
        Path, typer.Argument(help="An audit directory, one log in it, or one segment.")
    ],
    key: Key = None,
    since: Annotated[
        Path | None,
        typer.Option(
            "--from", help="What --keep wrote in an earlier check: check what came after it."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep", help="Write the last checkpoint of each log here, to keep for the next check."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that every record is there, in order, unaltered, and signed for.

    Whoever can write the directory can cut a log and its checkpoints back to an earlier end: what
    --keep wrote, kept elsewhere and given as --from, shows that.
    """
    if not path.exists():
        fail(f"there is no {path}: name an audit directory, one log in it, or one segment")
    directory = path if path.is_dir() else path.parent
    keys = trusted_keys(directory, key, quiet=as_json)
    try:
        kept = [] if since is None else _kept(since, keys)
        with progress(directory, quiet=as_json) as count:
            reports = _check(path, keys, kept, count)
    except (OSError, BadCheckpointError) as error:
        fail(f"cannot check: {escape_controls(error)}")
    if not reports:
        fail(f"there is no log in {path}")
    gone = [
        checkpoint
        for checkpoint in kept
        if not any(report.origin == checkpoint.origin or report.broken for report in reports)
    ]
    if kept and len(gone) == len(kept):
        fail(
            f"the kept checkpoint is of the log {escape_controls(kept[0].origin)}, which is not here"
        )
    for report in reports:
        print(dumps(as_dict(report)).decode()) if as_json else _print(report)
    if path.is_dir() and not segments(path):
        for checkpoint in gone:
            text = f"{escape_controls(checkpoint.origin)}: a checkpoint over {checkpoint.size:,} records was kept, and the log is not here"
            print(
                dumps({"log": checkpoint.origin, "intact": False, "text": text}).decode()
                if as_json
                else f"BROKEN  {text}"
            )
    else:
        gone = []
    if gone or any(report.broken for report in reports):
        raise typer.Exit(1)
    if keep is not None:
        try:
            keep.write_bytes(
                b"\n".join(report.last.note for report in reports if report.last is not None)
            )
        except OSError as error:
            fail(f"cannot write {keep}: {error.strerror}")


def _kept(path: Path, keys: Keys) -> list[Checkpoint]:
    """Return the checkpoints of a file that ``--keep`` wrote, each signed by a known key."""
    found = [checkpoint_signed_by(note, keys) for note in split(path.read_bytes())]
    if not found:
        raise BadCheckpointError(f"{path} holds no checkpoint")
    return found


def named_keys(key: str) -> Keys:
    """Return the public keys of a file, or the one that is given as text."""
    path = Path(key)
    if not path.exists() and key.count("+") >= 2:
        try:
            return parse_keys(key)
        except BadCheckpointError as error:
            fail(f"{escape_controls(key)} is no public key: {error}")
    if not path.is_file():
        fail(
            f"there is no file {escape_controls(key)}: give a file of public keys, or the text that callgate audit key show prints"
        )
    try:
        return public_keys(path)
    except ConfigError as error:
        fail(str(error))


def trusted_keys(directory: Path, key: str | None, *, quiet: bool = False) -> Keys:
    """Return the public keys to check with; say so when they come from beside the log."""
    beside = next(
        (
            place / PUBLIC_KEYS
            for place in (directory, directory.parent)
            if (place / PUBLIC_KEYS).is_file()
        ),
        None,
    )
    if key is None and beside is None:
        fail(
            f"there is no public key beside {directory}: name one with --key, or an audit directory that holds {PUBLIC_KEYS}"
        )
    chosen = key if key is not None else str(beside)
    keys = named_keys(chosen)
    if key is None and not quiet:
        print(f"Checked with the key beside the log ({chosen}):", file=sys.stderr)
        for name, public in keys:
            print(f"  {format_key(name, public)}", file=sys.stderr)
        print(
            "Whoever could alter the log could have replaced that key too: compare it with one kept elsewhere (--key).",
            file=sys.stderr,
        )
    return keys


def as_dict(report: LogReport) -> dict[str, object]:
    """Return a report for ``--json``."""
    broken = report.broken
    return {
        "log": report.log, "origin": report.origin, "intact": broken is None,
        "wrong": broken and broken.defect.value, "record": broken and broken.seq, "segment": report.segment, "text": broken and broken.text,
        "first": report.first, "records": report.records, "segments": report.segments, "checkpoints": report.checkpoints,
        "signed": report.signed, "unsigned": report.unsigned, "torn_bytes": report.torn_bytes, "begins": report.first_time, "ends": report.last_time,
        "open": report.open, "unknown": report.unknown, "gaps": report.gaps, "notes": report.notes,
        "checkpoint": report.last.note.decode() if report.last else None,
    }  # fmt: skip


def _check(path: Path, keys: Keys, kept: list[Checkpoint], count: Count | None) -> list[LogReport]:
    if path.is_dir():
        return verify_directory(
            path, keys, kept=kept, operator=operator_beside(path), progress=count
        )
    stem = path.name.partition(".")[0]
    if not path.is_file() or not stem.isdigit():
        fail(f"{path} is no segment of a log")
    return [verify_log(path.parent, keys, only=int(stem), progress=count)]


def _print(report: LogReport) -> None:
    size = f"{report.records:,} records in {report.segments} segment(s), {report.first_time} to {report.last_time}"
    if report.broken is not None:
        where = "" if report.broken.seq is None else f" record {report.broken.seq}"
        print(
            f"BROKEN  {report.log}:{where} in segment {report.segment}: {escape_controls(report.broken.text)} [{report.broken.defect}]"
        )
        return
    print(f"INTACT  {report.log}: {size}")
    print(
        f"        {report.checkpoints:,} checkpoints signed as {escape_controls(report.origin)}, the last over {report.signed:,} records"
    )
    if report.unsigned:
        print(
            f"        {report.unsigned} record(s) at the end have no checkpoint yet: of those a cut could not be seen"
        )
    if report.open or report.unknown:
        print(
            f"        {report.open} call(s) open at the end, {report.unknown} closed as unknown after a process ended without order"
        )
    if not report.ended_in_order:
        print(
            f"        does not end in order: being written, killed, or cut after {report.last_time} (a checkpoint kept elsewhere tells: --from)"
        )
    if report.gaps:
        print(f"        {report.gaps} gap(s) on record in which the log could not be written")
    if report.torn_bytes:
        print(
            f"        the last {report.torn_bytes} bytes are the beginning of a record (being written, or torn)"
        )
    for note in report.notes:
        print(f"        {escape_controls(note)}")


def operator_beside(directory: Path) -> Path | None:
    """Return where the acts on a log are recorded, when `directory` is one log."""
    return (
        directory.parent / OPERATOR if segments(directory) and directory.name != OPERATOR else None
    )


@contextmanager
def progress(directory: Path, *, quiet: bool) -> Iterator[Count | None]:
    """Show a bar on a terminal, nothing in a pipe. The goal is what the logs' last records say that
    they are.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    goal = sum(
        int(item.record.get("seq", 0))
        for path in logs(directory).values()
        for item in last_entries(path, 1)
    )
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=goal or None)
        yield lambda count: bar.advance(task, count)
