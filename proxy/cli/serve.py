"""``callgate serve``: run the proxy until SIGTERM or SIGINT."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import typer

from proxy.cli import structlog_without_rich  # noqa: F401  (before any other import of structlog)
from proxy.cli.options import CONFIG
from proxy.cli.problems import print_problems
from proxy.errors import REASONS, ConfigError, Problem, Rejected

if TYPE_CHECKING:
    from proxy.config.loading import Settings
    from proxy.runtime.supervision.announcement import LogSettings
    from proxy.runtime.supervision.worker_process import WorkerSlot
    from proxy.telemetry.logging import Format, Level

EXAMPLE = "callgate serve --config /etc/callgate/callgate.toml"
# Seconds beyond limits.drain_seconds in which a process closes its journal before it is killed.
_CLOSING_SECONDS = 8.0


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
    from proxy.telemetry.logging import configure_logging, log_uncaught
    from proxy.telemetry.nonblocking_stream import NonBlockingStream

    settings = load_settings(config)
    refuse_open(settings)
    # From here on a stalled or closed standard error costs lines of the log, and nothing else.
    sys.stderr = cast(TextIO, NonBlockingStream(sys.stderr))
    configure_logging(settings.log.level, settings.log.format)
    log_uncaught()
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
            config=str(config.absolute()),
            on_log_settings=_apply_log_settings,
        )
    except OSError as error:
        addresses = ", ".join(f"{each.address} port {each.port}" for each in settings.listeners)
        typer.echo(f"callgate: cannot serve on {addresses}: {error.strerror or error}", err=True)
        raise typer.Exit(2) from error
    _serve_imports()
    code = supervisor.run()
    print_problems(supervisor.problems)
    raise typer.Exit(code)


def status_file(settings: "Settings") -> Path:
    """Return the supervisor's status file, in the directory of the journal."""
    return settings.audit.directory / f"{settings.audit.name}.status"


def _apply_log_settings(log: "LogSettings") -> None:
    """Have the supervisor log as the new processes do."""
    from proxy.telemetry.logging import configure_logging

    configure_logging(cast("Level", log.level), cast("Format", log.format))


def _serve_imports() -> None:
    """Import what every serving process needs before the fork, so that they share its memory."""
    import uvloop  # noqa: F401  (for the processes)

    import proxy.runtime.process  # noqa: F401  (for the processes)


def _serve(config: Path, slot: "WorkerSlot", first: "Settings") -> int:
    """Run one serving process with the present settings, and return its exit code.

    `first` are the settings that the supervisor began with. The reasons why the process cannot
    start go to the supervisor, which logs them: standard error has log lines only.
    """
    import uvloop

    from proxy.cli.file_modes import refuse_open
    from proxy.cli.unapplied import pinned, unapplied
    from proxy.config.loading import load_settings
    from proxy.runtime.process import ServingProcess, run
    from proxy.runtime.supervision.announcement import Announcement, LogSettings, Report, failure
    from proxy.telemetry.logging import configure_logging

    def announce_ready(process: ServingProcess) -> None:
        metrics = settings.metrics
        differences = unapplied(
            first, asked, log_origin=process.log_origin, max_clients=process.max_clients
        )
        slot.announce(
            Announcement(
                shutdown_timeout=settings.limits.drain_seconds + _CLOSING_SECONDS,
                report=Report(unapplied=tuple(differences)),
                log=LogSettings(settings.log.level, settings.log.format),
                metrics=f"{metrics.address} port {metrics.port + slot.slot}"
                if metrics.port
                else "",
                metrics_bound=process.metrics_bound,
            )
        )

    try:
        asked = load_settings(config)
        settings = pinned(first, asked)
        refuse_open(settings)
        configure_logging(settings.log.level, settings.log.format)
        uvloop.run(run(settings, ready=announce_ready, slot=slot))
    except ConfigError as error:
        slot.announce(failure(error.problems))
        return 2
    except (OSError, Rejected) as error:
        slot.announce(failure([_problem_of(error)]))
        return 2
    return 0


def _problem_of(error: OSError | Rejected) -> Problem:
    if isinstance(error, Rejected):
        return Problem("callgate: cannot serve", error.detail, REASONS[error.reason].hint)
    file = f"{error.filename}: " if error.filename else ""
    message = f"{file}{error.strerror or error}"
    return Problem("callgate: cannot serve", message, "See the log, or run callgate check.")
