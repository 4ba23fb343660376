"""Options that several verbs have."""

from pathlib import Path

import typer

CONFIG = typer.Option(
    Path("callgate.toml"), "--config", "-c", envvar="CALLGATE_CONFIG", help="The settings file."
)
