import os
from pathlib import Path

import pytest

from proxy.audit.writing.disk import Disk, open_append, write_durably


def test_short_writes_are_continued(tmp_path: Path) -> None:
    """A short write is followed by one for the rest, and by one sync at the end."""
    syncs: list[int] = []
    disk = Disk(lambda fd, data: os.write(fd, data[:3]), syncs.append)
    fd = open_append(tmp_path / "x")
    write_durably(disk, fd, b"0123456789")
    os.close(fd)
    assert (tmp_path / "x").read_bytes() == b"0123456789" and syncs == [fd]


def test_a_link_in_a_segments_place_is_refused(tmp_path: Path) -> None:
    """A symbolic link cannot make the journal write elsewhere."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        open_append(tmp_path / "link")
