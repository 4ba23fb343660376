"""``callgate check``: every problem of settings, files, catalogs, roles and policies at once.

With ``--online`` it asks the issuers and the upstreams, too.
"""

import asyncio
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from proxy.cli.file_checks import check_files
from proxy.cli.file_modes import open_to_others, trust_of_check
from proxy.cli.options import CONFIG
from proxy.cli.policy_checks import check_policies
from proxy.cli.problems import print_problems
from proxy.config.loading import read_settings
from proxy.errors import ConfigError, Problem
from proxy.runtime.connectivity import check_connectivity
from proxy.telemetry.logging import configure_logging

ONLINE = typer.Option(
    False, "--online", help="Also fetch the issuers' keys and send each upstream a harmless call."
)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")
EXAMPLE = "callgate check --config /etc/callgate/callgate.toml --online"


def command(config: Path = CONFIG, online: bool = ONLINE, as_json: bool = JSON) -> None:
    """Report every problem of the settings, policies, roles and files at once.

    Changes nothing, and needs no running Callgate. Each problem has its location and a hint. Exits
    with 0 if there is no problem, 1 if there are problems, and 2 if the settings file cannot be
    read. Warnings, such as of a certificate that ends soon, do not count.
    """
    if not config.is_file():
        hint = "Name the settings file with --config."
        print_problems([Problem(str(config), "does not exist", hint)])
        raise typer.Exit(2)
    # Warnings that the parts would log are among the problems, and standard output is for those.
    configure_logging("error", "console", io.StringIO())
    found = find_problems(config, online=online)
    warnings = [problem for problem in found if problem.warning]
    problems = [problem for problem in found if not problem.warning]
    if as_json:
        result = {"ok": not problems, "problems": _rows(problems), "warnings": _rows(warnings)}
        print(json.dumps(result, indent=2))
    else:
        print_problems(found, sys.stdout)
        if not problems:
            print(f"{config}: no problem found")
    raise typer.Exit(1 if problems else 0)


def _rows(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [
        {"location": problem.location, "message": problem.message, "hint": problem.hint}
        for problem in problems
    ]


def find_problems(config: Path, *, online: bool) -> list[Problem]:
    """Return every problem and warning; raises `ConfigError` if the file cannot be read."""
    try:
        settings, problems = read_settings(config)
    except ConfigError as error:
        if isinstance(error.__cause__, OSError):
            raise  # unreadable: there is no answer, and the exit code is 2
        return list(error.problems)
    problems += open_to_others(settings, trust_of_check(settings))
    problems += check_files(settings)
    problems += check_policies(settings)
    if online:
        problems += asyncio.run(
            check_connectivity(settings.locate, settings.issuers, settings.upstreams)
        )
    return problems
