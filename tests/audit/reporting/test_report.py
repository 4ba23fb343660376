from pathlib import Path

from proxy.audit.format.checkpoint import Checkpoint
from proxy.audit.reading.query import Filter, find_calls
from proxy.audit.reporting.report import covered_by, last_checkpoints
from tests.support.audit import one, open_journal
from tests.support.audit_records import call_of


async def test_a_report_looks_at_what_its_checkpoint_covers(tmp_path: Path) -> None:
    """Calls after the checkpoint are left out, and so are outcomes after it: computed again later,
    the report is the same.
    """
    journal = open_journal(tmp_path)
    for n in range(3):
        await one(journal, n)
    await journal.close()
    last = last_checkpoints(tmp_path)["gate"]
    calls = list(find_calls(tmp_path, Filter()))
    assert list(covered_by(calls, {"gate": last})) == calls
    between = Checkpoint(last.origin, calls[1].decided.seq + 1, last.root, b"")
    assert [(c.decided.id, c.completed is None) for c in covered_by(calls, {"gate": between})] == [
        ("call-0", False),
        ("call-1", True),
    ]
    assert (
        list(covered_by(calls, {})) == []
        and list(covered_by([call_of({}, log="other")], {"gate": last})) == []
    )
