"""``callgate audit tail``: the last records, and with ``-f`` the ones that follow."""

import sys
import time
from typing import Annotated

import typer

from proxy.audit.reading.reader import LogEntry, LogFollower, last_entries
from proxy.audit.reading.rows import RowFormatter
from proxy.cli.audit.common import (
    AsJson,
    Config,
    Directory,
    directory_with_logs,
    print_table,
    verb,
)

# Seconds between polls of the files: live to a reader, no load on a disk.
POLL_SECONDS = 0.2


@verb("tail", "-f --dir /var/lib/callgate/audit")
def tail(
    dir_: Directory = None,
    config: Config = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many of the last records to show.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue with records as they are written.")
    ] = False,
    local_time: Annotated[
        bool,
        typer.Option("--local-time", help="Show times in this machine's zone instead of UTC."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last records of all logs; with -f, follow rotation and new processes."""
    directory = directory_with_logs(dir_, config)
    follower = LogFollower(directory) if follow else None
    rows = RowFormatter(local_time=local_time)
    _print(last_entries(directory, lines), rows, as_json=as_json)
    try:
        while follower is not None:
            sys.stdout.flush()
            time.sleep(POLL_SECONDS)
            _print(follower.poll(), rows, as_json=as_json)
    except (KeyboardInterrupt, BrokenPipeError):
        raise typer.Exit(0) from None


def _print(entries: list[LogEntry], rows: RowFormatter, *, as_json: bool) -> None:
    if as_json:
        for entry in entries:
            sys.stdout.write(entry.raw.decode("utf-8", "backslashreplace") + "\n")
    elif entries:
        print_table([rows.row(entry) for entry in entries])
