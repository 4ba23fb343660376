import gzip
import stat
from pathlib import Path

import pytest
from isal import isal_zlib

from proxy.audit.reading.reader import Position, read_log
from proxy.audit.writing.compression import Compressor, compress
from tests.support.audit import one, open_journal, raw_lines, records


async def test_sealed_segments_become_small_and_stay_readable(tmp_path: Path) -> None:
    """In the background every sealed segment is compressed; the log reads the same, and positions
    stay valid.
    """
    journal = open_journal(tmp_path, segment_bytes=30_000)
    for n in range(200):
        await one(journal, n)
    await journal.close()
    log = tmp_path / "gate"
    before, places = raw_lines(log), [item.after for item in read_log(log)]
    last = max(log.glob("*.jsonl"))
    size = sum(path.stat().st_size for path in log.glob("*.jsonl"))
    Compressor(log).compress_before(int(last.stem))
    assert [path.name for path in log.glob("*.jsonl")] == [last.name]
    assert raw_lines(log) == before and [item.after for item in read_log(log)] == places
    assert [i.raw for i in read_log(log, Position(1, places[3].offset))] == before[4:]
    assert sum(path.stat().st_size for path in log.glob("*.jsonl*")) < size / 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in log.glob("*.gz")} == {0o600}


async def test_the_journal_continues_after_a_compressed_end(tmp_path: Path) -> None:
    """If all segments are compressed, a new process reads its state from the last and begins the
    next.
    """
    journal = open_journal(tmp_path)
    await one(journal, 1)
    await journal.close()
    compress(tmp_path / "gate" / "00000001.jsonl")
    await open_journal(tmp_path).close()
    found = records(tmp_path / "gate")
    assert [r["seq"] for r in found] == list(range(len(found))) and found[-1]["stage"] == "closed"


_LINES = b"x\n" * 100
_WHOLE = gzip.compress(_LINES)


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(gzip.compress(b"y\n" * 100), id="other text"),
        pytest.param(gzip.compress(_LINES[:-2]), id="less"),
        pytest.param(gzip.compress(_LINES + b"x\n"), id="more"),
        pytest.param(_WHOLE[:-9], id="cut short"),
        pytest.param(_WHOLE[:-8] + bytes(8), id="wrong sum"),
        pytest.param(_WHOLE[:10] + b"\xff" * 20, id="no deflate"),
        pytest.param(b"no gzip", id="no gzip"),
        pytest.param(b"", id="nothing"),
        pytest.param(
            isal_zlib.error("made to fail"),  # type: ignore[operator]  # its stub has no class
            id="an error of the library's",
        ),
        pytest.param(MemoryError(), id="no memory"),
    ],
)
def test_a_failure_leaves_the_plain_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bytes | Exception
) -> None:
    """If the compressed file cannot be made or does not read back, the plain one is left, and no
    other file.
    """
    plain = tmp_path / "00000001.jsonl"
    plain.write_bytes(_LINES)

    class Faulty:
        def compress(self, data: bytes) -> bytes:
            return b""

        def flush(self) -> bytes:
            if isinstance(written, Exception):
                raise written
            return written

    monkeypatch.setattr(isal_zlib, "compressobj", lambda *_, **_given: Faulty())
    with pytest.raises(OSError, match=r"read back|cannot be compressed"):
        compress(plain)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.jsonl"]
    assert plain.read_bytes() == _LINES
    Compressor(tmp_path).compress_before(2)  # in the background: no worse, and no traceback
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.jsonl"]


@pytest.mark.parametrize("moment", ["begun", "written"])
def test_two_compressors_of_one_segment_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A process that ends may compress the segment that its successor compresses: one complete file
    is left.
    """
    plain = tmp_path / "00000001.jsonl"
    plain.write_bytes(_LINES)
    real = isal_zlib.compressobj

    class Overtaken:
        def __init__(self, *given: int, **options: int) -> None:
            monkeypatch.setattr(isal_zlib, "compressobj", real)
            self._packer = real(*given, **options)

        def compress(self, data: bytes) -> bytes:
            if moment == "begun":
                compress(plain)
            return self._packer.compress(data)

        def flush(self) -> bytes:
            if moment == "written":
                compress(plain)
            return self._packer.flush()

    monkeypatch.setattr(isal_zlib, "compressobj", Overtaken)
    with pytest.raises(FileNotFoundError):
        compress(plain)
    (left,) = tmp_path.iterdir()
    assert gzip.decompress(left.read_bytes()) == _LINES


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    """Unfinished copies of a segment are removed, those of another segment are left."""
    for name in (
        ".00000001.jsonl.gz.new",
        ".00000001.jsonl.gz.0123456789abcdef.new",
        ".00000002.jsonl.gz.0123456789abcdef.new",
    ):
        (tmp_path / name).write_bytes(b"half")
    plain = tmp_path / "00000001.jsonl"
    plain.write_bytes(_LINES)
    compress(plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".00000002.jsonl.gz.0123456789abcdef.new",
        "00000001.jsonl.gz",
    ]
