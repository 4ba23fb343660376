from pathlib import Path

import pytest

from proxy.audit.format.policy_snapshots import digest, load_snapshot, save_snapshot

HASH = "sha256:" + "ab" * 32


def test_snapshots_are_saved_by_hash(tmp_path: Path) -> None:
    """A snapshot loads as it was saved; the digest ignores the order; the file is private."""
    files = {"b.cedar": "x", "a.toml": "ü\n"}
    assert (
        save_snapshot(tmp_path, HASH, files) == digest(files) == digest(dict(sorted(files.items())))
    )
    assert load_snapshot(tmp_path, HASH) == files
    [path] = (tmp_path / "policies").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    save_snapshot(tmp_path, HASH, files)
    assert (
        load_snapshot(tmp_path, HASH) == files
        and load_snapshot(tmp_path, "sha256:" + "cd" * 32) is None
    )


@pytest.mark.parametrize(
    "policy_hash", ["", "sha256:../../etc", "sha256:", "x" * 80, "sha256:ABCDEFABCDEFABCDEF"]
)
def test_a_hash_is_no_path(tmp_path: Path, policy_hash: str) -> None:
    """A text that is not a hash is refused before it becomes a file name."""
    with pytest.raises(ValueError, match="hash"):
        save_snapshot(tmp_path, policy_hash, {})
    assert not list(tmp_path.iterdir())


def test_a_broken_file_is_no_snapshot(tmp_path: Path) -> None:
    """A file of another form counts as absent."""
    save_snapshot(tmp_path, HASH, {"a": "b"})
    [path] = (tmp_path / "policies").iterdir()
    for text in ("", "[]", '{"files": 3}'):
        path.write_text(text)
        assert load_snapshot(tmp_path, HASH) is None
