"""The public keys that logs and proofs are checked with."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from proxy.audit.checking.signatures import Keys
from proxy.audit.format.checkpoint import BadCheckpointError, format_key, parse_keys
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.cli.audit.common import fail
from proxy.common.text import escape_controls
from proxy.errors import ConfigError

Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        "-k",
        metavar="KEY",
        show_default=False,
        help="The public key, from a place that the operator cannot write: a file, or the text that"
        " callgate audit key show prints.",
    ),
]


def named_keys(key: str) -> Keys:
    """Return the public keys of the file `key`, or the one that its text is."""
    path = Path(key)
    if not path.exists() and key.count("+") >= 2:
        try:
            return parse_keys(key)
        except BadCheckpointError as error:
            fail(f"{escape_controls(key)} is not a public key: {error}")
    if not path.is_file():
        fail(
            f"there is no file {escape_controls(key)}. Give a file of public keys, or the text that"
            " callgate audit key show prints."
        )
    try:
        return public_keys(path)
    except ConfigError as error:
        fail(str(error))


def trusted_keys(directory: Path, key: str | None, *, quiet: bool = False) -> Keys:
    """Return the public keys to check with; warn when they come from the audit directory."""
    places = [place / PUBLIC_KEYS for place in (directory, directory.parent)]
    adjacent = next((place for place in places if place.is_file()), None)
    if key is None and adjacent is None:
        fail(
            f"there is no public key in {escape_controls(directory)}. Name one with --key, or an"
            f" audit directory that holds {PUBLIC_KEYS}."
        )
    chosen = key if key is not None else str(adjacent)
    keys = named_keys(chosen)
    if key is None and not quiet:
        print(f"Checked with the key in the audit directory ({chosen}):", file=sys.stderr)
        for name, public in keys:
            print(f"  {format_key(name, public)}", file=sys.stderr)
        print(
            "An attacker who can alter the log can replace that key too: compare it with a copy"
            " from elsewhere (--key).",
            file=sys.stderr,
        )
    return keys
