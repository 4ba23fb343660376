"""The one form field of a luigid call: ``data=<percent-encoded JSON>`` in a query or a body.

luigid reads the last ``data`` of query and body together, decodes names too, and strips control
characters around the JSON (luigi/server.py, tornado/httputil.py). Here a form has at most one
field, its name is literally ``data``, and its value decodes in exactly one way or is refused.
"""

import re
from binascii import a2b_qp

from proxy.errors import Rejected
from proxy.model import Reason

FORM = b"application/x-www-form-urlencoded"
FORM_TYPES = frozenset(
    {
        FORM,
        FORM + b"; charset=utf-8",
        FORM + b";charset=utf-8",
        FORM + b"; charset=UTF-8",
        FORM + b";charset=UTF-8",
    }
)
"""The one form type that luigid and every client read alike, in the spellings of clients."""
_FORM_IN_UTF8 = re.compile(
    re.escape(FORM)
    + rb"[ \t]*(?:;[ \t]*(?:charset=(?:utf-?8|us-ascii|\"(?:utf-?8|us-ascii)\"))?[ \t]*)*",
    re.IGNORECASE,
)
# A parameter that scripts add so that a cache is passed by: jQuery's ``_=<milliseconds>`` and kin.
_CACHE_BUSTER = re.compile(r"(?:_|_dc|cb|nocache|rnd|t|ts)=[A-Za-z0-9.-]{0,40}")
# Fields of a query among which a cache buster is looked for.
_MAX_FIELDS = 4
_AS_QUOTED_PRINTABLE = bytes.maketrans(b"%+", b"= ")


def is_form(content_type: bytes | None) -> bool:
    """Return whether a Content-Type is that of a form in UTF-8, in any spelling of RFC 9110 8.3."""
    return content_type in FORM_TYPES or (
        content_type is not None and _FORM_IN_UTF8.fullmatch(content_type) is not None
    )


def without_cache_buster(query: str) -> str:
    """Return `query` without a parameter that is only there to pass caches by.

    luigid does not read it, and is never sent it. One is left out: a second one is refused later.
    """
    fields = query.split("&", _MAX_FIELDS)
    for place, field in enumerate(fields):
        if _CACHE_BUSTER.fullmatch(field) is not None:
            return "&".join(fields[:place] + fields[place + 1 :])
    return query


def parse_form(form: bytes) -> bytes | None:
    """Return the decoded value of the single ``data`` field, or None when the form is empty.

    Raises:
        Rejected: for a second field of any name, another name, or a broken percent escape.

    """
    if not form:
        return None
    if b"&" in form:
        raise Rejected(Reason.AMBIGUOUS_CALL, "send exactly one form field, data")
    if form[:5] != b"data=":
        raise Rejected(Reason.MALFORMED_CALL, "the form field must be named data")
    return unquote_plus(form[5:])


def unquote_plus(value: bytes) -> bytes:
    """Decode percent escapes, and ``+`` as a blank. Two hexadecimal digits follow every ``%``.

    Python's decoder in C is the one of quoted-printable, whose escape is ``=XX``. It makes one byte
    of three where an escape is complete, and shortens nothing by two bytes otherwise. So the length
    is right exactly when every escape is complete. ``=`` itself and line ends have a meaning of
    their own to it; values with those are decoded by `_unquote_any`.

    Raises:
        Rejected: MALFORMED_CALL, for a broken escape.

    """
    # PERF: the quoted-printable decoder instead of `unquote_to_bytes` saves 12 us of 14 (add_task
    # 900 B) and 2.4 ms of 2.6 (add_task 100 kB).
    if b"=" in value or b"\n" in value or b"\r" in value:
        return _unquote_any(value)
    decoded = a2b_qp(value.translate(_AS_QUOTED_PRINTABLE))
    # PERF: counting by `translate` instead of `count` saves 15 us of 190 (add_task 100 kB).
    escapes = len(value) - len(value.translate(None, b"%"))
    if len(decoded) != len(value) - 2 * escapes:
        raise _broken_escape()
    return decoded


def encode_form(json_text: bytes) -> bytes:
    """Return `json_text` as the body ``data=…``.

    Only characters that a form parser reads differently are escaped. Quoting every brace takes ten
    times as long, and luigid would have to decode it.
    """
    escaped = (
        json_text.replace(b"%", b"%25")
        .replace(b"&", b"%26")
        .replace(b"+", b"%2B")
        .replace(b" ", b"+")
    )
    return b"data=" + escaped.replace(b";", b"%3B").replace(b"#", b"%23")


def _unquote_any(value: bytes) -> bytes:
    r"""Decode a value that no stock client sends, in twice the time.

    Its escapes become Python's ``\x``, once its own backslashes are escaped.
    """
    try:
        escaped = value.replace(b"+", b" ").replace(b"\\", b"\\\\").replace(b"%", b"\\x")
        return escaped.decode("unicode_escape").encode("latin-1")
    except ValueError:
        raise _broken_escape() from None


def _broken_escape() -> Rejected:
    return Rejected(Reason.MALFORMED_CALL, "a percent escape is broken")
