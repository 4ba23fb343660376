"""The encoding of a document: what its declaration and the Content-Type name, settled by its bytes.

Old clients name what their language has by default (``iso-8859-1`` of PHP and Perl, ``us-ascii`` of
RPC::XML), and nearly always send plain ASCII. These bytes mean the same under every name that is
compatible with ASCII, so that the name does not matter.

Other bytes are decoded under each encoding that is named, by the declaration (UTF-8 if it names
none, XML 1.0 section 4.3.3) and by the ``charset`` of the Content-Type. One text must come of it:
two would be two calls. UTF-8, ISO-8859-1 and US-ASCII are decoded, and no others.

Refused with any bytes are the names under which ASCII bytes can mean something else: UTF-16 and
UTF-32, EBCDIC, UTF-7, HZ and ISO-2022 (escapes made of ASCII), Shift_JIS (a yen sign for the
backslash), and names that are unknown here.
"""

import re

from proxy.errors import Rejected
from proxy.model import Reason

UTF_8 = "utf-8"
LATIN_1 = "iso-8859-1"

# Names without their punctuation, in lower case (IANA's list, and spellings from the field).
_DECODED = (
    dict.fromkeys(("utf8", "unicode11utf8", "csutf8"), UTF_8)
    | dict.fromkeys(
        (
            *("iso88591", "88591", "iso885911987", "latin1", "latin", "l1", "isolatin1"),
            *("csisolatin1", "isoir100", "cp819", "ibm819"),
        ),
        LATIN_1,
    )
    | dict.fromkeys(
        (
            *("usascii", "ascii", "csascii", "us", "646", "iso646us", "isoir6", "cp367", "ibm367"),
            *("ansix341968", "ansix341986", "iso646irv1991"),
        ),
        "ascii",
    )
)
_ASCII_COMPATIBLE = re.compile(
    r"(?:cs)?(?:iso)?8859(?:[2-9]|1[0134-6])(?:[eis])?|(?:isolatin|latin|l)(?:[2-9]|10)"
    r"|(?:windows|cp|xcp|win|ms)?(?:125[0-8]|874)|koi8(?:r|u|ru|t)?|cskoi8r"
    r"|(?:cp|ibm|oem|dos)?(?:437|737|775|85[0-8]|86[0-9]|720)|mac(?:intosh|roman)|xmac[a-z]+"
    r"|(?:gb2312|gbk|cp936|gb18030|euccn|eucjp|euckr|euctw|ksc56011987|big5|big5hkscs|tis620)"
)
_PUNCTUATION = re.compile(r"[^a-z0-9]+")


def settle(body: bytes, declared: str | None, charset: str | None, *, marked: bool) -> str:
    """Return the codec of the document `body`, `UTF_8` or `LATIN_1`.

    `declared` and `charset` are the names in its declaration and in its Content-Type, if any.
    `marked` says that it began with the byte order mark of UTF-8. Raises `Rejected`: MALFORMED_CALL
    if it has no reading, AMBIGUOUS_CALL if it has two.
    """
    names = [declared or UTF_8] if charset is None else [declared or UTF_8, charset]
    codecs = [_codec(name) for name in names]
    if marked and codecs != [UTF_8] * len(codecs):
        raise _ambiguous("its byte order mark is that of UTF-8, and another encoding is named")
    if body.isascii():
        return UTF_8
    if None in codecs:
        undecoded = names[codecs.index(None)]
        raise _malformed(f"{undecoded} is read if the document is plain ASCII; send UTF-8")
    texts: dict[str, str] = {}
    for codec in codecs:
        try:
            texts[body.decode(codec or "")] = codec or ""
        except UnicodeDecodeError:
            continue
    if not texts:
        raise _malformed(f"the document is not {' or '.join(dict.fromkeys(names))}")
    if len(texts) > 1:
        raise _ambiguous(f"{names[0]} by its declaration and {names[1]} by its Content-Type")
    return texts.popitem()[1]


def _codec(name: str) -> str | None:
    """Return the codec for `name`, None for a name that is read for plain ASCII only."""
    key = _PUNCTUATION.sub("", name.lower())
    if key in _DECODED:
        return _DECODED[key]
    if _ASCII_COMPATIBLE.fullmatch(key) is None:
        raise _malformed(f"the encoding {name} is not read; send UTF-8")
    return None


def _malformed(detail: str) -> Rejected:
    return Rejected(Reason.MALFORMED_CALL, detail)


def _ambiguous(detail: str) -> Rejected:
    return Rejected(Reason.AMBIGUOUS_CALL, f"the document has two encodings: {detail}")
