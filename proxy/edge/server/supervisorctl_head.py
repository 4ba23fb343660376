"""The one request head that is repaired before it is parsed: that of ``supervisorctl tail -f``.

It encodes its credential with Python's ``base64.encodebytes`` (supervisor/http_client.py), which
puts a line feed after every 76 characters. No token is shorter, so its Authorization header has
line feeds inside, and no strict parser reads it. They are taken out if

* the request is a GET of ``/logtail/…`` or ``/mainlogtail``, in its first bytes, and
* between ``Authorization: Basic`` and the end of its line stand lines of exactly 76 characters of
  base64, and a last one.

Base64 holds no colon, so no parser reads such a line as a header of its own. Everything else of the
head stays as it is, and is parsed as strictly as any other.
"""

import re

_BEGINNINGS = (b"GET /logtail/", b"GET /mainlogtail HTTP/1.1")
_LINES = re.compile(
    rb"(\r\nAuthorization: Basic )((?:[A-Za-z0-9+/]{76}\n)+[A-Za-z0-9+/]{1,76}={0,2}\r\n)"
)


def may_need_mending(data: bytes) -> bool:
    """Return whether the head that begins with `data` may be that of ``supervisorctl tail -f``."""
    return data.startswith(_BEGINNINGS)


def mend_head(data: bytes) -> bytes | None:
    """Return `data` with its credential in one line, None while the end of its head is missing."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[: end + 2]
    return _LINES.sub(_joined, head, count=1) + data[end + 2 :]


def _joined(found: re.Match[bytes]) -> bytes:
    return found[1] + found[2].replace(b"\n", b"").replace(b"\r", b"\r\n")
