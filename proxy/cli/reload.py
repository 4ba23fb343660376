"""``callgate reload``: have a running gate take its settings, policies and certificates as they are
now.
"""

import os
import signal
import time
from pathlib import Path
from typing import NoReturn

import typer

from proxy.cli.options import CONFIG
from proxy.cli.serve import status_file

EXAMPLE = "callgate reload --config /etc/callgate/callgate.toml"
_PATIENCE_SECONDS = 90.0
_LOOK_SECONDS = 0.05


def command(config: Path = CONFIG) -> None:
    """Put new processes in the place of those that serve, without losing a call.

    Leaves with 0 when the new processes serve, with 1 when they could not start and the old ones go
    on serving (the gate's log says why; so does `callgate check`), and with 2 when no gate with
    these settings runs.
    """
    from proxy.config.loading import load_settings
    from proxy.runtime.status_file import read_status

    path = status_file(load_settings(config))
    try:
        before = read_status(path)
        if before is None:
            _fail(
                "no gate with these settings is running. Start it with callgate serve. "
                "(If a demo runs with them: it cannot be reloaded; end it, and start it again.)"
            )
        os.kill(before.pid, signal.SIGHUP)
    except OSError as error:
        _fail(
            f"the running gate cannot be told: {error.strerror}. Run this as the user that the gate runs as."
        )
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        after = read_status(path)
        if after is None:
            _fail("the gate ended meanwhile. See its log.")
        if after.reloads_finished > before.reloads_started:
            if after.last_exit_code:
                typer.echo(
                    "callgate: refused: the new processes could not start, the old ones serve on. See the gate's log.",
                    err=True,
                )
                raise typer.Exit(1)
            typer.echo(f"reloaded: generation {after.generation} serves")
            return
        time.sleep(_LOOK_SECONDS)
    _fail(f"no answer from the gate within {_PATIENCE_SECONDS:g} seconds. See its log.")


def _fail(text: str) -> NoReturn:
    typer.echo(f"callgate: {text}", err=True)
    raise typer.Exit(2)
