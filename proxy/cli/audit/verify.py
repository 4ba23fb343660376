"""``callgate audit verify``: check logs offline. 0 intact, 1 broken, 2 could not tell."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.audit.checkpoint import BadCheckpointError, Checkpoint, format_key
from proxy.audit.files import logs
from proxy.audit.keys import PUBLIC_KEYS, public_keys
from proxy.audit.reader import last_items
from proxy.audit.record import dumps
from proxy.audit.show import printable
from proxy.audit.verify import Keys, LogReport, known_checkpoint, verify_directory, verify_log
from proxy.audit.verify import Progress as Count
from proxy.cli.audit.common import AsJson, app, fail
from proxy.errors import ConfigError

Key = Annotated[
    Path | None, typer.Option("--key", "-k", help="The public key, from a place the operator cannot write.", show_default=False)
]


@app.command(epilog="Example: callgate audit verify /var/lib/callgate/audit --key signing.pub --from last-month.checkpoint")
def verify(
    path: Annotated[Path, typer.Argument(help="An audit directory, one log in it, or one segment.")],
    key: Key = None,
    since: Annotated[Path | None, typer.Option("--from", help="A checkpoint kept from an earlier check: check what came after it.")] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Write the last checkpoint here, to keep for the next check (one log).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that every record is there, in order, unaltered, and signed for."""
    directory = path if path.is_dir() else path.parent
    keys = trusted_keys(directory, key, quiet=as_json)
    try:
        kept = None if since is None else known_checkpoint(since.read_bytes(), keys)
        with progress(directory, quiet=as_json) as count:
            reports = _check(path, keys, kept, count)
    except (OSError, BadCheckpointError) as error:
        fail(f"cannot check: {printable(error)}")
    if not reports:
        fail(f"there is no log in {path}")
    if kept is not None and not any(report.origin == kept.origin or report.broken for report in reports):
        fail(f"the kept checkpoint is of the log {printable(kept.origin)}, which is not here")
    for report in reports:
        print(dumps(as_dict(report)).decode()) if as_json else _print(report)
    if any(report.broken for report in reports):
        raise typer.Exit(1)
    if keep is not None:
        last = [report.last for report in reports if report.last is not None]
        if len(last) != 1:
            fail("--keep needs one log: name its directory")
        keep.write_bytes(last[0].note)


def trusted_keys(directory: Path, key: Path | None, *, quiet: bool = False) -> Keys:
    """Return the public keys to check with; say so when they come from beside the log."""
    beside = next((place / PUBLIC_KEYS for place in (directory, directory.parent) if (place / PUBLIC_KEYS).is_file()), None)
    chosen = key or beside
    if chosen is None:
        fail("there is no public key beside the log: name one with --key")
    try:
        keys = public_keys(chosen)
    except ConfigError as error:
        fail(str(error))
    if key is None and not quiet:
        print(f"Checked with the key beside the log ({chosen}):", file=sys.stderr)
        for name, public in keys:
            print(f"  {format_key(name, public)}", file=sys.stderr)
        print("Whoever could alter the log could have replaced that key too: compare it with one kept elsewhere (--key).", file=sys.stderr)
    return keys


def as_dict(report: LogReport) -> dict[str, object]:
    """Return a report for ``--json``."""
    broken = report.broken
    return {
        "log": report.log, "origin": report.origin, "intact": broken is None,
        "wrong": broken and broken.wrong.value, "record": broken and broken.seq, "segment": report.segment, "text": broken and broken.text,
        "first": report.first, "records": report.records, "segments": report.segments, "checkpoints": report.checkpoints,
        "signed": report.signed, "unsigned": report.unsigned, "torn_bytes": report.torn, "begins": report.begins, "ends": report.ends,
        "open": report.open, "unknown": report.unknown, "gaps": report.gaps, "notes": report.notes,
        "checkpoint": report.last.note.decode() if report.last else None,
    }  # fmt: skip


def _check(path: Path, keys: Keys, kept: Checkpoint | None, count: Count | None) -> list[LogReport]:
    if path.is_dir():
        return verify_directory(path, keys, kept=kept, progress=count)
    stem = path.name.partition(".")[0]
    if not path.is_file() or not stem.isdigit():
        fail(f"{path} is no segment of a log")
    return [verify_log(path.parent, keys, only=int(stem), progress=count)]


def _print(report: LogReport) -> None:
    size = f"{report.records:,} records in {report.segments} segment(s), {report.begins} to {report.ends}"
    if report.broken is not None:
        where = "" if report.broken.seq is None else f" record {report.broken.seq}"
        print(f"BROKEN  {report.log}:{where} in segment {report.segment}: {printable(report.broken.text)} [{report.broken.wrong}]")
        return
    print(f"INTACT  {report.log}: {size}")
    print(f"        {report.checkpoints:,} checkpoints signed as {printable(report.origin)}, the last over {report.signed:,} records")
    if report.unsigned:
        print(f"        {report.unsigned} record(s) at the end have no checkpoint yet: of those a cut could not be seen")
    if report.open or report.unknown:
        print(f"        {report.open} call(s) open at the end, {report.unknown} closed as unknown after a process ended without order")
    if report.gaps:
        print(f"        {report.gaps} gap(s) on record in which the log could not be written")
    if report.torn:
        print(f"        the last {report.torn} bytes are the beginning of a record (being written, or torn)")
    for note in report.notes:
        print(f"        {printable(note)}")


@contextmanager
def progress(directory: Path, *, quiet: bool) -> Iterator[Count | None]:
    """Show a bar on a terminal, nothing in a pipe. The goal is what the logs' last records say that they are."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    goal = sum(int(item.record.get("seq", 0)) for path in logs(directory).values() for item in last_items(path, 1))
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=goal or None)
        yield lambda count: bar.advance(task, count)
