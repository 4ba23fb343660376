"""What the audit verbs share: the sub-application, where the log is, and how a table is printed."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from proxy.audit.reading.rows import COLUMNS
from proxy.audit.writing.disk import logs
from proxy.common.durations import DURATION, parse_duration

_WIDE = 40  # a longer cell does not push the columns of all other rows aside

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Read, check and report on the audit log."
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


def fail(message: str, code: int = 2) -> NoReturn:
    """End with a message; 2 means that the question could not be answered."""
    print(f"callgate audit: {message}", file=sys.stderr)
    raise typer.Exit(code)


def directory(given: Path | None, config: Path | None) -> Path:
    """Return the audit directory from ``--dir``, else from the settings."""
    found = given
    if found is None:
        path = config or Path("callgate.toml")
        if not path.is_file():
            fail(
                f"there are no settings at {path}: name the audit directory with --dir, or the settings with --config"
            )
        # here, so that reading a log with --dir needs no settings machinery
        from proxy.config.loading import load_settings
        from proxy.errors import ConfigError

        try:
            found = Path(load_settings(path).audit.directory)
        except ConfigError as error:
            fail(str(error))
    if not found.is_dir():
        fail(f"{found} is no directory")
    if not logs(found):
        fail(
            f"there is no log in {found}: name the directory in which a gate keeps its audit logs, or one log in it"
        )
    return found


def instant(text: str | None) -> str | None:
    """Return a time as records have it: from a date, a date and time (UTC unless it says
    otherwise), or a span like 2h or 7d ago.
    """
    if text is None:
        return None
    if DURATION.fullmatch(text) is not None:
        moment = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            fail(f"{text!r} is no time: write 2026-01-31, 2026-01-31T12:00Z, or 2h, 7d")
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def table(rows: Iterable[Sequence[str]], columns: Sequence[str] = COLUMNS) -> None:
    """Print aligned lines, never cut or folded, so that an id can be copied; coloured and with a
    header on a terminal.
    """
    held = list(rows)
    widths = (
        [min(_WIDE, max(len(row[column]) for row in held)) for column in range(len(columns))]
        if held
        else []
    )
    if not sys.stdout.isatty():
        for row in held:
            print(
                "  ".join(
                    cell.ljust(width) for cell, width in zip(row, widths, strict=True)
                ).rstrip()
            )
        return
    console = Console(soft_wrap=True, highlight=False)
    widths = [max(width, len(name)) for width, name in zip(widths, columns, strict=bool(held))]
    console.print(
        Text(
            "  ".join(
                name.ljust(width) for name, width in zip(columns, widths, strict=bool(held))
            ).rstrip(),
            style="bold",
        )
    )
    for row in held:
        cells = (
            Text(cell.ljust(width), style=colour(cell))
            for cell, width in zip(row, widths, strict=True)
        )
        console.print(Text("  ").join(cells))


def colour(cell: str) -> str:
    """Return the colour of a cell by what it says."""
    word = cell.partition(" ")[0]
    return {
        "deny": "red",
        "failed": "red",
        "rejected,": "yellow",
        "rejected": "yellow",
        "unknown": "yellow",
        "allow": "green",
    }.get(word, "")
