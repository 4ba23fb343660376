from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy.audit.writing.keys import (
    HMAC_KEY,
    PUBLIC_KEYS,
    SIGNING_KEY,
    load_hmac_key,
    load_signing_key,
    new_signing_key,
    public_keys,
)
from proxy.errors import ConfigError


def test_keys_are_made_once(tmp_path: Path) -> None:
    """The first use creates the keys, later uses load the same; private ones are 0600."""
    assert load_hmac_key(tmp_path) == load_hmac_key(tmp_path) and len(load_hmac_key(tmp_path)) == 32
    first, again = load_signing_key(tmp_path, "callgate"), load_signing_key(tmp_path, "callgate")
    assert first.private_bytes_raw() == again.private_bytes_raw()
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in (HMAC_KEY, SIGNING_KEY)} == {0o600}
    assert public_keys(tmp_path / PUBLIC_KEYS) == [
        ("callgate", first.public_key().public_bytes_raw())
    ]


def test_a_key_from_elsewhere_leaves_none_here(tmp_path: Path) -> None:
    """With a key of the operator's no private key is created; every key that signed is listed,
    newest last.
    """
    pems = [new_signing_key(), new_signing_key()]
    keys = [
        load_signing_key(tmp_path, "callgate", pem).public_key().public_bytes_raw() for pem in pems
    ]
    assert [key for _, key in public_keys(tmp_path / PUBLIC_KEYS)] == keys
    assert not (tmp_path / SIGNING_KEY).exists()


@pytest.mark.parametrize("name", [HMAC_KEY, SIGNING_KEY])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    """A key with loose permissions may be known to others: it is refused."""
    load_hmac_key(tmp_path)
    load_signing_key(tmp_path, "callgate")
    (tmp_path / name).chmod(0o644)
    with pytest.raises(ConfigError, match="other users"):
        load_hmac_key(tmp_path) if name == HMAC_KEY else load_signing_key(tmp_path, "callgate")


def test_unusable_keys_are_named(tmp_path: Path) -> None:
    """Garbage, short keys and keys of another kind are refused; the error does not quote them."""
    path = tmp_path / HMAC_KEY
    for text in ("nonsense", "abcd"):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            load_hmac_key(tmp_path)
        assert text not in str(caught.value)
    other = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for pem in (other, b"nonsense"):
        with pytest.raises(ConfigError):
            load_signing_key(tmp_path, "callgate", pem)
    with pytest.raises(ConfigError):
        public_keys(tmp_path / "none")
