import asyncio
import os
from pathlib import Path

import orjson
import pytest

from proxy.audit.writing.entry import EntryKind
from proxy.audit.writing.opening import opening_entries
from proxy.audit.writing.recovery import LogState
from proxy.errors import ConfigError
from tests.support.audit import open_journal


async def test_one_writer_a_log(tmp_path: Path) -> None:
    """A second process cannot write the same log; it can write one of another instance name."""
    journal = open_journal(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        open_journal(tmp_path)
    other = open_journal(tmp_path, "gate-2")
    await asyncio.gather(journal.close(), other.close())


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 65, "a\nb"])
def test_a_bad_instance_name_is_refused(tmp_path: Path, name: str) -> None:
    """An instance name is a plain file name: it becomes a directory and part of a name."""
    with pytest.raises(ConfigError, match="not a name of a log"):
        open_journal(tmp_path, name)


def test_the_opening_closes_what_was_open() -> None:
    """The first entry reports the recovery, the next close the open calls in their order."""
    state = LogState(open={7: "b", 4: "a"}, torn_bytes=3)
    opened, *closing = opening_entries(state, "callgate 1.0", 99)
    found = orjson.loads(b"{" + opened.body)
    assert (found["software"], found["pid"]) == ("callgate 1.0", os.getpid())
    assert found["recovered"] == {"torn_bytes": 3, "unknown": 2}
    assert [(entry.kind, entry.seq, entry.micros) for entry in closing] == [
        (EntryKind.CLOSES, 4, 99),
        (EntryKind.CLOSES, 7, 99),
    ]


def test_the_opening_after_a_clean_end_has_no_recovery() -> None:
    """An empty log and one with a clean end have null there."""
    [opened] = opening_entries(LogState(), "callgate", 0)
    assert orjson.loads(b"{" + opened.body)["recovered"] is None
