"""The one credential of a request: out of the raw `Authorization` and `Cookie` headers into a
token.

Implements Bearer (RFC 6750 section 2.1) and Basic (RFC 7617) with the token as the password,
whatever the user name: that is how netrc and URL userinfo carry it, which stock luigi workers know.
Trusts nothing. Refuses two credentials in one request, since a later stage might judge by the other
one, and every spelling but the strict one: nothing is trimmed, skipped or repaired.
"""

import base64
import binascii
import re

from proxy.errors import Rejected
from proxy.model import Credentials, Reason

TOKEN_LIMIT = 16 * 1024
"""Bytes of a token. Tokens with hundreds of groups reach 8 KiB; what is larger is no token."""

SESSION_COOKIE = b"__Host-callgate"
"""The name of the gate's own session cookie, the only one that is a credential here."""

# A token of TOKEN_LIMIT behind "user:" in base64 is 4/3 as long; no header that can be read is
# longer than this.
_HEADER_LIMIT = 24 * 1024

_HEADER = re.compile(rb"([A-Za-z]+) ([^\s].*)\Z", re.DOTALL)
_ANOTHER = re.compile(rb",\s*[A-Za-z]+\s", re.DOTALL)
_B64TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*\Z")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}\Z")


def read_credential(credentials: Credentials) -> str:
    """Return the token in the values of the `Authorization` and `Cookie` headers.

    Raises `Rejected`: NO_CREDENTIAL when there is none, TWO_CREDENTIALS when there is more than
    one, BAD_CREDENTIAL when the one cannot be read. A cookie of another name is not a credential.
    The token's own content is not looked at here.
    """
    authorization = credentials.authorization
    sessions = _sessions(credentials.cookie)
    if authorization is None:
        if sessions > 1:
            raise Rejected(Reason.TWO_CREDENTIALS, "the session cookie stands twice")
        # Sessions come with browser login; until then a session cookie opens nothing and the caller
        # has to bring a token.
        raise Rejected(Reason.NO_CREDENTIAL)
    if sessions:
        raise Rejected(Reason.TWO_CREDENTIALS, "an Authorization header and a session cookie")
    if len(authorization) > _HEADER_LIMIT:
        raise Rejected(
            Reason.BAD_CREDENTIAL, f"the Authorization header is over {_HEADER_LIMIT} bytes"
        )
    header = _HEADER.match(authorization)
    scheme = header[1].lower() if header else b""
    readable = scheme in (b"bearer", b"basic")
    # Neither scheme's own syntax has a comma: where one stands, a proxy joined two headers or the
    # caller did.
    if b"," in authorization and (readable or _ANOTHER.search(authorization)):
        raise Rejected(
            Reason.TWO_CREDENTIALS, "the Authorization header holds more than one credential"
        )
    if header is None or not readable:
        raise Rejected(
            Reason.BAD_CREDENTIAL, "the Authorization header is neither Bearer nor Basic"
        )
    token = header[2] if scheme == b"bearer" else _password(header[2])
    if len(token) > TOKEN_LIMIT:
        raise Rejected(Reason.BAD_CREDENTIAL, f"the token is over {TOKEN_LIMIT} bytes")
    if not _B64TOKEN.match(token):
        raise Rejected(
            Reason.BAD_CREDENTIAL,
            f"the {scheme.decode().title()} credential holds characters no token has",
        )
    return token.decode("ascii")


def _password(credentials: bytes) -> bytes:
    """The password in Basic `credentials`: what follows the first colon, so a user name cannot hide
    a second token.
    """
    try:
        if not _BASE64.match(credentials):
            raise ValueError
        data = base64.b64decode(credentials, validate=True)
        if base64.b64encode(data) != credentials:
            raise ValueError
    except (ValueError, binascii.Error):
        raise Rejected(Reason.BAD_CREDENTIAL, "the Basic credential is not strict base64") from None
    _user, colon, password = data.partition(b":")
    if not colon:
        raise Rejected(
            Reason.BAD_CREDENTIAL,
            "the Basic credential has no colon; the token goes in as the password",
        )
    if not password:
        raise Rejected(
            Reason.BAD_CREDENTIAL,
            "the Basic credential has an empty password; the token goes there",
        )
    return password


def _sessions(cookie: bytes | None) -> int:
    """How many session cookies the `Cookie` header holds."""
    if cookie is None or SESSION_COOKIE not in cookie:
        return 0
    return sum(
        pair.partition(b"=")[0].strip(b" \t") == SESSION_COOKIE for pair in cookie.split(b";")
    )
