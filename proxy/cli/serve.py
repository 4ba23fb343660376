"""``callgate serve``: run the gate until it is told to stop."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proxy.cli.problems import print_problems
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.config import Settings
    from proxy.edge.processes import Place

CONFIG = typer.Option(Path("callgate.toml"), "--config", "-c", envvar="CALLGATE_CONFIG", help="The settings file.")
EXAMPLE = "callgate serve --config /etc/callgate/callgate.toml"


def command(config: Path = CONFIG) -> None:
    """Run the gate with the settings of a file, until SIGTERM or SIGINT.

    On a signal it takes no new calls, finishes those in hand, closes the journal, and leaves with 0. SIGHUP, or `callgate
    reload`, puts new processes with the settings as they are now in the place of the old ones; no call is lost. It logs to
    standard error, and leaves with 2 when the settings, policies or files are wrong.
    """
    from proxy.config import load_settings
    from proxy.edge.logs import set_up_logging
    from proxy.edge.processes import Supervisor

    settings = load_settings(config)
    set_up_logging(settings.log.level, settings.log.format)
    listen = settings.listen
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # for the processes: glibc keeps an arena for each thread otherwise
    settings.audit.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        supervisor = Supervisor(listen.address, listen.port, listen.processes, lambda place: _serve(config, place), status_file(settings))
    except OSError as error:
        typer.echo(f"callgate: cannot serve on {listen.address} port {listen.port}: {error.strerror or error}", err=True)
        raise typer.Exit(2) from error
    _serve_imports()
    raise typer.Exit(supervisor.run())


def status_file(settings: "Settings") -> Path:
    """Where the supervisor of these settings says what it does: beside the journal, which it alone may write."""
    return settings.audit.directory / f"{settings.audit.name}.status"


def _serve_imports() -> None:
    """Load what every serving process needs once, before they part, so that they share it in memory."""
    import uvloop  # noqa: F401  (loaded for the processes)

    import proxy.edge.app  # noqa: F401  (loaded for the processes)


def _serve(config: Path, place: "Place") -> int:
    """One serving process, from its settings to its end; the exit code."""
    import uvloop

    from proxy.config import load_settings
    from proxy.edge.app import run
    from proxy.edge.logs import set_up_logging

    try:
        settings = load_settings(config)
        set_up_logging(settings.log.level, settings.log.format)
        uvloop.run(run(settings, ready=place.ready, listening=place.listening, slot=place.slot))
    except ConfigError as error:
        print_problems(error.problems)
        return 2
    except OSError as error:
        typer.echo(f"callgate: cannot serve: {error.strerror or error}", err=True)
        return 2
    return 0
