import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.audit.checking.chain import Defect, VerificationError
from proxy.audit.checking.log_verifier import LogReport
from proxy.audit.checking.signatures import Keys, checkpoint_signed_by
from proxy.audit.checking.verify import verify_directory, verify_log
from proxy.audit.format.checkpoint import parse, split
from proxy.audit.format.layout import segments
from proxy.audit.format.merkle import Tree, leaf_hash
from proxy.audit.writing.compression import compress
from proxy.audit.writing.keys import PUBLIC_KEYS, load_signing_key, public_keys
from proxy.audit.writing.signer import Signer
from tests.support.audit import ALLOW, HERE, WORKER, call, one, open_journal


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of two segments that ended in order; copied, never changed."""
    directory = tmp_path_factory.mktemp("made")

    async def fill() -> None:
        journal = open_journal(directory, segment_bytes=1100)
        for n in range(2):
            await one(journal, n)
        await journal.close()

    asyncio.run(fill())
    assert len(segments(directory / "gate")) >= 2
    return directory


@pytest.fixture
def log(made: Path, tmp_path: Path) -> Path:
    """A copy of the log to damage."""
    shutil.copytree(made / "gate", tmp_path / "gate")
    return tmp_path / "gate"


@pytest.fixture
def keys(made: Path) -> Keys:
    """The public key of the log."""
    return public_keys(made / PUBLIC_KEYS)


def broken(log: Path, keys: Keys) -> VerificationError | None:
    """What is wrong with a log."""
    return verify_log(log, keys).broken


def lines_of(log: Path) -> list[tuple[Path, list[bytes]]]:
    """The segments with their lines, LF included."""
    return [(path, path.read_bytes().splitlines(keepends=True)) for path in segments(log).values()]


def numbered(log: Path) -> Iterator[tuple[int, Path, list[bytes], int]]:
    """Each record: its number, its segment, that segment's lines, and its index in them."""
    seq = 0
    for path, lines in lines_of(log):
        for index in range(len(lines)):
            yield seq, path, lines, index
            seq += 1


def test_an_untouched_log_is_intact(log: Path, keys: Keys) -> None:
    """All is there, all of it signed, and the report says how much."""
    report = verify_log(log, keys)
    count = sum(len(lines) for _, lines in lines_of(log))
    assert report.broken is None and report.ended_in_order
    assert (report.records, report.signed, report.unsigned, report.open, report.segments) == (
        count,
        count,
        0,
        0,
        len(lines_of(log)),
    )


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_every_changed_byte_is_found_at_its_record(log: Path, keys: Keys, step: int) -> None:
    """Whichever byte of whichever record is changed, the check names that record as altered."""
    for seq, path, lines, index in numbered(log):
        line = lines[index]
        for at in range(seq % step, len(line), step):
            changed = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]
            path.write_bytes(b"".join([*lines[:index], changed, *lines[index + 1 :]]))
            found = broken(log, keys)
            assert found is not None and found.defect in (Defect.ALTERED, Defect.TRUNCATED), (
                seq,
                at,
                found,
            )
            assert found.seq == seq, (seq, at, changed, found.text)
        path.write_bytes(b"".join(lines))


def test_every_removed_record_is_missed(log: Path, keys: Keys) -> None:
    """Whichever record is taken out, the check says that this one is missing, or where the log is
    cut short.
    """
    for seq, path, lines, index in numbered(log):
        path.write_bytes(b"".join(lines[:index] + lines[index + 1 :]))
        found = broken(log, keys)
        wanted = {Defect.TRUNCATED} if index == len(lines) - 1 else {Defect.MISSING}
        assert found is not None and found.defect in wanted and found.seq == seq, (seq, found)
        path.write_bytes(b"".join(lines))


def test_every_repeated_record_is_found(log: Path, keys: Keys) -> None:
    """Whichever record is written twice, the second is found where it stands."""
    for seq, path, lines, index in numbered(log):
        path.write_bytes(b"".join([*lines[: index + 1], *lines[index:]]))
        found = broken(log, keys)
        assert found is not None and (found.defect, found.seq) == (Defect.INSERTED, seq + 1), (
            seq,
            found,
        )
        path.write_bytes(b"".join(lines))


def test_every_swap_is_found(log: Path, keys: Keys) -> None:
    """Whichever two neighbours are swapped, they are found to be out of order at the first of them."""
    for seq, path, lines, index in numbered(log):
        if index + 1 < len(lines):
            path.write_bytes(
                b"".join([*lines[:index], lines[index + 1], lines[index], *lines[index + 2 :]])
            )
            found = broken(log, keys)
            assert found is not None and (found.defect, found.seq) == (Defect.REORDERED, seq), (
                seq,
                found,
            )
            path.write_bytes(b"".join(lines))


