"""``callgate reload``: apply changed settings, policies and certificates to a running proxy."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from proxy.cli.options import CONFIG
from proxy.cli.problems import print_problems
from proxy.cli.serve import status_file

if TYPE_CHECKING:
    from proxy.errors import Problem
    from proxy.runtime.supervision.announcement import Report
    from proxy.runtime.supervision.status_file import Status

EXAMPLE = "callgate reload --config /etc/callgate/callgate.toml"
# Seconds to wait for the result: beyond those in which the supervisor kills a process that hangs.
TIMEOUT_SECONDS = 90.0
POLL_SECONDS = 0.05


def command(config: Path = CONFIG) -> None:
    """Replace the serving processes by new ones, without losing a call.

    Exits with 0 if the new processes serve, with all of the settings in force. Exits with 1 if they
    did not start, and prints why: then the previous ones are still serving. Exits with 1 also if
    they serve and some changed settings need a restart: these are listed. Exits with 2 if no
    Callgate with these settings is running.
    """
    from proxy.config.loading import load_settings
    from proxy.runtime.supervision.status_file import read_report, read_status, signal_supervisor

    path = status_file(load_settings(config))
    try:
        _require_same_settings(read_status(path), config)
        before = signal_supervisor(path, signal.SIGHUP)
    except OSError as error:
        _fail(
            f"the running Callgate cannot be signalled: {error.strerror}. "
            "Run this as the user that Callgate runs as."
        )
    if before is None:
        _fail(
            "no Callgate with these settings is running. Start it with callgate serve. If "
            "audit.directory or audit.name has changed, restart it. (A demo cannot be reloaded: "
            "stop it, and start it again.)"
        )
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        after = read_status(path)
        if after is None:
            _fail("Callgate ended during the reload. See its log.")
        if after.reloads_finished > before.reloads_started:
            _print_result(after, read_report(path, after))
            return
        time.sleep(POLL_SECONDS)
    _fail(f"the reload has not finished within {TIMEOUT_SECONDS:g} seconds. See the log.")


def _require_same_settings(running: "Status | None", config: Path) -> None:
    """Leave with 2 if the running Callgate reads another file: it would not read `config`."""
    if running is None or not running.config:
        return
    try:
        same = Path(running.config).samefile(config)
    except OSError:  # it is gone, which the new processes will say
        same = running.config == str(config.absolute())
    if not same:
        _fail(f"the running Callgate reads {running.config}. Name that file with --config.")


def _print_result(after: "Status", report: "Report | None") -> None:
    """Print the result of a reload; leave with 1 unless all of it is in force."""
    from proxy.cli.unapplied import overrides_unseen

    if after.last_exit_code:
        typer.echo(
            "callgate: reload failed: the new processes did not start; "
            "the previous ones are still serving.",
            err=True,
        )
        if report is None:
            typer.echo("The reasons are not in the status file: see the log.", err=True)
        else:
            _print_all(report.problems, report.omitted)
        raise typer.Exit(1)
    typer.echo(f"reloaded: generation {after.generation} is serving")
    unseen = list(overrides_unseen(after.pid, os.environ))
    if not after.unapplied and not unseen:
        return
    typer.echo("callgate: not in force yet:", err=True)
    known = report.unapplied if report else ()
    _print_all([*known, *unseen], after.unapplied - len(known))
    raise typer.Exit(1)


def _print_all(problems: "Sequence[Problem]", omitted: int) -> None:
    print_problems(problems)
    if omitted:
        typer.echo(f"{omitted} more: see the log, or run callgate check.", err=True)


def _fail(text: str) -> NoReturn:
    typer.echo(f"callgate: {text}", err=True)
    raise typer.Exit(2)
