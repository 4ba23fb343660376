"""``callgate audit tail``: the last records, and with ``-f`` the ones that come."""

import sys
import time
from typing import Annotated

import typer

from proxy.audit.reading.reader import LogEntry, LogFollower, last_entries
from proxy.audit.reading.rows import RowFormatter
from proxy.cli.audit.common import AsJson, Config, Directory, app, directory, table

_LOOK = 0.2  # seconds between looks at the files: live to a reader, nothing to a disk


@app.command(epilog="Example: callgate audit tail -f --dir /var/lib/callgate/audit")
def tail(
    dir_: Directory = None,
    config: Config = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many of the last records to show.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with records as they are written.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Show times in this machine's zone instead of UTC.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last records of all logs; follow rotation and new processes with -f."""
    where = directory(dir_, config)
    follower = LogFollower(where) if follow else None
    rows = RowFormatter(local_time=local)
    _show(last_entries(where, lines), rows, as_json=as_json)
    try:
        while follower is not None:
            sys.stdout.flush()
            time.sleep(_LOOK)
            _show(follower.poll(), rows, as_json=as_json)
    except (KeyboardInterrupt, BrokenPipeError):
        raise typer.Exit(0) from None


def _show(items: list[LogEntry], rows: RowFormatter, *, as_json: bool) -> None:
    if as_json:
        for item in items:
            sys.stdout.write(item.raw.decode("utf-8", "backslashreplace") + "\n")
    elif items:
        table(rows.row(item.log, item.record) for item in items)
