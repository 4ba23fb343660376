import os
from pathlib import Path

import pytest

from proxy.audit.writing.disk import Disk, logs, open_append, segments, write_whole
from proxy.common.durable_files import make_directory


def test_short_writes_are_continued(tmp_path: Path) -> None:
    """A write that takes only part of the bytes is followed by one for the rest, and one sync at
    the end.
    """
    syncs: list[int] = []
    disk = Disk(lambda fd, data: os.write(fd, data[:3]), syncs.append)
    fd = open_append(tmp_path / "x")
    write_whole(disk, fd, b"0123456789")
    os.close(fd)
    assert (tmp_path / "x").read_bytes() == b"0123456789" and syncs == [fd]


def test_a_link_in_a_segments_place_is_refused(tmp_path: Path) -> None:
    """A symbolic link cannot lead the journal to write elsewhere, and a linked directory is no log."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        open_append(tmp_path / "link")
    make_directory(tmp_path / "real" / "log")
    (tmp_path / "real" / "log" / "00000001.jsonl").touch()
    (tmp_path / "real" / "linked").symlink_to(tmp_path / "real" / "log")
    assert list(logs(tmp_path / "real")) == ["log"]


def test_segments_are_told_from_other_files(tmp_path: Path) -> None:
    """Only numbered segments count, in the order of their numbers, and a plain one before its
    compressed copy.
    """
    for name in (
        "00000002.jsonl",
        "00000010.jsonl",
        "00000001.jsonl.gz",
        "00000002.jsonl.gz",
        "00000003.checkpoints",
        "1.jsonl",
        "x.jsonl",
        ".00000004.jsonl",
    ):
        (tmp_path / name).touch()
    assert {number: path.name for number, path in segments(tmp_path).items()} == {
        1: "00000001.jsonl.gz",
        2: "00000002.jsonl",
        10: "00000010.jsonl",
    }
    assert list(logs(tmp_path)) == [tmp_path.name]
