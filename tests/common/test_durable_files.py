import os
import stat
from pathlib import Path

import pytest

from proxy.common.durable_files import TEMPORARY_GLOB, replace_atomically


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_replaced_with_its_mode(tmp_path: Path, mode: int) -> None:
    """The new content stands under the name with exactly the mode asked for, whatever the umask,
    and nothing is left over.
    """
    path = tmp_path / "a.json"
    path.write_text("old")
    before = os.umask(0o077)
    try:
        replace_atomically(path, b"new", mode)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208  (dot-files too)


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    """A symbolic link under the name does not lead the content elsewhere."""
    victim = tmp_path / "victim"
    victim.write_text("old")
    path = tmp_path / "a.json"
    path.symlink_to(victim)
    replace_atomically(path, b"new", 0o600)
    assert victim.read_text() == "old" and not path.is_symlink() and path.read_bytes() == b"new"


@pytest.mark.parametrize("fails", ["fsync", "fchmod"])
def test_a_failure_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """When the disk fails half-way, the old file stands and no part of the new one is left."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="No space"):
        replace_atomically(path, b"new", 0o600)
    assert path.read_text() == "old"
    assert list(tmp_path.glob(TEMPORARY_GLOB)) == []
