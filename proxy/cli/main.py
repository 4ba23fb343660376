"""The command ``callgate``: imports the module of one verb, and turns errors into exit codes.

Exit codes: 0 success; 1 a negative result (invalid, refused, not found); 2 a usage or run-time
error (a bad option, unreadable or wrong settings, a full disk). Only the module of the requested
verb is imported, so that ``callgate --help`` needs a fraction of a second.
"""

import importlib
import sys
from collections.abc import Sequence

import typer

from proxy.cli.problems import print_problems
from proxy.errors import ConfigError

VERBS = {
    "serve": "Run the proxy.",
    "reload": "Apply changed settings and policies to a running proxy.",
    "init": "Write settings that serve at once, for one scheduler.",
    "demo": "Run the proxy in front of real schedulers, to try things out.",
    "check": "Report every problem of settings, policies and files.",
    "catalog": "Draft the catalog of an XML-RPC server; compare the two.",
    "token": "Issue tokens of the local issuer; rotate its keys.",
    "audit": "Read and verify the audit journal.",
}
"""Verbs and their summaries.

The module of a verb is ``proxy.cli.<verb>``. It has an `app` if the verb has verbs of its own,
otherwise a function `command` and an `EXAMPLE`.
"""

EPILOG = """\b
Example, from nothing to a proxy on https://localhost:8443:
  callgate demo --dir .demo

Exit codes: 0 success, 1 negative result, 2 usage or run-time error."""


def build(wanted: str | None) -> typer.Typer:
    """Build the command line with the verb `wanted`, and names and summaries of the other verbs."""
    app = typer.Typer(
        help="Callgate: an identity-aware reverse proxy in front of workflow schedulers.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,  # they print local variables, which can be credentials
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_callgate)
    for verb, summary in VERBS.items():
        if verb != wanted:
            app.command(verb, help=summary)(_not_loaded)
            continue
        module = importlib.import_module(f"proxy.cli.{verb}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb, help=summary)
        else:
            app.command(verb, epilog=f"Example: {module.EXAMPLE}")(module.command)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in words if not word.startswith("-")), None)
    try:
        build(wanted)(words, prog_name="callgate")
    except ConfigError as error:
        print_problems(error.problems)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has ended, usually that of standard error, too
        sys.exit(1)
    # A full disk, a directory of another user: one line, and no negative result.
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        print(f"callgate: {file}{error.strerror or type(error).__name__}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            print(f"callgate {metadata.version('callgate')}")
        except metadata.PackageNotFoundError:
            print("callgate (run from its sources, not installed)")
        raise typer.Exit


def _callgate(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Take the options in front of the verb."""


def _not_loaded() -> None:
    """Give a verb whose module is not imported a name and a summary; it never runs."""


if __name__ == "__main__":
    main()
