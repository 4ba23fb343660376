"""The one credential of a request: from the `Authorization` and `Cookie` headers to a token.

Implements Bearer (RFC 6750 section 2.1) and Basic (RFC 7617) with the token as the password and
any user name. Stock luigi workers know Basic: netrc and URL userinfo are carried by it. Trusts
nothing. Refuses two credentials in one request, since a later stage might judge by the other one.
Refuses every spelling but the strict one: nothing is trimmed, skipped or repaired.
"""

import base64
import binascii
import re

from proxy.errors import Rejected
from proxy.model import Credentials, Reason

# Bytes of a token. A longer one is refused; tokens with hundreds of groups reach 8 KiB.
TOKEN_LIMIT = 16 * 1024

# The name of Callgate's own session cookie, the only cookie that is a credential.
SESSION_COOKIE = b"__Host-callgate"

# Bytes of an Authorization header. A longer one is refused unread: a token of TOKEN_LIMIT behind
# "user:" is 4/3 as long in base64.
_HEADER_LIMIT = 24 * 1024

_HEADER = re.compile(rb"([A-Za-z]+) ([^\s].*)\Z", re.DOTALL)
_ANOTHER = re.compile(rb",\s*[A-Za-z]+\s", re.DOTALL)
_B64TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*\Z")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}\Z")


def read_credential(credentials: Credentials) -> str:
    """Return the token in the values of the `Authorization` and `Cookie` headers.

    A cookie of another name is not a credential. The content of the token is not parsed here.

    Raises:
        Rejected: NO_CREDENTIAL when there is none, TWO_CREDENTIALS when there is more than one,
            BAD_CREDENTIAL when the one cannot be read.

    """
    authorization = credentials.authorization
    sessions = _sessions(credentials.cookie)
    if authorization is None:
        if sessions > 1:
            raise Rejected(Reason.TWO_CREDENTIALS, "the session cookie came twice")
        # Sessions come with browser login. Until then a session cookie opens nothing.
        raise Rejected(Reason.NO_CREDENTIAL)
    if sessions:
        raise Rejected(
            Reason.TWO_CREDENTIALS, "an Authorization header and a session cookie came together"
        )
    if len(authorization) > _HEADER_LIMIT:
        raise Rejected(
            Reason.BAD_CREDENTIAL, f"the Authorization header is over {_HEADER_LIMIT} bytes"
        )
    header = _HEADER.match(authorization)
    scheme = header[1].lower() if header else b""
    readable = scheme in (b"bearer", b"basic")
    # Neither scheme has a comma in its syntax. A comma means that two headers were joined.
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
            f"the {scheme.decode().title()} credential holds characters that no token has",
        )
    return token.decode("ascii")


def _password(credentials: bytes) -> bytes:
    """Return the password in Basic `credentials`: the text after the first colon.

    A user name cannot hide a second token, since it ends at that colon.
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
            "the Basic credential has no colon before a password, which has to be the token",
        )
    if not password:
        raise Rejected(
            Reason.BAD_CREDENTIAL,
            "the Basic credential has an empty password, which has to be the token",
        )
    return password


def _sessions(cookie: bytes | None) -> int:
    """Return the number of session cookies in the `Cookie` header."""
    if cookie is None or SESSION_COOKIE not in cookie:
        return 0
    return sum(
        pair.partition(b"=")[0].strip(b" \t") == SESSION_COOKIE for pair in cookie.split(b";")
    )
