"""``callgate reload``: apply changed settings, policies and certificates to a running proxy."""

import signal
import time
from pathlib import Path
from typing import NoReturn

import typer

from proxy.cli.options import CONFIG
from proxy.cli.serve import status_file

EXAMPLE = "callgate reload --config /etc/callgate/callgate.toml"
# Seconds to wait for the result: beyond those in which the supervisor kills a process that hangs.
TIMEOUT_SECONDS = 90.0
POLL_SECONDS = 0.05


def command(config: Path = CONFIG) -> None:
    """Replace the serving processes by new ones, without losing a call.

    Exits with 0 if the new processes serve, and 1 if they did not start; then the previous ones are
    still serving, and `callgate check` and the log say why. Exits with 2 if no Callgate with these
    settings is running.
    """
    from proxy.config.loading import load_settings
    from proxy.runtime.supervision.status_file import read_status, signal_supervisor

    path = status_file(load_settings(config))
    try:
        before = signal_supervisor(path, signal.SIGHUP)
    except OSError as error:
        _fail(
            f"the running Callgate cannot be signalled: {error.strerror}. "
            "Run this as the user that Callgate runs as."
        )
    if before is None:
        _fail(
            "no Callgate with these settings is running. Start it with callgate serve. "
            "(A demo cannot be reloaded: stop it, and start it again.)"
        )
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        after = read_status(path)
        if after is None:
            _fail("Callgate ended during the reload. See its log.")
        if after.reloads_finished > before.reloads_started:
            if after.last_exit_code:
                typer.echo(
                    "callgate: reload failed: the new processes did not start; "
                    "the previous ones are still serving. See the log, or run callgate check.",
                    err=True,
                )
                raise typer.Exit(1)
            typer.echo(f"reloaded: generation {after.generation} is serving")
            return
        time.sleep(POLL_SECONDS)
    _fail(f"the reload has not finished within {TIMEOUT_SECONDS:g} seconds. See the log.")


def _fail(text: str) -> NoReturn:
    typer.echo(f"callgate: {text}", err=True)
    raise typer.Exit(2)
