from pathlib import Path

import pytest

from proxy.audit.checking.signatures import checkpoint_signed_by
from proxy.audit.format.checkpoint import BadCheckpointError
from proxy.audit.writing.keys import load_signing_key
from proxy.audit.writing.signer import Signer

ROOT_HASH = b"r" * 32


def test_a_key_covers_the_logs_below_its_name(tmp_path: Path) -> None:
    """The key of a site signs for the logs of that site, and for no name that merely begins so."""
    key = load_signing_key(tmp_path, "site")
    public = key.public_key().public_bytes_raw()
    keys = [("site", public)]
    for origin in ("site", "site/gate"):
        found = checkpoint_signed_by(Signer(origin, key).sign(3, ROOT_HASH), keys)
        assert (found.origin, found.size, found.root) == (origin, 3, ROOT_HASH)
    with pytest.raises(BadCheckpointError, match="not for the log site-2"):
        checkpoint_signed_by(Signer("site-2", key).sign(3, ROOT_HASH), keys)


def test_another_key_signs_nothing(tmp_path: Path) -> None:
    """A checkpoint that no known key signed does not count, nor does a text that is none."""
    key, other = (load_signing_key(tmp_path / name, "site") for name in "ab")
    keys = [("site", other.public_key().public_bytes_raw())]
    for note in (Signer("site", key).sign(3, ROOT_HASH), b"", b"site\n3\n"):
        with pytest.raises(BadCheckpointError):
            checkpoint_signed_by(note, keys)
