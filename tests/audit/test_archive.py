from pathlib import Path

import pytest

from proxy.audit.archive import Plan, copy, plan, remove
from proxy.audit.checking.chain import Defect
from proxy.audit.checking.verify import verify_directory
from proxy.audit.format.layout import segments
from proxy.audit.format.policy_snapshots import load_snapshot
from proxy.audit.reading.reader import read_all, read_log
from proxy.audit.reporting.policy_activations import policy_activations
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from tests.support.audit import HASH, Clock, one, open_journal, raw_lines

DAY = 24 * 3600 * 10**9


@pytest.fixture
async def days(tmp_path: Path) -> Path:
    """A log of four days, a segment each, beginning on 2026-01-01."""
    clock = Clock()
    journal = open_journal(tmp_path / "audit", clock=clock)
    journal.policy_in_force(HASH, {"base.cedar": "y"})
    for n in range(4):
        await one(journal, n)
        clock.now += DAY
    await one(journal, 4)
    await journal.close()
    assert len(segments(tmp_path / "audit" / "gate")) == 5
    return tmp_path / "audit"


async def test_only_whole_old_segments_are_planned(days: Path) -> None:
    """A segment with one record that is not old enough stays, and the last one always does."""
    log = days / "gate"
    assert plan(log, "2026-01-01T00:00:00.000000Z") is None
    found = plan(log, "2026-01-02T12:00:00.000000Z")
    assert found is not None and found.numbers == (1, 2)
    everything = plan(log, "2099-01-01T00:00:00.000000Z")
    assert everything is not None and everything.numbers == (1, 2, 3, 4)


async def test_what_remains_and_what_was_moved_both_verify(days: Path, tmp_path: Path) -> None:
    """After archiving, the rest verifies by a record of the move, the archive verifies by itself,
    and together nothing is lost.
    """
    log, keys = days / "gate", public_keys(days / PUBLIC_KEYS)
    before = raw_lines(log)
    found = plan(log, "2026-01-02T12:00:00.000000Z")
    assert found is not None
    files = copy(found, tmp_path / "archive")
    operator = open_journal(days, "operator")
    operator.record_event("archived", found.record(tmp_path / "archive" / "gate"))
    await operator.close()
    remove(files)
    reports = {report.log: report for report in verify_directory(days, keys)}
    assert (
        reports["gate"].broken is None
        and reports["gate"].first == found.size
        and "archived to" in reports["gate"].notes[0]
    )
    [moved] = verify_directory(
        tmp_path / "archive", public_keys(tmp_path / "archive" / PUBLIC_KEYS)
    )
    assert moved.broken is None and (moved.records, moved.unsigned) == (found.size, 0)
    kept = [item.raw for place in (tmp_path / "archive" / "gate", log) for item in read_log(place)]
    assert kept == before
    again = plan(log, "2026-01-03T12:00:00.000000Z")
    assert again is not None and again.numbers == (3,)


async def test_a_beginning_that_is_gone_without_a_record_is_missing(
    days: Path, tmp_path: Path
) -> None:
    """Removing old segments without a record of it is found; so is removing more than the record
    says.
    """
    log, keys = days / "gate", public_keys(days / PUBLIC_KEYS)
    found = plan(log, "2026-01-02T12:00:00.000000Z")
    assert found is not None
    remove(copy(found, tmp_path / "archive"))
    [report] = verify_directory(days, keys)
    assert report.broken is not None and report.broken.defect is Defect.MISSING
    operator = open_journal(days, "operator")
    operator.record_event("archived", found.record(tmp_path / "archive"))
    await operator.close()
    assert all(report.broken is None for report in verify_directory(days, keys))
    more = plan(log, "2026-01-03T12:00:00.000000Z")
    assert more is not None
    remove(copy(more, tmp_path / "archive"))
    gone = next(report for report in verify_directory(days, keys) if report.log == "gate")
    assert gone.broken is not None and gone.broken.defect is Defect.MISSING


async def test_the_gate_goes_on_after_its_beginning_was_moved(days: Path, tmp_path: Path) -> None:
    """A process can begin on what remains, and the log verifies with what it adds."""
    found = plan(days / "gate", "2099-01-01T00:00:00.000000Z")
    assert found is not None
    operator = open_journal(days, "operator")
    operator.record_event("archived", found.record(tmp_path))
    await operator.close()
    remove(copy(found, tmp_path / "archive"))
    clock = Clock()
    clock.now += 10 * DAY
    journal = open_journal(days, clock=clock)
    await one(journal, 99)
    await journal.close()
    assert all(
        report.broken is None for report in verify_directory(days, public_keys(days / PUBLIC_KEYS))
    )


def planned(log: Path, before: str) -> Plan:
    """What is to be moved."""
    found = plan(log, before)
    assert found is not None
    return found


async def test_an_archive_is_never_overwritten(days: Path, tmp_path: Path) -> None:
    """Another log of the same name, of another machine, is refused and nothing of either is lost;
    the same again is no harm.
    """
    archive = tmp_path / "archive"
    copy(planned(days / "gate", "2026-01-02T12:00:00.000000Z"), archive)
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    clock = Clock()
    journal = open_journal(tmp_path / "second", clock=clock)
    for n in range(4):
        await one(journal, n + 100)
        clock.now += DAY
    await one(journal, 104)
    await journal.close()
    other = tmp_path / "second" / "gate"
    with pytest.raises(OSError, match="exists already"):
        copy(planned(other, "2026-01-02T12:00:00.000000Z"), archive)
    remove([path for number, path in segments(other).items() if number <= 2])
    with pytest.raises(OSError, match="holds another log"):
        copy(planned(other, "2026-01-03T12:00:00.000000Z"), archive)
    assert {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()} == before
    remove(copy(planned(days / "gate", "2026-01-02T12:00:00.000000Z"), archive))
    copy(planned(days / "gate", "2026-01-03T12:00:00.000000Z"), archive)
    [moved] = verify_directory(archive, public_keys(archive / PUBLIC_KEYS))
    assert moved.broken is None and moved.segments == 3


async def test_an_archive_has_all_keys_and_policies(days: Path, tmp_path: Path) -> None:
    """Logs of two machines under their own names can share an archive: it has both keys, and every
    policy set that is named in it.
    """
    archive, clock = tmp_path / "archive", Clock()
    journal = open_journal(tmp_path / "second", "other", clock=clock)
    await one(journal, 1)
    clock.now += DAY
    await one(journal, 2)
    await journal.close()
    for log in (days / "gate", tmp_path / "second" / "other"):
        copy(planned(log, "2026-01-02T00:00:00.000000Z"), archive)
    reports = verify_directory(archive, public_keys(archive / PUBLIC_KEYS))
    assert [report.log for report in reports if report.broken is None] == ["gate", "other"]
    assert load_snapshot(archive, HASH) == {"base.cedar": "y"}


async def test_what_remains_says_which_policies_were_in_force(days: Path, tmp_path: Path) -> None:
    """With the policy record itself archived, the log still says which set it began with, and the
    texts are still vouched for.
    """
    remove(copy(planned(days / "gate", "2026-01-02T12:00:00.000000Z"), tmp_path / "archive"))
    [found] = policy_activations(read_all(days), days)
    assert (found.hash, found.texts, found.continued) == (HASH, {"base.cedar": "y"}, True)
