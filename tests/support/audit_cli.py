"""The verbs of ``callgate audit``, run in this process, and which of them read a log."""

from typer.testing import CliRunner, Result

from proxy.cli.audit import app

READING = [
    ["tail"],
    ["tail", "--json"],
    ["query"],
    ["query", "--json"],
    ["query", "--csv"],
    ["stats"],
    ["stats", "--json"],
    ["show", "denied"],
    ["show", "call-1"],
    ["find-secret", "hunter2"],
    ["prove", "call-1"],
    ["export"],
    ["export", "--format", "csv"],
    ["report", "changes"],
    ["report", "refusals"],
    ["report", "refusals", "--format", "html"],
    ["report", "refusals", "--format", "csv"],
    ["report", "completeness"],
]
"""Verbs that succeed on the log of the fixture `audit`."""


def run(*words: object, stdin: str | None = None) -> Result:
    """Run a verb."""
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)
