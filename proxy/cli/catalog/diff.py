"""``callgate catalog diff``: what a server has and its catalog lacks, and the reverse."""

from pathlib import Path
from typing import Annotated

import typer

from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Catalog
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
from proxy.clients.introspection import MethodNames, list_methods

EXAMPLE = "callgate catalog diff http://localhost:9000 --catalog policies/catalogs/launcher.toml"


def command(
    catalog: Annotated[
        Path, typer.Option("--catalog", help="The catalog's file.", show_default=False)
    ],
    url: Url = None,
    names: Names = None,
    basic_auth_file: BasicAuthFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print the methods that a server lists and a catalog lacks (+), and the reverse (-).

    Exits with 0 if there is no difference, 1 if there is one, and 2 if the server or the catalog
    cannot be read. A method that the catalog lacks is denied.
    """
    one_source(url, names)
    ours = load_catalog(catalog)
    if ours.protocol != "xmlrpc":
        fail(f"{catalog} is a catalog for {ours.protocol}. Name one for xmlrpc.")
    if url is not None:
        server = make_server(url, basic_auth_file, ca_file)
        theirs, source = ask(list_methods(server)), show_server(server)
    else:
        assert names is not None, "one of the two is given"
        theirs, source = read_names(names), names.name
    lacking = [name for name in theirs.names if not has_method(ours, name)]
    gone = sorted(_names_of(ours) - set(theirs.names))
    for sign, each in (*(("+", name) for name in lacking), *(("-", name) for name in gone)):
        print(f"{sign} {each}")
    print(_summary(catalog.name, source, theirs, lacking, gone, ours))
    raise typer.Exit(1 if lacking or gone else 0)


def has_method(catalog: Catalog, name: str) -> bool:
    """Return whether the catalog has a method of this name, classified or not."""
    return name in catalog.methods or name in catalog.unclassified


def _names_of(catalog: Catalog) -> set[str]:
    """Return the names of the catalog that a server could list: pages are none."""
    return {name for name in catalog.methods.keys() | catalog.unclassified if name[:5] != "page."}


def _summary(
    file: str, source: str, theirs: MethodNames, lacking: list[str], gone: list[str], ours: Catalog
) -> str:
    text = f"{source} lists {len(theirs.names)} methods; {file} lacks {len(lacking)}"
    text += f" and has {len(gone)} that are not listed"
    if theirs.odd:
        text += f"; {len(theirs.odd)} listed names are none of XML-RPC"
    if ours.unclassified:
        text += f"; {len(ours.unclassified)} are unclassified"
    return text
