"""What the audit verbs share: the sub-application, where the log is, and how a table is printed."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from proxy.audit.format.layout import logs
from proxy.audit.reading.rows import COLUMNS
from proxy.cli.audit.renamed import Verb, VerbGroup
from proxy.common.durations import DURATION, parse_duration
from proxy.common.text import escape_controls

# Characters. A longer cell of a plain table does not widen its column, which would push the
# columns of all other rows aside.
MAX_PADDED_WIDTH = 40

Function = TypeVar("Function", bound=Callable[..., None])

app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Read, check and report on the audit log.",
)

Directory = Annotated[
    Path | None,
    typer.Option("--dir", "-d", help="The audit directory, or one log in it.", show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="A callgate.toml that names the audit directory.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def verb(
    name: str, example: str, group: typer.Typer = app, path: str = ""
) -> Callable[[Function], Function]:
    """Make a function the verb `name` of `group`; its help ends with an example.

    Args:
        name: the verb.
        example: what follows the verb in the example.
        group: the application that gets the verb.
        path: the group's own verb with a space behind it, if it is not `app`.

    """
    return group.command(
        name, cls=Verb, epilog=f"Example: callgate audit {path}{name} {example}".rstrip()
    )


def fail(message: str, code: int = 2) -> NoReturn:
    """Print an error and exit; the code 2 means that the question could not be answered."""
    print(f"callgate audit: {message}", file=sys.stderr)
    raise typer.Exit(code)


def audit_directory(given: Path | None, config: Path | None) -> Path:
    """Return the directory from ``--dir``, or else from the settings."""
    found = given
    if found is None:
        path = config or Path("callgate.toml")
        if not path.is_file():
            fail(
                f"no settings at {path}. Name the audit directory with --dir, or the settings"
                " with --config."
            )
        # Imported here: with --dir, no settings are read.
        from proxy.config.loading import load_settings
        from proxy.errors import ConfigError

        try:
            found = Path(load_settings(path).audit.directory)
        except ConfigError as error:
            fail(str(error))
    if not found.is_dir():
        fail(f"{escape_controls(found)} is not a directory")
    return found


def directory_with_logs(given: Path | None, config: Path | None) -> Path:
    """Return the directory from ``--dir`` or the settings; exit unless it holds a log."""
    found = audit_directory(given, config)
    if not logs(found):
        fail(f"there is no log in {escape_controls(found)}. Name an audit directory, or one log.")
    return found


def instant(text: str | None) -> str | None:
    """Return a time in the form that records have.

    Takes a date, a date and time (UTC unless it has an offset), or a duration before now such as
    2h or 7d.
    """
    if text is None:
        return None
    if DURATION.fullmatch(text) is not None:
        moment = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            fail(f"{text!r} is not a time. Write 2026-01-31, 2026-01-31T12:00Z, 2h or 7d.")
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def print_table(rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS) -> None:
    """Print rows in aligned columns: with header and colours on a terminal, plainly in a pipe.

    No cell is cut or folded, so an id can be copied.
    """
    if sys.stdout.isatty():
        print_rich_table(
            [[Text(cell, style=colour(cell)) for cell in row] for row in rows], columns
        )
        return
    if not rows:
        return
    widths = [
        min(MAX_PADDED_WIDTH, max(len(row[column]) for row in rows))
        for column in range(len(columns))
    ]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_rich_table(
    rows: Sequence[Sequence[RenderableType]],
    columns: Sequence[str],
    *,
    header: bool = True,
    right: Sequence[str] = (),
) -> None:
    """Print a table on a terminal, as wide as it needs to be.

    Args:
        rows: cells, as many as there are columns.
        columns: the names in the header.
        header: whether there is a header.
        right: the columns to align at the right.

    """
    table = Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True, justify="right" if name in right else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    wide = console.options.update(width=1_000_000)
    console.width = max(console.width, Measurement.get(console, wide, table).maximum)
    console.print(table)


def colour(cell: str) -> str:
    """Return the colour of a cell, by its first word."""
    word = cell.partition(" ")[0]
    return {
        "deny": "red",
        "failed": "red",
        "rejected,": "yellow",
        "rejected": "yellow",
        "unknown": "yellow",
        "allow": "green",
    }.get(word, "")
