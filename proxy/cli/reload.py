"""``callgate reload``: have a running gate take its settings, policies and certificates as they are now."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import typer

from proxy.cli.serve import CONFIG, status_file

EXAMPLE = "callgate reload --config /etc/callgate/callgate.toml"
_PATIENCE_SECONDS = 90.0
_LOOK_SECONDS = 0.05


def command(config: Path = CONFIG) -> None:
    """Put new processes in the place of those that serve, without losing a call.

    Leaves with 0 when the new processes serve, with 1 when they could not start and the old ones go on serving (the gate's
    log says why; so does `callgate check`), and with 2 when no gate with these settings runs.
    """
    from proxy.config import load_settings

    path = status_file(load_settings(config))
    before = _read(path)
    if before is None:
        typer.echo(f"callgate: no gate with these settings is running ({path.name} is not there). Start it with callgate serve.", err=True)
        raise typer.Exit(2)
    try:
        os.kill(before["pid"], signal.SIGHUP)
    except (ProcessLookupError, PermissionError) as error:
        typer.echo(f"callgate: the gate (process {before['pid']}) cannot be signalled: {error.strerror}.", err=True)
        raise typer.Exit(2) from None
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        after = _read(path)
        if after is not None and after["at"] != before["at"]:
            if after["refused"]:
                typer.echo(
                    "callgate: refused: the new processes could not start, the old ones serve on. See the gate's log.", err=True
                )
                raise typer.Exit(1)
            typer.echo(f"reloaded: generation {after['generation']} serves")
            return
        time.sleep(_LOOK_SECONDS)
    typer.echo(f"callgate: no answer from the gate within {_PATIENCE_SECONDS:g} seconds. See its log.", err=True)
    raise typer.Exit(2)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        status: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return status
