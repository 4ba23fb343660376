"""``callgate catalog draft``: a catalog that denies everything, from what a server says of itself.

Standard output gets the catalog and nothing else; ``--out`` writes it to a new file. What was not
said, and what is to do, is on standard error.
"""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.catalog.asking import (
    BasicAuthFile,
    CaFile,
    Names,
    Url,
    ask,
    fail,
    make_server,
    one_source,
    read_names,
    show_server,
)
from proxy.cli.catalog.writing import write_catalog
from proxy.clients.introspection import MethodDescription, describe_methods
from proxy.common.durable_files import create_once

EXAMPLE = "callgate catalog draft http://localhost:9000 --out policies/catalogs/launcher.toml"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def command(
    url: Url = None,
    names: Names = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="The catalog's name; by default that of the file."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write it to this new file instead of standard output."),
    ] = None,
    basic_auth_file: BasicAuthFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print a catalog of the methods that a server lists, each unclassified and so denied.

    Asks system.listMethods, system.methodSignature and system.methodHelp. Arguments and types are
    those that the server gives. Set the permission of each method, then run callgate check.
    """
    one_source(url, names)
    if name is None:
        name = "draft" if out is None else out.stem
    if not _NAME.fullmatch(name):
        fail(
            f"{name!r} is not a catalog name."
            " Pass --name with 1 to 32 lower-case letters, digits and hyphens."
        )
    if out is not None and out.exists():
        fail(f"{out} exists already. Name a new file, or run callgate catalog diff.")
    if url is not None:
        server = make_server(url, basic_auth_file, ca_file)
        listed, methods = ask(describe_methods(server))
        source = f"{show_server(server)} lists"
    else:
        assert names is not None, "one of the two is given"
        listed = read_names(names)
        methods = [MethodDescription(each) for each in listed.names]
        source = f"{names.name} lists"
    if not methods:
        fail("no method is listed that a catalog can have. Check the URL and its path.")
    text = write_catalog(name, methods, source=source, odd=listed.odd)
    if out is None:
        sys.stdout.write(text)
    else:
        _write(out, text.encode())
    if listed.odd:
        print(f"left out: {len(listed.odd)} names that a catalog cannot have", file=sys.stderr)
    print(
        f"{len(methods)} methods, unclassified and denied. Set their permissions, then run"
        " callgate check.",
        file=sys.stderr,
    )


def _write(out: Path, data: bytes) -> None:
    try:
        if create_once(out, data, 0o644) != data:
            fail(f"{out} exists already. Name a new file.")
    except OSError as error:
        fail(f"{out}: {error.strerror}. Name a file in an existing directory.")
