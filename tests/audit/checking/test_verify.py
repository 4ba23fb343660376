import gzip
from pathlib import Path

import pytest

from proxy.audit.checking.chain import Defect
from proxy.audit.checking.signatures import Keys
from proxy.audit.checking.verify import verify_directory, verify_log
from proxy.audit.format.layout import segments
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from tests.support.audit import V1, copy_of_v1, one, open_journal, raw_lines


@pytest.fixture(params=["version 1", "version 1 continued as 2"])
async def audit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An audit directory of record format 1, as it is or after this version wrote to it."""
    directory = copy_of_v1(tmp_path / "audit")
    if request.param != "version 1":
        journal = open_journal(directory, "gate")
        for number in range(3):
            await one(journal, number)
        await journal.close()
    packed = directory / "gate" / "00000001.jsonl.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    return directory


@pytest.fixture
def keys(audit: Path) -> Keys:
    """The public keys of the directory."""
    return public_keys(audit / PUBLIC_KEYS)


def test_the_stored_log_is_intact_as_it_is() -> None:
    """A log of format 1, with a compressed segment, verifies with the key that was stored."""
    reports = verify_directory(V1, public_keys(V1 / PUBLIC_KEYS))
    assert [(report.log, report.broken) for report in reports] == [("gate", None), ("gate-2", None)]


def test_logs_of_both_formats_are_intact(audit: Path, keys: Keys) -> None:
    """Every record counts, in whichever format it is; nothing is open where the log was closed."""
    gate, gate_2 = verify_directory(audit, keys)
    assert gate.broken is None and gate_2.broken is None
    assert gate.records == gate.signed == len(raw_lines(audit / "gate"))
    assert (gate.open, gate.unknown, gate.ended_in_order) == (0, 1, True)
    assert (gate_2.open, gate_2.ended_in_order) == (1, False)


def test_every_record_of_both_formats_is_covered(audit: Path, keys: Keys) -> None:
    """Whichever record is altered or removed, the check names it."""
    log, seq = audit / "gate", 0
    for path in segments(log).values():
        lines = path.read_bytes().splitlines(keepends=True)
        for index, line in enumerate(lines):
            altered = line[:-4] + bytes([line[-4] ^ 1]) + line[-3:]
            path.write_bytes(b"".join([*lines[:index], altered, *lines[index + 1 :]]))
            found = verify_log(log, keys).broken
            assert found is not None and (found.defect, found.seq) == (Defect.ALTERED, seq)
            path.write_bytes(b"".join(lines[:index] + lines[index + 1 :]))
            found = verify_log(log, keys).broken
            assert found is not None and found.seq == seq
            seq += 1
        path.write_bytes(b"".join(lines))


def test_each_segment_of_both_formats_verifies_alone(audit: Path, keys: Keys) -> None:
    """A segment header of either format has the frontier of the tree before it."""
    for number in segments(audit / "gate"):
        assert verify_log(audit / "gate", keys, only=number).broken is None


def test_a_log_whose_beginning_is_gone_is_missing_it(audit: Path, keys: Keys) -> None:
    """Without a record of where it was archived, a missing beginning is a defect."""
    (audit / "gate" / "00000001.jsonl").unlink()
    gate, _ = verify_directory(audit, keys)
    assert gate.broken is not None and (gate.broken.defect, gate.broken.seq) == (Defect.MISSING, 0)
    assert "no record says" in gate.broken.text
