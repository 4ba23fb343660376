"""The one key, token and certificate of a run, as files that every peer can read. Made anew for
each run, valid for a day.
"""

import base64
import datetime
import ipaddress
import json
import time
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

ISSUER = "https://bench.callgate.local/issuer"
AUDIENCE = "callgate-bench"
_PEM, _NO_PASSWORD = serialization.Encoding.PEM, serialization.NoEncryption()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Paths of the files, and the tokens: `token` is good, `ping` that of another worker, `forged`
    is signed with another key, `viewer` has another role.
    """

    jwks: Path
    public: Path
    certificate: Path
    key: Path
    combined: Path
    token: str
    viewer: str
    forged: str
    ping: str


def make_credentials(directory: Path) -> Credentials:
    """Make everything under `directory`."""
    signing, other = _rsa(), _rsa()
    numbers = signing.public_key().public_numbers()
    row = {
        "kty": "RSA",
        "kid": "bench",
        "alg": "RS256",
        "use": "sig",
        "n": _number(numbers.n),
        "e": _number(numbers.e),
    }
    jwks = _write(directory / "jwks.json", json.dumps({"keys": [row]}).encode())
    public = _write(
        directory / "public.pem",
        signing.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )

    tls_key = ec.generate_private_key(ec.SECP256R1())
    chain = _certificate(tls_key).public_bytes(_PEM)
    secret = tls_key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _NO_PASSWORD)
    return Credentials(
        jwks,
        public,
        _write(directory / "tls.crt", chain),
        _write(directory / "tls.key", secret),
        _write(directory / "tls.pem", chain + secret),
        token(signing, "etl", "worker"),
        token(signing, "ann", "viewer"),
        token(other, "etl", "worker"),
        token(signing, "pinger", "worker"),
    )


def token(key: rsa.RSAPrivateKey, subject: str, group: str) -> str:
    """An access token (RFC 9068) for a day."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "groups": [group],
        "iat": now,
        "exp": now + 86_000,
        "jti": f"{subject}-1",
    }
    return jwt.encode(claims, key, "RS256", headers={"kid": "bench", "typ": "at+jwt"})


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _number(value: int) -> str:
    return (
        base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
        .rstrip(b"=")
        .decode()
    )


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