def test_an_invented_record_is_found(log: Path, keys: Keys) -> None:
    """A record made up and put in, with the right number and the right hash before it, is found at
    once or one later.
    """
    for seq, path, lines, index in list(numbered(log))[1:]:
        forged = re.sub(rb'"stage":.*', b'"stage":"idle"}', lines[index].rstrip(b"\n")) + b"\n"
        path.write_bytes(b"".join([*lines[:index], forged, *lines[index:]]))
        found = broken(log, keys)
        assert found is not None and found.seq in (seq, seq + 1), (seq, found)
        path.write_bytes(b"".join(lines))


def test_a_log_cut_at_every_byte_is_truncated(log: Path, keys: Keys) -> None:
    """Wherever the end is cut off, the last checkpoint shows it, and the first record that is not
    whole is named.
    """
    path, lines = lines_of(log)[-1]
    data = b"".join(lines)
    before = sum(len(lines) for _, lines in lines_of(log)[:-1])
    for at in range(len(data)):
        path.write_bytes(data[:at])
        found = broken(log, keys)
        assert found is not None and found.defect in (
            Defect.TRUNCATED,
            Defect.ALTERED,
            Defect.MISSING,
            Defect.SIGNATURE,
        )
        assert found.seq == before + data[:at].count(b"\n"), (at, found)


def test_every_changed_byte_of_a_checkpoint_is_found(log: Path, keys: Keys) -> None:
    """No byte of the checkpoints can be changed: the signature fails, or a checkpoint that must be
    there is not.
    """
    for path in sorted(log.glob("*.checkpoints")):
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            report = verify_log(log, keys)
            # A change that makes a checkpoint in the middle unreadable as one is told apart from a
            # torn end by what follows it.
            assert report.broken is not None and report.broken.defect is Defect.SIGNATURE, (
                path.name,
                at,
            )
        path.write_bytes(data)


def rewritten(log: Path, change: bytes, to: bytes) -> None:
    """Alter a record as somebody would who knows the format: every later prev, root and edge made
    to fit, only not signed.
    """
    tree, prev = Tree(), b"0" * 16
    for path, lines in lines_of(log):
        out = []
        for raw in lines:
            line = raw.rstrip(b"\n").replace(change, to)
            line = re.sub(rb'"prev":"[0-9a-f]{16}"', b'"prev":"' + prev + b'"', line, count=1)
            edge = b",".join(b'"' + part.hex().encode() + b'"' for part in tree.frontier)
            line = re.sub(
                rb'"root":"[0-9a-f]{64}","frontier":\[[^]]*\]',
                b'"root":"' + tree.root().hex().encode() + b'","frontier":[' + edge + b"]",
                line,
            )
            leaf = leaf_hash(line)
            tree.append(leaf)
            prev = leaf[:8].hex().encode()
            out.append(line + b"\n")
        path.write_bytes(b"".join(out))


def test_a_forger_who_recomputes_the_chain_fails_at_the_signature(log: Path, keys: Keys) -> None:
    """With every hash recomputed the lines fit again, but the signed root does not: the range since
    the last good one is named.
    """
    rewritten(log, b'"subject":"etl-07"', b'"subject":"another"')
    found = broken(log, keys)
    assert found is not None and found.defect is Defect.ALTERED and "signed root" in found.text


def test_a_forger_with_another_key_fails(log: Path, keys: Keys, tmp_path: Path) -> None:
    """Checkpoints that another key signed are not accepted."""
    rewritten(log, b'"subject":"etl-07"', b'"subject":"another"')
    signer = Signer("callgate/gate", load_signing_key(tmp_path / "evil", "callgate"))
    tree = Tree()
    for path, lines in lines_of(log):
        for line in lines:
            tree.append(leaf_hash(line.rstrip(b"\n")))
        path.with_suffix(".checkpoints").write_bytes(signer.sign(tree.size, tree.root()) + b"\n")
    found = broken(log, keys)
    assert found is not None and found.defect is Defect.SIGNATURE and "known key" in found.text
    assert verify_log(log, public_keys(tmp_path / "evil" / PUBLIC_KEYS)).broken is None


