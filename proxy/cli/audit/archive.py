"""``callgate audit archive``: move old sealed segments to another directory, on record."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from proxy import __version__
from proxy.audit.archive import Plan, copy, plan, remove
from proxy.audit.checking.chain import VerificationError
from proxy.audit.format.layout import OPERATOR, logs
from proxy.audit.writing.journal import Journal
from proxy.cli.audit.common import Config, Directory, directory_with_logs, fail, instant, verb
from proxy.common.text import escape_controls
from proxy.errors import ConfigError


@verb("archive", "--before 90d --to /mnt/worm/callgate --dir /var/lib/callgate/audit")
def archive(
    before: Annotated[
        str,
        typer.Option(
            "--before",
            help="Move segments whose records are all older: 2026-01-31, or 90d.",
            metavar="TIME",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="The directory to move them to.")],
    dir_: Directory = None,
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be moved, and move nothing.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--signing-key",
            help="The private key, if it is not in the audit directory.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compress old sealed segments, copy them with their checkpoints, record it, then remove them.

    The gate may write meanwhile. What remains verifies, and so does the archive, with the same key.
    """
    directory, limit = directory_with_logs(dir_, config), instant(before)
    assert limit is not None
    try:
        plans = [
            found
            for path in logs(directory).values()
            if path.name != OPERATOR and (found := plan(path, limit)) is not None
        ]
        for planned in plans:
            print(
                f"{escape_controls(planned.origin)}: segments {planned.first} to {planned.last},"
                f" up to record {planned.size - 1:,}"
            )
        if not plans:
            print("nothing is that old")
        elif not dry_run:
            _move(directory, plans, to.resolve(), None if key is None else key.read_bytes())
    except (OSError, VerificationError) as error:
        fail(f"cannot archive: {escape_controls(error)}")
    except ConfigError as error:
        fail(str(error))


def _move(directory: Path, plans: list[Plan], to: Path, signing_key: bytes | None) -> None:
    copied = [(planned, copy(planned, to)) for planned in plans]
    asyncio.run(_record(directory, plans, to, signing_key))
    for planned, files in copied:
        remove(files)
        print(
            f"moved {len(planned.numbers)} segment(s) of {escape_controls(planned.origin)}"
            f" to {to / planned.directory.name}"
        )


async def _record(directory: Path, plans: list[Plan], to: Path, signing_key: bytes | None) -> None:
    """Write and sign the ``archived`` records; return when they are durable."""
    journal = Journal.open(
        directory,
        name=OPERATOR,
        origin_prefix=plans[0].origin.rpartition("/")[0],
        software=f"callgate {__version__}",
        signing_key=signing_key,
    )
    before = journal.size
    for planned in plans:
        journal.record_event("archived", planned.record(to / planned.directory.name))
    await journal.close()
    if journal.failure is not None or journal.size < before + len(plans):
        raise OSError("the archived record could not be written")
