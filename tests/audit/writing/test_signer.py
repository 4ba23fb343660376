import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxy.audit.format.checkpoint import check
from proxy.audit.writing.signer import Signer

KEY = Ed25519PrivateKey.from_private_bytes(b"7" * 32)


def test_a_signed_note_passes_the_check() -> None:
    """The checker reads the origin, size and root that the signer wrote."""
    found = check(
        Signer("callgate/gate", KEY).sign(12, b"r" * 32), [KEY.public_key().public_bytes_raw()]
    )
    assert (found.origin, found.size, found.root) == ("callgate/gate", 12, b"r" * 32)


@pytest.mark.parametrize("origin", ["call gate", "call+gate", "", "call\ngate"])
def test_an_origin_that_a_note_cannot_hold_is_refused(origin: str) -> None:
    """White space and plus signs separate the parts of a signature line and of a key."""
    with pytest.raises(ValueError, match="space"):
        Signer(origin, KEY)
