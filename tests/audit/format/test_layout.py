from pathlib import Path

from proxy.audit.format.layout import logs, segments
from proxy.common.durable_files import make_directory


def test_only_numbered_files_are_segments(tmp_path: Path) -> None:
    """Segments are in the order of their numbers; a plain one precedes its compressed copy."""
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


def test_a_linked_directory_is_no_log(tmp_path: Path) -> None:
    """A symbolic link to a log is not listed as one."""
    make_directory(tmp_path / "real" / "log")
    (tmp_path / "real" / "log" / "00000001.jsonl").touch()
    (tmp_path / "real" / "linked").symlink_to(tmp_path / "real" / "log")
    assert list(logs(tmp_path / "real")) == ["log"]
