import gzip
from pathlib import Path

import pytest

from proxy.audit.format.segment_file import last_lines, open_readable, open_segment
from proxy.errors import ConfigError

LINES = [b"%d" % number * 1000 for number in range(1000)]


def test_a_segment_compressed_a_moment_ago_is_opened(tmp_path: Path) -> None:
    """The plain name finds the compressed copy once the plain file is gone."""
    with gzip.open(tmp_path / "00000001.jsonl.gz", "wb") as file:
        file.write(b"one\n")
    with open_segment(tmp_path / "00000001.jsonl") as lines:
        assert lines.read() == b"one\n"


def test_a_damaged_segment_is_named(tmp_path: Path) -> None:
    """Damage is a ConfigError with the path, at whatever point of reading it is found."""
    path = tmp_path / "00000001.jsonl.gz"
    path.write_bytes(gzip.compress(b"one\n" * 1000)[:-9])
    with (
        pytest.raises(ConfigError, match=r"00000001\.jsonl\.gz: .* does not decompress"),
        open_readable(path) as lines,
    ):
        lines.read()


@pytest.mark.parametrize("name", ["00000001.jsonl", "00000001.jsonl.gz"])
@pytest.mark.parametrize("count", [0, 1, 3, 999, 2000])
def test_last_lines_have_their_offsets(tmp_path: Path, name: str, count: int) -> None:
    """Complete lines come from the end; a last line without LF does not count."""
    data = b"".join(line + b"\n" for line in LINES) + b"torn"
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = last_lines(path, count)
    assert [line for _, line in found] == LINES[len(LINES) - min(count, len(LINES)) :]
    assert all(data[:offset].endswith(line + b"\n") for offset, line in found)
