import gzip
import stat
from pathlib import Path

import pytest

from proxy.audit.compress import Compressor, compress
from proxy.audit.reader import Position, read_log

from .made import one, open_journal, raw_lines, records


async def test_sealed_segments_become_small_and_stay_readable(tmp_path: Path) -> None:
    """In the background every sealed segment is compressed; the log reads the same, and positions stay good."""
    journal = open_journal(tmp_path, segment_bytes=30_000)
    for n in range(200):
        await one(journal, n)
    await journal.close()
    log = tmp_path / "gate"
    before, places = raw_lines(log), [item.after for item in read_log(log)]
    last = max(log.glob("*.jsonl"))
    size = sum(path.stat().st_size for path in log.glob("*.jsonl"))
    Compressor(log)._run(int(last.stem))
    assert [path.name for path in log.glob("*.jsonl")] == [last.name]
    assert raw_lines(log) == before and [item.after for item in read_log(log)] == places
    assert [i.raw for i in read_log(log, Position(1, places[3].offset))] == before[4:]
    assert sum(path.stat().st_size for path in log.glob("*.jsonl*")) < size / 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in log.glob("*.gz")} == {0o600}


async def test_the_journal_goes_on_after_a_compressed_end(tmp_path: Path) -> None:
    """If only compressed segments are there, a new process reads its state from the last and begins the next."""
    journal = open_journal(tmp_path)
    await one(journal, 1)
    await journal.close()
    compress(tmp_path / "gate" / "00000001.jsonl")
    await open_journal(tmp_path).close()
    found = records(tmp_path / "gate")
    assert [r["seq"] for r in found] == list(range(len(found))) and found[-1]["stage"] == "closed"


def test_a_failure_leaves_the_plain_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the compressed file does not read back, the plain one stays, and nothing else."""
    plain = tmp_path / "00000001.jsonl"
    plain.write_bytes(b"x\n" * 100)
    monkeypatch.setattr(gzip, "open", lambda *_: plain.parent.joinpath("other").open("rb"))
    (tmp_path / "other").write_bytes(b"y")
    with pytest.raises(OSError, match="read back"):
        compress(plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001.jsonl", "other"]
