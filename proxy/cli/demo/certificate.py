"""A self-signed CA with one ECDSA P-256 leaf, for the demo and for tests.

P-256, because a worker without `requests` makes one handshake a call, and ECDSA costs the server a
tenth of RSA. The CA's key is discarded once the leaf is signed: trusting ``ca.pem`` trusts this one
certificate.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.common.durable_files import replace_atomically

VALID = datetime.timedelta(days=90)
# x509.KeyUsage requires every one of them, true or false.
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """Paths of the CA to trust (0644), the leaf's certificate (0644) and the leaf's key (0600)."""

    ca: Path
    certificate: Path
    key: Path


def make_self_signed(
    hostnames: Sequence[str],
    directory: Path,
    *,
    now: float,
    valid: datetime.timedelta = VALID,
) -> SelfSigned:
    """Write ``ca.pem``, ``tls.crt`` and ``tls.key`` into `directory`; existing files are replaced.

    `hostnames` are DNS names and IP addresses. The certificates are valid from `now` (Unix
    seconds) on, for 90 days by default.
    """
    # An hour earlier: clocks differ.
    start = datetime.datetime.fromtimestamp(now, datetime.UTC) - datetime.timedelta(hours=1)
    ca_key, leaf_key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Callgate self-signed CA")])
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostnames[0])])
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())

    def certificate(
        subject: x509.Name, key: ec.EllipticCurvePrivateKey, *usages: str
    ) -> x509.CertificateBuilder:
        usage = x509.KeyUsage(**{name: name in usages for name in _KEY_USAGES})
        return (
            x509.CertificateBuilder(
                subject_name=subject, issuer_name=ca_name, public_key=key.public_key()
            )
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + valid)
            .add_extension(
                x509.BasicConstraints(
                    ca=subject is ca_name, path_length=0 if subject is ca_name else None
                ),
                critical=True,
            )
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id),
                critical=False,
            )
        )

    ca = certificate(ca_name, ca_key, "key_cert_sign", "crl_sign").sign(ca_key, hashes.SHA256())
    leaf = (
        certificate(leaf_name, leaf_key, "digital_signature")
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in hostnames]), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    made = SelfSigned(directory / "ca.pem", directory / "tls.crt", directory / "tls.key")
    pem = serialization.Encoding.PEM
    private = leaf_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    replace_atomically(made.key, private, 0o600)
    replace_atomically(made.certificate, leaf.public_bytes(pem), 0o644)
    replace_atomically(made.ca, ca.public_bytes(pem), 0o644)
    return made


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