def test_a_missing_segment_is_missed(log: Path, keys: Keys) -> None:
    """A segment that is gone is missed, whichever it is: the first (unless archived), one in the
    middle, the last, or all of them.
    """
    found = segments(log)
    held = {path: path.read_bytes() for path in found.values()}
    for number, path in found.items():
        path.unlink()
        [report] = verify_directory(log.parent, keys)
        wanted = Defect.TRUNCATED if number == max(found) else Defect.MISSING
        assert report.broken is not None and report.broken.defect is wanted, number
        path.write_bytes(held[path])
    for path in held:
        path.unlink()
    [report] = verify_directory(log.parent, keys)
    assert report.broken is not None and report.broken.defect is Defect.TRUNCATED


def test_missing_checkpoints_are_missed(log: Path, keys: Keys) -> None:
    """A sealed segment, and a log that ended in order, must end with a checkpoint."""
    for path in sorted(log.glob("*.checkpoints")):
        data = path.read_bytes()
        path.unlink()
        found = broken(log, keys)
        assert found is not None and found.defect is Defect.SIGNATURE
        path.write_bytes(data)


def test_a_compressed_segment_is_the_same_evidence(log: Path, keys: Keys) -> None:
    """Compression changes nothing that is checked; damage inside the compressed file is found."""
    before = verify_log(log, keys)
    packed = compress(log / "00000001.jsonl")
    after = verify_log(log, keys)
    assert after.broken is None and (after.records, after.signed) == (before.records, before.signed)
    data = packed.read_bytes()
    packed.write_bytes(data[: len(data) // 2])
    assert broken(log, keys) is not None


def end_of_the_first_segment(log: Path, keys: Keys) -> bytes:
    """The checkpoint at the end of the first segment."""
    return list(split((log / "00000001.checkpoints").read_bytes()))[-1]


def test_only_what_came_after_a_saved_checkpoint(log: Path, keys: Keys) -> None:
    """From a saved checkpoint on, earlier segments are not read, and its root is proved to be the
    beginning.
    """
    saved = checkpoint_signed_by(end_of_the_first_segment(log, keys), keys)
    report = verify_log(log, keys, saved=saved)
    assert report.broken is None and report.first + report.records == verify_log(log, keys).records
    rewritten(log, b'"subject":"etl-07"', b'"subject":"another"')
    for path in log.glob("*.checkpoints"):
        path.unlink()
    found = verify_log(log, keys, saved=saved).broken
    assert found is not None and found.defect in (Defect.INCONSISTENT, Defect.SIGNATURE)


def test_a_saved_checkpoint_shows_a_shortened_log(log: Path, keys: Keys) -> None:
    """Records and checkpoints taken off the end together leave an intact, shorter log: a saved
    checkpoint shows it.
    """
    saved = checkpoint_signed_by(
        list(split(sorted(log.glob("*.checkpoints"))[-1].read_bytes()))[-1], keys
    )
    for path in list(log.iterdir()):
        if not path.name.startswith("00000001"):
            path.unlink()
    assert broken(log, keys) is None
    found = verify_log(log, keys, saved=saved).broken
    assert found is not None and found.defect is Defect.TRUNCATED


def test_one_segment_alone(log: Path, keys: Keys) -> None:
    """One segment can be checked by itself, against its own checkpoints."""
    report = verify_log(log, keys, only=2)
    assert report.broken is None and report.first > 0 and report.segments == 1
    path = log / "00000002.jsonl"
    path.write_bytes(path.read_bytes().replace(b"call-", b"cell-"))
    assert verify_log(log, keys, only=2).broken is not None


async def test_a_call_that_was_never_completed_is_found(tmp_path: Path) -> None:
    """If a process ended and a call it left open is not closed, the decided record is named."""
    journal = open_journal(tmp_path)
    await journal.decide("open", WORKER, HERE, [(call(), ALLOW)], 0)
    journal._writer._appender.state.open.clear()  # a writer that forgets
    await journal.close()
    report: LogReport = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is not None and (report.broken.defect, report.broken.seq) == (
        Defect.OPEN,
        2,
    )


async def test_a_log_that_is_being_written_is_intact(tmp_path: Path) -> None:
    """A live log may have calls open, records not signed yet, and a torn line: none of it is a
    defect, all of it is reported.
    """
    journal = open_journal(tmp_path)
    await journal.decide("open", WORKER, HERE, [(call(), ALLOW)], 0)
    with (tmp_path / "gate" / "00000001.jsonl").open("ab") as torn:
        torn.write(b'{"v":1')
    report = verify_log(tmp_path / "gate", public_keys(tmp_path / PUBLIC_KEYS))
    assert report.broken is None and (report.open, report.unsigned, report.torn_bytes) == (1, 1, 6)
    assert (
        report.signed
        == parse(list(split((tmp_path / "gate" / "00000001.checkpoints").read_bytes()))[-1]).size
    )
    await journal.close()
