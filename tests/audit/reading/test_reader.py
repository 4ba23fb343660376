from pathlib import Path

import pytest

from proxy.audit.reading.reader import LogFollower, Position, last_entries, read_all, read_log
from proxy.audit.writing.compression import compress
from proxy.errors import ConfigError
from tests.support.audit import Clock, one, open_journal, raw_lines


async def fill(directory: Path, name: str = "gate", calls: int = 20, **settings: object) -> None:
    """Write a log of some calls."""
    journal = open_journal(directory, name, **settings)
    for n in range(calls):
        await one(journal, n)
    await journal.close()


async def test_reading_resumes_after_any_record(tmp_path: Path) -> None:
    """From the position after a record, exactly the records that follow are read: what a shipper
    needs.
    """
    await fill(tmp_path, segment_bytes=4000)
    whole = list(read_log(tmp_path / "gate"))
    assert [item.raw for item in whole] == raw_lines(tmp_path / "gate") and whole[
        -1
    ].after.segment > 2
    for index, item in enumerate(whole):
        assert [i.raw for i in read_log(tmp_path / "gate", item.after)] == [
            i.raw for i in whole[index + 1 :]
        ]


async def test_a_line_being_written_is_left_for_later(tmp_path: Path) -> None:
    """A torn tail is neither returned nor skipped over."""
    await fill(tmp_path, calls=1)
    whole = list(read_log(tmp_path / "gate"))
    with (tmp_path / "gate" / "00000001.jsonl").open("ab") as segment:
        segment.write(b'{"v":1,"seq":')
    assert list(read_log(tmp_path / "gate")) == whole


async def test_logs_are_merged_by_time(tmp_path: Path) -> None:
    """Several processes' logs read as one, in order of time, each in its own order."""
    clock = Clock()
    await fill(tmp_path, "a", clock=clock)
    await fill(tmp_path, "b", clock=clock)
    await fill(tmp_path, "a", clock=clock)
    items = list(read_all(tmp_path))
    assert [i.time for i in items] == sorted(i.time for i in items) and {i.log for i in items} == {
        "a",
        "b",
    }
    assert {i.log for i in read_all(tmp_path, ["b"])} == {"b"}


async def test_last_items_are_the_last(tmp_path: Path) -> None:
    """The last n records come from as many segments as they need."""
    await fill(tmp_path, segment_bytes=3000)
    lines = raw_lines(tmp_path / "gate")
    for count in (0, 1, 5, 20, 1000):
        assert [i.raw for i in last_entries(tmp_path, count)] == (lines[-count:] if count else [])


async def test_following_crosses_rotation_and_processes(tmp_path: Path) -> None:
    """A follower sees each record once: of segments and of logs that came after it, too."""
    await fill(tmp_path, calls=2)
    before = len(raw_lines(tmp_path / "gate"))
    follower = LogFollower(tmp_path)
    assert follower.poll() == []
    await fill(tmp_path, segment_bytes=3000)
    await fill(tmp_path, "late", calls=3)
    seen = follower.poll()
    assert [i.raw for i in seen if i.log == "gate"] == raw_lines(tmp_path / "gate")[before:]
    assert [i.raw for i in seen if i.log == "late"] == raw_lines(tmp_path / "late")
    assert follower.poll() == []


def test_a_directory_that_is_not_there_yet_can_be_followed(tmp_path: Path) -> None:
    """Following may start before the gate does."""
    assert LogFollower(tmp_path / "none").poll() == [] and Position() == Position(0, 0)


async def test_a_compressed_segment_that_does_not_decompress_is_named(tmp_path: Path) -> None:
    """A reader of a damaged archive is told which file is damaged, after the records that could be
    read.
    """
    await fill(tmp_path)
    packed = compress(tmp_path / "gate" / "00000001.jsonl")
    data = packed.read_bytes()
    packed.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ConfigError, match=r"00000001\.jsonl\.gz: the compressed segment does not decompress"
    ):
        list(read_log(tmp_path / "gate"))
    with pytest.raises(ConfigError, match="decompress"):
        last_entries(tmp_path, 3)
