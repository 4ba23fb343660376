"""The demo's certificate."""

import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.cli.demo.certificate import SelfSigned, make_self_signed


@pytest.fixture
def made(tmp_path: Path) -> SelfSigned:
    """Make a self-signed pair."""
    return make_self_signed(("localhost", "127.0.0.1", "::1"), tmp_path, now=time.time())


def test_only_the_owner_can_read_the_key(made: SelfSigned) -> None:
    """The certificates are readable by all users, whatever the umask."""
    assert [path.stat().st_mode & 0o777 for path in (made.key, made.certificate, made.ca)] == [
        0o600,
        0o644,
        0o644,
    ]


def test_the_leaf_is_p256_and_can_sign_nothing(made: SelfSigned) -> None:
    """ECDSA P-256 keeps handshakes cheap, and the leaf is no CA."""
    leaf = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [
        "127.0.0.1",
        "::1",
    ]


def test_the_key_of_the_ca_is_not_written(made: SelfSigned, tmp_path: Path) -> None:
    """Trust in ca.pem is trust in this one certificate; the CA cannot sign another."""
    keys = [path.name for path in tmp_path.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert keys == [made.key.name]
