"""``callgate audit find-secret``: which records hold a suspected secret."""

import sys
from typing import Annotated

import typer

from proxy.audit.reading.records import DecidedRecord
from proxy.audit.reading.secret_search import find_secret as search
from proxy.audit.writing.keys import HMAC_KEY, load_hmac_key
from proxy.cli.audit.common import Config, Directory, directory_with_logs, fail, print_table, verb
from proxy.common.text import escape_controls
from proxy.errors import ConfigError


@verb("find-secret", "- --dir /var/lib/callgate/audit < suspected-password")
def find_secret(
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE",
            help="The value to look for; - reads it from standard input, without a final line end.",
        ),
    ],
    dir_: Directory = None,
    config: Config = None,
) -> None:
    """List the records that hold a value which was redacted. The exit code is 1 when none does.

    Needs the HMAC key of the audit directory.
    """
    directory = directory_with_logs(dir_, config)
    if value == "-":
        value = sys.stdin.read().removesuffix("\n")
    home = directory if (directory / HMAC_KEY).exists() else directory.parent
    try:
        key = load_hmac_key(home, make=False)
    except ConfigError as error:
        fail(str(error))
    rows = []
    for entry, argument in search(directory, key, value):
        call_id = entry.record.id if isinstance(entry.record, DecidedRecord) else ""
        rows.append((entry.time, entry.log, escape_controls(call_id), escape_controls(argument)))
    if not rows:
        print("no record holds it")
        raise typer.Exit(1)
    print_table(rows, ("time", "log", "id", "argument"))
