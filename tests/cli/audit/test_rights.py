"""``callgate audit report access`` over policy sets that change, run as a user runs it."""

import asyncio
import csv
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.audit.reporting.report import last_checkpoints
from proxy.catalog.loading import load_catalog
from proxy.cli.audit import app
from proxy.model import Call, Decision, Principal, Reason
from proxy.policy.engine import PolicySet
from proxy.policy.load import load_policies
from tests.support.audit import HERE, Clock, open_journal

ALICE = Principal("https://i/", "i", "alice", ("viewer",))
CATALOG = """\
name = "small"
protocol = "luigi"
[methods.graph]
permission = "view"
help = "x"
[methods.pause]
permission = "admin"
help = "x"
"""
VIEW = '@id("view")\npermit (principal in Role::"viewer", action in Action::"view", resource);\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Policies with one role, one policy and a catalog of two methods."""
    path = tmp_path / "policies"
    (path / "catalogs").mkdir(parents=True)
    (path / "roles.toml").write_text(
        '[[roles.viewer]]\nissuer = "i"\ngroup = "v"\nsubject = "alice"\n'
    )
    (path / "a.cedar").write_text(VIEW)
    (path / "catalogs" / "small.toml").write_text(CATALOG)
    return path


def load(directory: Path) -> PolicySet:
    """The set as a gate loads it."""
    return load_policies(
        directory,
        {"up": load_catalog(directory / "catalogs" / "small.toml")},
        issuers={"i"},
    )


def serve(audit: Path, policies: PolicySet, clock: Clock, name: str = "gate") -> None:
    """A process of the gate: it begins, alice looks at a graph, it ends."""

    async def run() -> None:
        journal = open_journal(audit, name, clock=clock)
        journal.policy_in_force(policies.hash, policies.files)
        decision = Decision("allow", Reason.ALLOWED, ("view",), policies.hash)
        [receipt] = await journal.decide(
            "R", ALICE, HERE, [(Call("up", "luigi", "graph", "view", {}), decision)], 0
        )
        assert receipt is not None
        journal.completed(receipt, outcome="ok", status=200, sent=1, duration_us=1)
        await journal.close()

    asyncio.run(run())


def access(audit: Path, *words: object) -> Result:
    """Run the report."""
    return CliRunner().invoke(
        app, ["report", "access", "--format", "csv", "--dir", str(audit), *map(str, words)]
    )


def granted(result: Result) -> dict[str, str]:
    """How many methods of each class alice was granted."""
    assert result.exit_code == 0, result.output
    return {
        row[3]: row[4] for row in csv.reader(result.stdout.splitlines()) if row[:1] == ["i|alice"]
    }


def test_rights_are_those_in_force_then(tmp_path: Path, directory: Path) -> None:
    """Neither files that were edited and never loaded, nor a set that came later, alter a report up
    to a checkpoint or a time.
    """
    audit, clock = tmp_path / "audit", Clock()
    first = load(directory)
    serve(audit, first, clock)
    old = tmp_path / "old.checkpoint"
    old.write_bytes(last_checkpoints(audit)["gate"].note)
    before = access(audit)
    assert (
        granted(before) == {"view": "1"}
        and first.hash in before.stdout
        and "group v and subject alice" in before.stdout
    )

    (directory / "catalogs" / "small.toml").write_text(CATALOG.replace('"admin"', '"view"'))
    assert access(audit).stdout == before.stdout
    second = load(directory)
    clock.now += 3600 * 10**9
    serve(audit, second, clock, "gate-2")
    clock.now += 3600 * 10**9
    serve(audit, second, clock)
    shutil.rmtree(directory)

    after = access(audit)
    assert (
        granted(after) == {"view": "2"}
        and second.hash in after.stdout
        and first.hash not in after.stdout
    )
    assert "2 policy sets were in force" in after.stdout
    assert access(audit, "--checkpoint", old).stdout == before.stdout
    named = re.search(r"--checkpoint (gate:\d+)", before.stdout)
    assert named is not None and access(audit, "--checkpoint", named[1]).stdout == before.stdout
    assert access(audit, "--checkpoint", "gate:2").exit_code == 2
    up_to = access(audit, "--until", "2026-01-01T00:30Z")
    assert granted(up_to) == {"view": "1"} and first.hash in up_to.stdout


def test_a_change_of_a_class_shows(tmp_path: Path, directory: Path) -> None:
    """A method that a catalog moves to another class is a change of the policies: the report on
    changes has the line.
    """
    audit, clock = tmp_path / "audit", Clock()
    serve(audit, load(directory), clock)
    (directory / "catalogs" / "small.toml").write_text(CATALOG.replace('"admin"', '"view"'))
    serve(audit, load(directory), clock, "gate-2")
    shown = CliRunner().invoke(app, ["report", "changes", "--dir", str(audit)]).stdout
    assert (
        "changed: catalogs/small.toml" in shown
        and '-permission = "admin"' in shown
        and '+permission = "view"' in shown
    )


def test_doctored_texts_grant_nothing(tmp_path: Path, directory: Path) -> None:
    """If the kept texts are not those that the log vouches for, there is no report; nor if there is
    no record of any set.
    """
    audit = tmp_path / "audit"
    serve(audit, load(directory), Clock())
    [kept] = (audit / "policies").iterdir()
    kept.write_text(kept.read_text().replace("admin", "view"))
    result = access(audit)
    assert result.exit_code == 2 and "not those that came into force" in result.stderr
    assert access(audit, "--until", "2020-01-01").exit_code == 2


def test_a_checkpoint_of_another_log_is_refused(tmp_path: Path, directory: Path) -> None:
    """A checkpoint of a log that is not there makes no empty report."""
    serve(tmp_path / "audit", load(directory), Clock())
    serve(tmp_path / "other", load(directory), Clock(), "elsewhere")
    note = tmp_path / "note"
    note.write_bytes(last_checkpoints(tmp_path / "other")["elsewhere"].note)
    result = access(tmp_path / "audit", "--checkpoint", note)
    assert result.exit_code == 2 and "elsewhere" in result.stderr
