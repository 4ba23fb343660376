"""Credentials and tokens: an accepted token is signed by a real key, and PyJWT accepts it too.

The input has two forms. ``A`` and an Authorization value, then perhaps a line break and a Cookie
value; or ``S`` and a JSON header, a line break and JSON claims, which are signed here with the key
that ``kid`` names. The keys are made of constants, so tokens in stored cases stay valid.
"""

import hashlib
import json
import tempfile
from base64 import b64decode, urlsafe_b64decode
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from proxy.errors import Rejected
from proxy.identity.access_token import TokenProfile
from proxy.identity.credentials import read_credential
from proxy.identity.issuer import Issuer
from proxy.identity.jwks_file import JwksFile
from proxy.identity.verifier import Verifier
from proxy.model import Credentials, Principal
from tests.fuzz.kit import read
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    NOW,
    Private,
    b64,
    jwk,
    key_set,
    signature,
    viewer,
)

KEYS: dict[str, Private] = {
    "ec": ec.derive_private_key(0x1234_5678_9ABC_DEF0, ec.SECP256R1()),
    "ed": ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"fuzz").digest()),
}
ALGORITHMS = {"ec": "ES256", "ed": "EdDSA"}
LIFETIME_S = 86_400.0


def _issuer() -> Issuer:
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(key_set(*(jwk(private, kid) for kid, private in KEYS.items())))
        source = JwksFile(path)
        source.poll()
    source.poll = lambda: None  # type: ignore[method-assign]  # the file is gone, the keys stay
    return Issuer("idp", TokenProfile(ISSUER, (AUDIENCE,), max_lifetime_seconds=LIFETIME_S), source)


THE_ISSUER = _issuer()


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    if data[:1] == b"S":
        header, _, claims = data[1:].partition(b"\n")
        authorization, cookie = b"Bearer " + _sign(header, claims), None
    elif data[:1] == b"A":
        authorization, mark, rest = data[1:].partition(b"\n")
        cookie = rest if mark else None
    else:
        return
    read(read_credential, Credentials(authorization, cookie))
    verifier = Verifier([THE_ISSUER], viewer)
    found = read(_identify, verifier, authorization, cookie)
    known = verifier.cached(Credentials(authorization), NOW)
    if isinstance(found, Rejected):
        assert known is None, "a refusal is not remembered"
        return
    assert known is found, "who was identified is remembered"
    assert cookie is None or b"__Host-callgate=" not in cookie, "two credentials are refused"
    claims_found = _as_pyjwt_reads(authorization)
    assert (found.subject, found.issuer) == (claims_found["sub"], claims_found["iss"]), (
        "the identity is the token's"
    )
    assert NOW < found.expires <= NOW + 30 + LIFETIME_S, "it expires with the token"
    assert found.agent == ("act" in claims_found), "an agent is known as one"
    assert verifier.cached(Credentials(authorization), found.expires) is None, (
        "it is not cached longer"
    )


def _identify(verifier: Verifier, authorization: bytes, cookie: bytes | None) -> Principal:
    """Run the coroutine without a loop: keys from a file never suspend it."""
    verifying = verifier.authenticate(Credentials(authorization, cookie), NOW)
    try:
        verifying.send(None)
    except StopIteration as done:
        principal: Principal = done.value
        return principal
    raise AssertionError("the coroutine was suspended")


def _sign(header: bytes, claims: bytes) -> bytes:
    """Return a token with a valid signature and any content."""
    try:
        kid = json.loads(header)["kid"]
    except (ValueError, TypeError, KeyError, RecursionError):
        kid = "ed"
    kid = kid if isinstance(kid, str) and kid in KEYS else "ed"
    signed = f"{b64(header)}.{b64(claims)}"
    return f"{signed}.{b64(signature(KEYS[kid], ALGORITHMS[kid], signed.encode()))}".encode()


def _as_pyjwt_reads(authorization: bytes) -> dict[str, Any]:
    """Return the claims by PyJWT. Raises when it does not accept the token."""
    scheme, _, credential = authorization.partition(b" ")
    token = credential if scheme.lower() == b"bearer" else b64decode(credential).partition(b":")[2]
    head = json.loads(urlsafe_b64decode(token.partition(b".")[0] + b"=="))
    kid = head.get("kid")
    claims = jwt.decode(
        token,
        KEYS[kid].public_key(),
        algorithms=[ALGORITHMS[kid]],
        audience=AUDIENCE,
        issuer=ISSUER,
        # by its own clock
        options={
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
            "require": ["exp", "iat", "sub"],
        },
    )
    assert claims["iat"] <= NOW + 30, "it was issued before now"
    assert claims["exp"] > NOW, "it has not expired"
    assert claims.get("nbf", 0) <= NOW + 30, "it is valid by now"
    return dict(claims)
