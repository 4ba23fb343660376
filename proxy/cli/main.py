"""The command ``callgate``: finds the verb, loads that verb's module alone, and turns problems into
exit codes.

0 is good, 1 means that the answer is no, 2 that it could not be told (bad usage, unreadable or
wrong settings). Only the module of the verb that was asked for is imported, so that ``callgate
--help`` answers at once.
"""

import importlib
import sys
from collections.abc import Sequence

import typer

from proxy.cli.problems import print_problems
from proxy.errors import ConfigError

VERBS = {
    "serve": "Run the gate.",
    "reload": "Have a running gate take its settings and policies anew.",
    "demo": "Run a gate with real schedulers behind it, to try things out.",
    "check": "Report every problem of settings, policies and files.",
    "token": "Issue tokens of the gate's own issuer; rotate its keys.",
    "audit": "Read the audit journal.",
}
"""Each verb's module is ``proxy.cli.<verb>``: it has an `app` when it has verbs of its own, else a
function `command` and an `EXAMPLE`.
"""

EPILOG = """\b
Example, from nothing to a gate on https://localhost:8443:
  callgate demo --dir .demo

Exit codes: 0 good, 1 the answer is no, 2 could not tell."""


def build(wanted: str | None) -> typer.Typer:
    """Make the command line with the verb `wanted` in full, and the others by name and summary."""
    app = typer.Typer(
        help="Callgate: an identity-aware reverse proxy in front of workflow schedulers.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,  # they print local variables, and those can be credentials
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
    """Run the command line and leave with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in words if not word.startswith("-")), None)
    try:
        build(wanted)(words, prog_name="callgate")
    except ConfigError as error:
        print_problems(error.problems)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has left; there is nobody to complain to
        sys.exit(1)
    # a disk that is full, a directory that is not ours: said in a line, and no "no" to any question
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"callgate: {place}{error.strerror or type(error).__name__}", file=sys.stderr)
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
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Take the options that stand before the verb."""


def _not_loaded() -> None:
    """Stand in for a verb whose module was not asked for: it has a name and a summary to list, and
    is never run.
    """


if __name__ == "__main__":
    main()
