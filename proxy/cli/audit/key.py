"""``callgate audit key``: generate and show the keys that sign checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from proxy.audit.format.checkpoint import format_key
from proxy.audit.writing.keys import PUBLIC_KEYS, new_signing_key, public_keys
from proxy.cli.audit.common import Config, Directory, app, directory_with_logs, fail, verb
from proxy.cli.audit.renamed import VerbGroup
from proxy.common.durable_files import create_once
from proxy.errors import ConfigError

key = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Generate and show the keys that sign checkpoints.",
)
app.add_typer(key, name="key")


@verb("generate", "/etc/callgate/audit-signing.key", key, "key ")
def generate(
    path: Annotated[Path, typer.Argument(help="Where to write the private key; a new file.")],
) -> None:
    """Generate a private key (Ed25519, PEM, mode 0600).

    The settings name its file or environment variable. Without one, Callgate generates its own.
    """
    pem = new_signing_key()
    try:
        if create_once(path, pem) != pem:
            fail(f"{path} exists already")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")
    print(path)


@verb("show", "--dir /var/lib/callgate/audit --log gate > gate.vkey", key, "key ")
def show(
    dir_: Directory = None,
    config: Config = None,
    log: Annotated[
        str | None,
        typer.Option("--log", help="Print them under this log's origin name, for other tools."),
    ] = None,
) -> None:
    """Print the public keys of the logs, newest last.

    Keep them where the operator of the logs cannot write.
    """
    try:
        for name, public in public_keys(directory_with_logs(dir_, config) / PUBLIC_KEYS):
            print(format_key(f"{name}/{log}" if log else name, public))
    except ConfigError as error:
        fail(str(error))
