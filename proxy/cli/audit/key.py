"""``callgate audit key``: make and show the keys that sign checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from proxy.audit.format.checkpoint import format_key
from proxy.audit.writing.keys import PUBLIC_KEYS, new_signing_key, public_keys
from proxy.cli.audit.common import Config, Directory, app, directory, fail
from proxy.common.durable_files import create_once
from proxy.errors import ConfigError

key = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make and show the keys that sign checkpoints.",
)
app.add_typer(key, name="key")


@key.command(epilog="Example: callgate audit key make /etc/callgate/audit-signing.key")
def make(
    path: Annotated[
        Path, typer.Argument(help="Where the private key goes; it must not be there yet.")
    ],
) -> None:
    """Make a private key (Ed25519, PEM, 0600). The gate takes it by file or environment; without
    one it makes its own.
    """
    pem = new_signing_key()
    try:
        if create_once(path, pem) != pem:
            fail(f"{path} is there already")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")
    print(path)


@key.command(
    epilog="Example: callgate audit key show --dir /var/lib/callgate/audit --log gate > gate.vkey"
)
def show(
    dir_: Directory = None,
    config: Config = None,
    log: Annotated[
        str | None,
        typer.Option("--log", help="Show them under this log's own origin name, for other tools."),
    ] = None,
) -> None:
    """Show the public keys that have signed here, newest last: keep them where the operator cannot
    write.
    """
    try:
        for name, public in public_keys(directory(dir_, config) / PUBLIC_KEYS):
            print(format_key(f"{name}/{log}" if log else name, public))
    except ConfigError as error:
        fail(str(error))
