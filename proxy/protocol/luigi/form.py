"""The one form field of a luigid call: ``data=<percent-encoded JSON>`` in a query or a body.

luigid reads the last ``data`` of query and body together, decodes names too, and strips control
characters around the JSON (luigi/server.py, tornado/httputil.py). Here there is at most one field,
its name is literally ``data``, and its value decodes in exactly one way or is refused.
"""

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
"""The one form type that luigid and every client read alike, as they spell it."""
_LONG, _FEW = 4096, 64  # bytes, and signs among them
_AS_QUOTED_PRINTABLE = bytes.maketrans(b"%+", b"= ")


def parse_form(form: bytes) -> bytes | None:
    """The decoded value of the single ``data`` field of `form`, or None when the form is empty.

    Raises `Rejected` for a second field of any name, another name, or a broken percent escape.
    """
    if not form:
        return None
    if b"&" in form:
        raise Rejected(Reason.AMBIGUOUS_CALL, "send exactly one form field, data")
    if form[:5] != b"data=":
        raise Rejected(Reason.MALFORMED_CALL, "the form field must be named data")
    return unquote_plus(form[5:])


def unquote_plus(value: bytes) -> bytes:
    """Percent-decoding with ``+`` as a blank, strict: every ``%`` is followed by two hexadecimal
    digits.

    A worker's JSON has some 200 escapes, a large one 20,000. Python's decoder in C is the one for
    quoted-printable, whose escape is ``=XX`` (2 us and 150 us). It makes one byte of three where an
    escape is whole and nowhere else, so the lengths tell whether all were; they need only be looked
    at where something is left, since a broken escape leaves its ``=``, or at the very end nothing
    (`_whole`). But ``=`` itself and the ends of lines mean something of their own to it.
    """
    if b"=" in value or b"\n" in value or b"\r" in value:
        return _unquote_any(value)
    decoded = a2b_qp(value.translate(_AS_QUOTED_PRINTABLE))
    if (b"=" in decoded or value.endswith(b"%")) and not _whole(value, decoded):
        raise Rejected(Reason.MALFORMED_CALL, "a percent escape is broken")
    return decoded


def _whole(value: bytes, decoded: bytes) -> bool:
    """Whether each escape of `value` was whole.

    The lengths tell, but need every ``%`` counted, one byte after the other: 110 us of 100 kB.
    Every worker's id has five ``=``, and seldom is there another: where there are as many as
    ``%3D``, no broken escape has left one. To find those takes 30 us. Only ``%%3D`` has the decoder
    make one ``=`` of two, and leaves the ``3D`` behind it.
    """
    if len(value) > _LONG:
        found, at = 0, decoded.find(b"=")
        while at >= 0 and found < _FEW and not decoded.startswith(b"3D", at + 1):
            found, at = found + 1, decoded.find(b"=", at + 1)
        if at < 0 and found == value.count(b"%3D") and not value.endswith(b"%"):
            return True
    return len(decoded) == len(value) - 2 * value.count(b"%")


def _unquote_any(value: bytes) -> bytes:
    """The same for values that no stock client sends, in twice the time: as Python escapes, once
    its own backslashes are escaped.
    """
    try:
        escaped = value.replace(b"+", b" ").replace(b"\\", b"\\\\").replace(b"%", b"\\x")
        return escaped.decode("unicode_escape").encode("latin-1")
    except ValueError:
        raise Rejected(Reason.MALFORMED_CALL, "a percent escape is broken") from None


def encode_form(json_text: bytes) -> bytes:
    """`json_text` as the body ``data=…``.

    Only what a form parser would read differently is escaped, which is a tenth of the work of
    quoting every brace and shortens what luigid has to decode.
    """
    escaped = (
        json_text.replace(b"%", b"%25")
        .replace(b"&", b"%26")
        .replace(b"+", b"%2B")
        .replace(b" ", b"+")
    )
    return b"data=" + escaped.replace(b";", b"%3B").replace(b"#", b"%23")
