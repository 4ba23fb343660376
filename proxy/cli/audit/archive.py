"""``callgate audit archive``: move old sealed segments elsewhere, on record."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from proxy.audit.archive import Plan, copy, plan, remove
from proxy.audit.checking.chain import VerificationError
from proxy.audit.writing.disk import OPERATOR, logs
from proxy.audit.writing.journal import Journal
from proxy.cli.audit.common import Config, Directory, app, directory, fail, instant
from proxy.common.text import escape_controls
from proxy.errors import ConfigError


@app.command(
    epilog="Example: callgate audit archive --before 90d --to /mnt/worm/callgate --dir /var/lib/callgate/audit"
)
def archive(
    before: Annotated[
        str,
        typer.Option(
            "--before",
            help="Move segments wholly older than this: 2026-01-31, or 90d.",
            metavar="TIME",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="The directory to move them to.")],
    dir_: Directory = None,
    config: Config = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would be moved.")] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--signing-key",
            help="The private key, if it is not beside the log.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compress old sealed segments, copy them with their checkpoints, record it, and only then
    remove them here.

    The gate may go on writing meanwhile. What remains verifies; so does the archive, with the same
    key.
    """
    where, limit = directory(dir_, config), instant(before)
    assert limit is not None
    try:
        plans = [
            found
            for path in logs(where).values()
            if path.name != OPERATOR and (found := plan(path, limit)) is not None
        ]
        for planned in plans:
            print(
                f"{escape_controls(planned.origin)}: segments {planned.first} to {planned.last}, up to record {planned.size - 1:,}"
            )
        if not plans:
            print("nothing is that old")
        elif not dry:
            _move(where, plans, to.resolve(), None if key is None else key.read_bytes())
    except (OSError, VerificationError) as error:
        fail(f"cannot archive: {escape_controls(error)}")
    except ConfigError as error:
        fail(str(error))


def _move(where: Path, plans: list[Plan], to: Path, signing_key: bytes | None) -> None:
    copied = [(planned, copy(planned, to)) for planned in plans]
    asyncio.run(_record(where, plans, to, signing_key))
    for planned, files in copied:
        remove(files)
        print(
            f"moved {len(planned.numbers)} segment(s) of {escape_controls(planned.origin)} to {to / planned.directory.name}"
        )


async def _record(where: Path, plans: list[Plan], to: Path, signing_key: bytes | None) -> None:
    """Write and sign the records, and come back only when they are durable."""
    journal = Journal.open(
        where, name=OPERATOR, site=plans[0].origin.rpartition("/")[0], signing_key=signing_key
    )
    before = journal.size
    for planned in plans:
        journal.noted("archived", planned.record(to / planned.directory.name))
    await journal.close()
    if journal.failure is not None or journal.size < before + len(plans):
        raise OSError("the record of it could not be written")
