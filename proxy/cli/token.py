"""``callgate token``: tokens of the local issuer, for those who have no identity provider.

A token goes to standard output and nothing else does, or into a file that only its owner may read.
Everything that went wrong is one line on standard error that says what to do.
"""

import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from proxy.common.durable_files import replace_atomically
from proxy.common.durations import parse_duration
from proxy.errors import ConfigError
from proxy.identity.local_issuer import LocalIssuer

app = typer.Typer(
    no_args_is_help=True, help="Issue tokens of the local issuer, and rotate its keys."
)


Config = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="CALLGATE_CONFIG",
        help="The settings file, which names the local issuer's directory.",
    ),
]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="The local issuer's directory, instead of the one in the settings."),
]


@app.command(
    epilog="Example: callgate token issue --subject etl-07 --group etl --ttl 1h --out etl-07.jwt"
)
def issue(
    subject: Annotated[
        str, typer.Option(help="Whose token it is: a name that stays, such as a service account's.")
    ],
    ttl: Annotated[
        str,
        typer.Option(
            help="How long it is valid: a number and s, m, h or d; the settings have the maximum."
        ),
    ],
    group: Annotated[
        list[str] | None, typer.Option(help="A group of the subject; may be given several times.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the token to this file (mode 0600) instead of printing it."),
    ] = None,
    config: Config = Path("callgate.toml"),
    directory: Directory = None,
) -> None:
    """Issue a token and print it."""
    seconds = _lifetime(ttl)
    try:
        token = _issuer(config, directory).issue(subject, group or [], seconds, time.time())
        if out is None:
            sys.stdout.write(token + "\n")
        else:
            replace_atomically(out, token.encode("ascii") + b"\n", 0o600)
    except ValueError as error:
        _fail(str(error))
    except ConfigError as error:
        _fail_config(error)
    except OSError as error:
        _fail(
            f"{error.filename or out}: {error.strerror}. Give a file in a directory that exists and that you may write."
        )


@app.command(epilog="Example: callgate token rotate --config /etc/callgate/callgate.toml")
def rotate(config: Config = Path("callgate.toml"), directory: Directory = None) -> None:
    """Sign with a new key from now on; tokens issued before stay valid until they expire."""
    try:
        kid = _issuer(config, directory).rotate(time.time())
    except ConfigError as error:
        _fail_config(error)
    sys.stdout.write(f"new signing key {kid}; tokens issued before stay valid until they expire\n")


def _issuer(config: Path, directory: Path | None) -> LocalIssuer:
    """The local issuer of the settings, or the one in `directory` with the default issuer and
    audience.
    """
    if directory is not None:
        return LocalIssuer(directory)
    # here, since reading settings is slow to import and --dir needs none
    from proxy.config.loading import load_settings

    local = load_settings(config).local_issuer
    if local is None:
        _fail(f"{config}: there is no [local_issuer]. Add one with a directory, or give --dir.")
    return LocalIssuer(
        local.directory,
        issuer=local.issuer,
        audience=local.audience,
        max_lifetime_seconds=local.max_lifetime_seconds,
    )


def _lifetime(text: str) -> int:
    """Return the seconds in ``90s``, ``15m``, ``1h`` or ``7d``."""
    try:
        return parse_duration(text)
    except ValueError as error:
        _fail(f"--ttl: {error}.")


def _fail_config(error: ConfigError) -> NoReturn:
    """One line a problem, each with its remedy."""
    _fail(
        "; ".join(
            f"{problem.location}: {problem.message}. {problem.hint}" for problem in error.problems
        )
    )


def _fail(text: str) -> NoReturn:
    """Say why there is no token, and end with 2: it could not be told."""
    sys.stderr.write(f"callgate token: {text}\n")
    raise typer.Exit(2)
