import os
import stat
import threading
from pathlib import Path

import pytest

from proxy.common.durable_files import (
    TEMPORARY_GLOB,
    create_once,
    make_directory,
    read_private,
    replace_atomically,
    replacing,
)
from proxy.errors import ConfigError


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_replaced_with_its_mode(tmp_path: Path, mode: int) -> None:
    """The new content gets exactly the requested mode, under any umask, and no temporary file is
    left.
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
    """A symbolic link under the name does not lead the content to another file."""
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
    """A disk that fails half-way leaves the old file, and no part of the new one."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="No space"):
        replace_atomically(path, b"new", 0o600)
    assert path.read_text() == "old"
    assert list(tmp_path.glob(TEMPORARY_GLOB)) == []


def test_the_first_creator_of_a_file_wins(tmp_path: Path) -> None:
    """The second creator gets the content of the first, and no temporary file is left."""
    assert create_once(tmp_path / "k", b"one") == b"one"
    assert create_once(tmp_path / "k", b"two") == b"one"
    replace_atomically(tmp_path / "r", b"a")
    replace_atomically(tmp_path / "r", b"b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"k": b"one", "r": b"b"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_creators_that_race_agree_on_the_content(tmp_path: Path) -> None:
    """Of eight threads that create one file, one wins and all return its content."""
    start = threading.Barrier(8)
    results: list[bytes] = []

    def create(number: int) -> None:
        start.wait()
        results.append(create_once(tmp_path / "k", b"%d" % number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(tmp_path / "k").read_bytes()] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_a_failure_to_create_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that cannot be linked leaves neither the file nor a temporary one."""

    def fail(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(OSError, match="not permitted"):
        create_once(tmp_path / "k", b"one")
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key file is read only while its mode admits its owner alone; the problem names the file
    and the command that fixes it.
    """
    create_once(tmp_path / "k", b"secret")
    assert read_private(tmp_path / "k") == b"secret"
    for mode in (0o604, 0o602, 0o601):
        (tmp_path / "k").chmod(mode)
        with pytest.raises(ConfigError, match="by other users") as caught:
            read_private(tmp_path / "k")
        assert str(tmp_path / "k") in str(caught.value)


def test_missing_parents_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    """Each new directory gets 0700; a directory that exists keeps its mode."""
    (tmp_path / "old").mkdir(mode=0o755)
    (tmp_path / "old").chmod(0o755)
    make_directory(tmp_path / "old" / "a" / "b")
    make_directory(tmp_path / "old" / "a" / "b")
    modes = [
        stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "old", tmp_path / "old" / "a", tmp_path / "old" / "a" / "b")
    ]
    assert modes == [0o755, 0o700, 0o700]


def test_a_replaced_file_is_private_and_follows_no_link(tmp_path: Path) -> None:
    """The link is replaced; what it led to is left alone."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").symlink_to(victim)
    with replacing(tmp_path / "out") as file:
        file.write(b"new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"new"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """No half of a report takes the place of the last one, and nothing is left behind."""
    (tmp_path / "out").write_text("old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "out") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "out").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_device_is_written_as_it_is() -> None:
    """As root, a rename would replace it."""
    with replacing(Path("/dev/null")) as file:
        file.write(b"x")
    assert Path("/dev/null").is_char_device()
