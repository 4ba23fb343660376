from pathlib import Path

from proxy.audit.reading.reader import read_all
from proxy.audit.reporting.policy_activations import changes, policy_activations
from proxy.audit.reporting.report import Section
from tests.support.audit import HASH, Clock, open_journal

OTHER = "sha256:" + "cd" * 32


def changed(directory: Path, since: str = "", until: str = "~") -> Section:
    """The one table of the report on changes."""
    sets = policy_activations(read_all(directory), directory)
    [section] = changes(sets, since, until, "p", ()).sections
    return section


async def test_changes_have_their_difference(tmp_path: Path) -> None:
    """Each set in force is listed with hash and time; what changed in which file is shown; doctored
    texts are called so.
    """
    journal = open_journal(tmp_path)
    journal.policy_in_force(HASH, {"a.cedar": "one\ntwo\n", "roles.toml": "r\n"})
    journal.policy_in_force(OTHER, {"a.cedar": "one\nthree\n", "roles.toml": "r\n"})
    journal.policy_in_force(OTHER, {"a.cedar": "one\nthree\n", "roles.toml": "r\n"})
    await journal.close()
    section = changed(tmp_path)
    assert [row[3] for row in section.rows] == [
        "first: a.cedar roles.toml",
        "changed: a.cedar",
        "as before (a process began with it)",
    ]
    [text] = section.texts
    assert "-two" in text and "+three" in text and "roles.toml" not in text
    assert changed(tmp_path / "gate") == section
    kept = tmp_path / "policies" / ("cd" * 32 + ".json")
    kept.write_text(kept.read_text().replace("three", "four"))
    assert "not those that came into force" in changed(tmp_path).rows[1][3]
    kept.unlink()
    assert "not in the audit directory" in changed(tmp_path).rows[1][3]


async def test_changes_go_on_from_log_to_log(tmp_path: Path) -> None:
    """A reload goes on in another log than it ends, and back: each set is held against the one in
    force before it, wherever that stands.
    """
    sets = [(HASH, "one\n"), (OTHER, "two\n"), ("sha256:" + "ef" * 32, "three\n"), (HASH, "one\n")]
    clock = Clock()
    for number, (policy_hash, text) in enumerate(sets):
        journal = open_journal(tmp_path, "gate" if number % 2 == 0 else "gate-2", clock=clock)
        journal.policy_in_force(policy_hash, {"a.cedar": text})
        await journal.close()
    section = changed(tmp_path)
    assert [row[1] for row in section.rows] == ["gate", "gate-2", "gate", "gate-2"]
    assert [row[3] for row in section.rows] == ["first: a.cedar", *["changed: a.cedar"] * 3]
    assert [[line for line in text.splitlines()[3:] if line[0] in "+-"] for text in section.texts] == [
        ["-one", "+two"], ["-two", "+three"], ["-three", "+one"],
    ]  # fmt: skip


async def test_the_first_change_of_a_period_has_its_difference(tmp_path: Path) -> None:
    """A period begins with what was in force before it; what came outside it is not listed."""
    journal = open_journal(tmp_path, clock=Clock())
    for policy_hash, text in ((HASH, "one\n"), (OTHER, "two\n"), (HASH, "one\n")):
        journal.policy_in_force(policy_hash, {"a.cedar": text})
    await journal.close()
    times = [row[0] for row in changed(tmp_path).rows]
    section = changed(tmp_path, times[1], times[2])
    assert [row[3] for row in section.rows] == ["changed: a.cedar"] and "+two" in section.texts[0]


async def test_a_set_after_a_lost_one_is_no_first_one(tmp_path: Path) -> None:
    """Where the texts before a change are not there, the report says that it cannot show the
    difference.
    """
    journal = open_journal(tmp_path)
    journal.policy_in_force(HASH, {"a.cedar": "one\n"})
    journal.policy_in_force(OTHER, {"a.cedar": "two\n"})
    await journal.close()
    (tmp_path / "policies" / ("ab" * 32 + ".json")).unlink()
    assert "the difference cannot be shown" in changed(tmp_path).rows[1][3]
