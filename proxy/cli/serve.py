"""``callgate serve``: run the proxy until SIGTERM or SIGINT."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import typer

from proxy.cli.options import CONFIG
from proxy.cli.problems import print_problems
from proxy.cli.structlog_without_rich import structlog
from proxy.errors import ConfigError, Rejected

if TYPE_CHECKING:
    from proxy.config.loading import Settings
    from proxy.config.model import Listener
    from proxy.runtime.supervision.worker_process import WorkerSlot

EXAMPLE = "callgate serve --config /etc/callgate/callgate.toml"
# Seconds beyond limits.drain_seconds in which a process closes its journal before it is killed.
_CLOSING_SECONDS = 8.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def command(config: Path = CONFIG) -> None:
    """Run the proxy with the settings of a file, until SIGTERM or SIGINT.

    Then it accepts no new calls, finishes those in progress, closes the journal and exits with 0.
    SIGHUP, or `callgate reload`, starts new processes with the present settings in place of the old
    ones, without losing a call. The log goes to standard error. Exits with 2 if settings, policies
    or files are wrong, or open to other users.
    """
    from proxy.cli.file_modes import refuse_open
    from proxy.config.loading import load_settings
    from proxy.runtime.supervision.status_file import StatusFile
    from proxy.runtime.supervision.supervisor import Supervisor
    from proxy.runtime.supervision.systemd_notify import SystemdNotifier
    from proxy.telemetry.logging import configure_logging
    from proxy.telemetry.nonblocking_stream import NonBlockingStream

    settings = load_settings(config)
    refuse_open(settings)
    # From here on a stalled or closed standard error costs lines of the log, and nothing else.
    sys.stderr = cast(TextIO, NonBlockingStream(sys.stderr))
    configure_logging(settings.log.level, settings.log.format)
    # For the processes that this one forks. By default glibc makes an arena for each thread.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    try:
        settings.audit.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = StatusFile(status_file(settings))
    except OSError as error:
        directory, reason = settings.audit.directory, error.strerror or error
        typer.echo(f"callgate: cannot serve: {directory}: {reason}", err=True)
        raise typer.Exit(2) from error
    try:
        supervisor = Supervisor(
            [(listener.address, listener.port) for listener in settings.listeners],
            settings.processes,
            lambda slot: _serve(config, slot, settings),
            status,
            shutdown_timeout=settings.limits.drain_seconds + _CLOSING_SECONDS,
            notifier=SystemdNotifier.from_environment(os.environ),
        )
    except OSError as error:
        addresses = ", ".join(f"{each.address} port {each.port}" for each in settings.listeners)
        typer.echo(f"callgate: cannot serve on {addresses}: {error.strerror or error}", err=True)
        raise typer.Exit(2) from error
    _serve_imports()
    raise typer.Exit(supervisor.run())


def status_file(settings: "Settings") -> Path:
    """Return the supervisor's status file, in the directory of the journal."""
    return settings.audit.directory / f"{settings.audit.name}.status"


def _serve_imports() -> None:
    """Import what every serving process needs before the fork, so that they share its memory."""
    import uvloop  # noqa: F401  (for the processes)

    import proxy.runtime.process  # noqa: F401  (for the processes)


def _serve(config: Path, slot: "WorkerSlot", first: "Settings") -> int:
    """Run one serving process with the present settings, and return its exit code.

    `first` are the settings that the supervisor began with.
    """
    import uvloop

    from proxy.cli.file_modes import refuse_open
    from proxy.config.loading import load_settings
    from proxy.runtime.process import run
    from proxy.telemetry.logging import configure_logging

    try:
        settings = load_settings(config)
        refuse_open(settings)
        configure_logging(settings.log.level, settings.log.format)
        if slot.slot == 0:
            _warn_of_restart(first, settings)
        shutdown_timeout = settings.limits.drain_seconds + _CLOSING_SECONDS
        settings = settings.model_copy(update={"listeners": _on_open_sockets(first, settings)})
        uvloop.run(run(settings, ready=lambda: slot.ready(shutdown_timeout), slot=slot))
    except ConfigError as error:
        print_problems(error.problems)
        return 2
    except (OSError, Rejected) as error:
        reason = error.detail if isinstance(error, Rejected) else error.strerror or error
        typer.echo(f"callgate: cannot serve: {reason}", err=True)
        return 2
    return 0


def _on_open_sockets(first: "Settings", now: "Settings") -> "tuple[Listener, ...]":
    """Return a listener for each of the supervisor's sockets, in their order.

    A reload can change the certificate of an address, not the addresses. A socket whose address the
    settings no longer have keeps the listener that it was bound for; with another one's settings
    it might answer without TLS.
    """
    by_address = {(each.address, each.port): each for each in now.listeners}
    return tuple(by_address.get((each.address, each.port), each) for each in first.listeners)


def _warn_of_restart(first: "Settings", now: "Settings") -> None:
    """Log which changed settings a reload cannot apply.

    The supervisor holds the sockets, and `callgate reload` finds it by its status file.
    """
    waiting = []
    if {(each.address, each.port) for each in first.listeners} != {
        (each.address, each.port) for each in now.listeners
    }:
        waiting.append("listeners")
    if first.processes != now.processes:
        waiting.append("processes")
    waiting += [
        f"audit.{key}"
        for key in ("directory", "name")
        if getattr(first.audit, key) != getattr(now.audit, key)
    ]
    if waiting:
        _log.warning("changed settings need a restart", settings=waiting)
