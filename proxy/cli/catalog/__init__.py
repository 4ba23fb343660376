"""``callgate catalog``: draft the catalog of an XML-RPC server, and compare it with the server."""

import typer

from proxy.cli.catalog import diff, draft

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Draft the catalog of an XML-RPC server; compare a catalog with its server.",
)
app.command("draft", epilog=f"Example: {draft.EXAMPLE}")(draft.command)
app.command("diff", epilog=f"Example: {diff.EXAMPLE}")(diff.command)

__all__ = ["app"]
