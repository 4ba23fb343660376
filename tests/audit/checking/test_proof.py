from pathlib import Path

import orjson
import pytest

from proxy.audit.checking.proof import BadProofError, Provable, check_proof, prove
from proxy.audit.reading.call_details import call_details
from proxy.audit.reading.reader import LogEntry, read_log
from proxy.audit.writing.keys import PUBLIC_KEYS, load_signing_key, public_keys
from tests.support.audit import ALLOW, HERE, WORKER, call, one, open_journal


def provable(entries: list[LogEntry]) -> list[Provable]:
    """What the records of a log are proved by."""
    return [Provable(each.after.segment, each.record.seq, each.raw) for each in entries]


async def fill(directory: Path) -> None:
    """A log of several segments."""
    journal = open_journal(directory, segment_bytes=5000)
    for n in range(40):
        await one(journal, n)
    await journal.close()


async def test_every_record_can_be_proved(tmp_path: Path) -> None:
    """Each record of each segment has a proof that holds without the log, though only its own
    segment was read.
    """
    await fill(tmp_path)
    items = list(read_log(tmp_path / "gate"))
    for path in sorted((tmp_path / "gate").glob("*.jsonl"))[:-1]:
        assert path.exists()
    proved = check_proof(
        prove(tmp_path / "gate", provable(items)), public_keys(tmp_path / PUBLIC_KEYS)
    )
    assert [p.line for p in proved] == [i.raw for i in items] and {
        p.checkpoint.origin for p in proved
    } == {"callgate/gate"}


async def test_a_proof_needs_one_segment_only(tmp_path: Path) -> None:
    """With all earlier segments gone (archived) the proof is the same."""
    await fill(tmp_path)
    [whole] = call_details(tmp_path, "call-20")
    before = prove(tmp_path / "gate", provable(whole.entries))
    for number in range(1, whole.entries[0].after.segment):
        (tmp_path / "gate" / f"{number:08d}.jsonl").unlink()
    assert prove(tmp_path / "gate", provable(whole.entries)) == before


async def test_no_changed_proof_holds(tmp_path: Path) -> None:
    """A proof with any byte of its record, path, index or checkpoint changed proves nothing; nor
    under another key.
    """
    await fill(tmp_path)
    [whole] = call_details(tmp_path, "call-3")
    keys = public_keys(tmp_path / PUBLIC_KEYS)
    document = orjson.loads(prove(tmp_path / "gate", provable(whole.entries[:1])))
    [proof] = document["proofs"]
    for name in ("record", "checkpoint"):
        text = proof[name]
        for at in range(len(text)):
            changed = {**proof, name: text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]}
            with pytest.raises(BadProofError):
                check_proof(orjson.dumps({**document, "proofs": [changed]}), keys)
    others = [
        {**proof, "index": proof["index"] + 1},
        {**proof, "path": proof["path"][:-1]},
        {**proof, "path": ["00" * 32, *proof["path"][1:]]},
        {**proof, "path": 5},
        {**proof, "index": True},
    ]
    for changed in others:
        with pytest.raises(BadProofError):
            check_proof(orjson.dumps({**document, "proofs": [changed]}), keys)
    load_signing_key(tmp_path / "other", "callgate")
    with pytest.raises(BadProofError, match="known key"):
        check_proof(orjson.dumps(document), public_keys(tmp_path / "other" / PUBLIC_KEYS))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format":"callgate-proof-1","proofs":[]}',
        b'{"format":"callgate-proof-1","proofs":[{}]}',
        b"\xff",
    ],
)
async def test_other_files_are_no_proofs(tmp_path: Path, data: bytes) -> None:
    """Any other file is refused in words, not with a stack trace."""
    await open_journal(tmp_path).close()
    with pytest.raises(BadProofError, match="not a proof"):
        check_proof(data, public_keys(tmp_path / PUBLIC_KEYS))


async def test_an_unsigned_record_has_no_proof_yet(tmp_path: Path) -> None:
    """Until a checkpoint covers it, a record cannot be proved, and that is said."""
    journal = open_journal(tmp_path)
    await journal.decide("new", WORKER, HERE, [(call(), ALLOW)], 0)
    [whole] = call_details(tmp_path, "new")
    with pytest.raises(BadProofError, match="Try again"):
        prove(tmp_path / "gate", provable(whole.entries))
    await journal.close()
