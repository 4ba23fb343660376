"""``callgate token``: tokens of the local issuer, for sites without an identity provider.

Standard output gets the token and nothing else; ``--out`` writes it to a file that only its owner
may read. An error is one line on standard error, with a hint.
"""

import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from proxy.cli.options import CONFIG
from proxy.common.durable_files import replace_atomically
from proxy.common.durations import parse_duration
from proxy.errors import ConfigError
from proxy.identity.local_issuer import LocalIssuer

app = typer.Typer(
    no_args_is_help=True, help="Issue tokens of the local issuer, and rotate its keys."
)


Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="The local issuer's directory, instead of the one in the settings."),
]


@app.command(
    epilog="Example: callgate token issue --subject etl-07 --group etl --ttl 1h --out etl-07.jwt"
)
def issue(
    subject: Annotated[
        str, typer.Option(help="The subject: a lasting name, such as that of a service account.")
    ],
    ttl: Annotated[
        str,
        typer.Option(
            help="The lifetime: a number and s, m, h, d or w, up to the maximum in the settings."
        ),
    ],
    group: Annotated[
        list[str] | None, typer.Option(help="A group of the subject; can be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the token to this file (mode 0600) instead of standard output."),
    ] = None,
    config: Path = CONFIG,
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
            f"{error.filename or out}: {error.strerror}. "
            "Name a file in an existing directory that you may write to."
        )


@app.command(epilog="Example: callgate token rotate --config /etc/callgate/callgate.toml")
def rotate(config: Path = CONFIG, directory: Directory = None) -> None:
    """Sign new tokens with a new key; earlier tokens stay valid until they expire."""
    try:
        kid = _issuer(config, directory).rotate(time.time())
    except ConfigError as error:
        _fail_config(error)
    sys.stdout.write(f"new signing key {kid}; earlier tokens stay valid until they expire\n")


def _issuer(config: Path, directory: Path | None) -> LocalIssuer:
    """Return the local issuer of the settings.

    With `directory` it is the one there, with the default issuer and audience.
    """
    if directory is not None:
        return LocalIssuer(directory)
    # Imported here: pydantic is slow to import, and --dir needs no settings.
    from proxy.config.loading import load_settings

    local = load_settings(config).local_issuer
    if local is None:
        _fail(f"{config}: there is no [local_issuer]. Add it with a directory, or pass --dir.")
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
    """End with every problem and its hint."""
    _fail(
        "; ".join(
            f"{problem.location}: {problem.message}. {problem.hint}" for problem in error.problems
        )
    )


def _fail(text: str) -> NoReturn:
    """End with 2 and the reason why there is no token."""
    sys.stderr.write(f"callgate token: {text}\n")
    raise typer.Exit(2)
