"""``callgate serve``: run the gate until it is told to stop."""

from pathlib import Path

import typer

CONFIG = typer.Option(Path("callgate.toml"), "--config", "-c", envvar="CALLGATE_CONFIG", help="The settings file.")
EXAMPLE = "callgate serve --config /etc/callgate/callgate.toml"


def command(config: Path = CONFIG) -> None:
    """Run the gate with the settings of a file, until SIGTERM or SIGINT.

    On a signal it takes no new calls, finishes those in hand, closes the journal, and leaves with 0. It logs to standard
    error, and leaves with 2 when the settings, policies or files are wrong.
    """
    import uvloop

    from proxy.config import load_settings
    from proxy.edge.app import run
    from proxy.edge.logs import set_up_logging

    settings = load_settings(config)
    set_up_logging(settings.log.level, settings.log.format)
    try:
        uvloop.run(run(settings))
    except OSError as error:
        typer.echo(f"callgate: cannot serve on {settings.listen.address} port {settings.listen.port}: {error.strerror or error}", err=True)
        raise typer.Exit(2) from error
