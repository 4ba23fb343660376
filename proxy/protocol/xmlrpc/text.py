"""The characters of an XML 1.0 document: bytes to text and back.

The grammar above it has tags and text to read, and nothing else. Implemented are the parts of XML
1.0 that XML-RPC needs: characters (2.2), line ends (2.11), CDATA sections (2.7), the five
predefined entities and character references (4.1, 4.6), the XML declaration (2.8). `encodings` has
the rules for other encodings than UTF-8 (4.3.3).

Everything else between or inside the elements is refused: comments, processing instructions,
DOCTYPE (and with it every entity of the caller's own), characters that XML does not have. There is
no code here that could read a DTD, so there is none to misconfigure.

A leading UTF-8 byte order mark is removed: .NET clients send it, and every parser skips it.
"""

import re

from proxy.errors import Rejected
from proxy.model import Reason
from proxy.protocol.xmlrpc.encodings import LATIN_1, UTF_8, settle

# Control bytes that no document may hold (XML 1.0, 2.2).
_FORBIDDEN = bytes([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20)])
_CONTROLS = [bytes([control]) for control in _FORBIDDEN]
# Lengths in bytes at which 29 searches take less time than one translation.
_SEARCHED = range(8_000, 300_000)
_BOM = b"\xef\xbb\xbf"
_DECLARATION = re.compile(
    r"<\?xml[ \t\n]++version[ \t\n]*+=[ \t\n]*+(?:\"1\.0\"|'1\.0')"
    r"(?:[ \t\n]++encoding[ \t\n]*+=[ \t\n]*+"
    r"(?:\"([A-Za-z0-9._-]{1,40})\"|'([A-Za-z0-9._-]{1,40})'))?"
    r"(?:[ \t\n]++standalone[ \t\n]*+=[ \t\n]*+(?:\"(?:yes|no)\"|'(?:yes|no)'))?[ \t\n]*+\?>"
)
_USUAL_DECLARATIONS = ("<?xml version='1.0'?>", '<?xml version="1.0"?>')  # of most clients
_USUAL_LENGTH = len(_USUAL_DECLARATIONS[0])  # of both
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_REFERENCE = re.compile(
    r"&(?:(lt|gt|amp|quot|apos)|#0{0,9}([0-9]{1,7})|#x0{0,9}([0-9A-Fa-f]{1,6}));|&"
)
_ENTITY = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}
# Marks the place where a CDATA section began. It is a forbidden byte, so no document can hold it.
_JOINT = "\x00"
_ILLEGAL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class EncodingError(ValueError):
    """A value that XML-RPC cannot carry. `args[0]` is one ASCII line that names no value."""


def read_text(body: bytes, charset: str | None = None) -> tuple[str, int, bool]:
    """Return the text of a document, the position after its XML declaration, and `plain`.

    Text is plain when it holds no reference and no CDATA section: a text between two tags is then
    its own meaning, and else goes through `unescape`. `charset` is that of the Content-Type, if it
    has one. Raises `Rejected` with MALFORMED_CALL, or AMBIGUOUS_CALL for two encodings.
    """
    marked = body[:3] == _BOM
    if marked:
        body = body[3:]
    if holds_control(body):
        raise _malformed(f"the document holds {_first_control(body)}")
    try:
        return _read_text(body.decode("utf-8"), UTF_8, body, charset, marked)
    except UnicodeDecodeError:
        pass
    return _read_text(body.decode(LATIN_1), LATIN_1, body, charset, marked)


def _read_text(
    text: str, codec: str, body: bytes, charset: str | None, marked: bool
) -> tuple[str, int, bool]:
    """Return what `read_text` does, of `body` as `codec` decodes it."""
    if not text.isascii() and ("\ufffe" in text or "\uffff" in text):
        raise _malformed("the document holds a character that XML does not have")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    plain = "&" not in text
    if "!" in text and _holds(text, "<!", "!"):
        text, plain = _without_sections(text), False
    elif "]" in text:
        _check_end(text)
    declared: str | None = None
    if text[:_USUAL_LENGTH] in _USUAL_DECLARATIONS:
        at = _USUAL_LENGTH
    elif not text.startswith("<?"):
        at = 0
    else:
        declaration = _DECLARATION.match(text)
        if declaration is None:
            raise _malformed("the document begins with something else than an XML 1.0 declaration")
        at = declaration.end()
        declared = declaration[1] or declaration[2]
    if codec is UTF_8 and charset is None and (declared is None or declared.lower() == UTF_8):
        return text, at, plain
    settled = settle(body, declared, charset, marked=marked)
    if settled == codec:
        return text, at, plain
    return _read_text(body.decode(settled), settled, body, charset, marked)


def _first_control(body: bytes) -> str:
    """Say which control character `body` holds, and where."""
    found = min(at for at in map(body.find, _CONTROLS) if at >= 0)
    return f"the control character U+{body[found]:04X} at byte {found}"


def holds_control(body: bytes) -> bool:
    """Return whether `body` holds a control character that XML does not have.

    PERF: searches instead of an expression save 145 us of 162 (XML-RPC add_task, 100 kB), and
    translation saves 1.1 us of 1.6 (900 B).
    """
    size = len(body)
    if size in _SEARCHED:
        return any(map(body.__contains__, _FORBIDDEN))
    return len(body.translate(None, _FORBIDDEN)) != size


def _holds(text: str, piece: str, rare: str) -> bool:
    """Return whether `text` holds `piece`.

    PERF: `rare` is a character of it. Searching `piece` only between the first and the last `rare`
    saves most of the time, since one character is found much faster (XML-RPC add_task, 100 kB).
    """
    first = text.find(rare)
    return (
        first >= 0
        and text.find(piece, max(0, first - len(piece)), text.rfind(rare) + len(piece)) >= 0
    )


def _without_sections(text: str) -> str:
    """Return `text` with each CDATA section as escaped text, in one pass.

    A mark at the beginning of the section keeps it from joining the halves of a tag around it.
    """
    parts: list[str] = []
    at = 0
    while (begin := text.find(_CDATA, at)) >= 0:
        end = text.find(_CDATA_END, begin)
        if end < 0:
            raise _malformed("the document holds an unfinished CDATA section")
        outside = text[at:begin]
        _check_end(outside)
        parts += (
            outside,
            _JOINT,
            text[begin + len(_CDATA) : end].replace("&", "&amp;").replace("<", "&lt;"),
        )
        at = end + len(_CDATA_END)
    _check_end(text[at:])
    parts.append(text[at:])
    text = "".join(parts)
    if "<!" in text:
        raise _malformed("the document holds a comment or a DOCTYPE")
    return text


def _check_end(outside: str) -> None:
    """Reject the end of a CDATA section where none began (XML 1.0, 2.4)."""
    if _holds(outside, _CDATA_END, "]"):
        raise _malformed("the document holds ]]> outside of a CDATA section")


def unescape(text: str) -> str:
    """Return what `text` between two tags means.

    Raises `Rejected` for a reference to anything that XML 1.0 does not predefine.
    """
    if "&" in text:
        text = _REFERENCE.sub(_referred, text)
    return text.replace(_JOINT, "")


def _referred(reference: re.Match[str]) -> str:
    name, decimal, hexadecimal = reference.groups()
    if name is not None:
        return _ENTITY[name]
    if decimal is None and hexadecimal is None:
        raise _malformed("the document refers to an entity, or holds a bare &")
    number = int(decimal) if decimal is not None else int(hexadecimal, 16)
    if number > 0x10FFFF or _ILLEGAL.match(chr(number)):
        raise _malformed("the document refers to a character that XML does not have")
    return chr(number)


def escape(text: str) -> str:
    r"""Return `text` as it is written between two tags.

    ``\r`` becomes a reference, since a parser would read it as ``\n``. Whether XML has all of its
    characters is left to `encode`, which checks the complete document at once.
    """
    if "&" in text:
        text = text.replace("&", "&amp;")
    if "<" in text:
        text = text.replace("<", "&lt;")
    if ">" in text:
        text = text.replace(">", "&gt;")
    if "\r" in text:
        text = text.replace("\r", "&#13;")
    return text


def encode(document: str, *, lossy: bool = False) -> bytes:
    """Return a written document, or a part of one, as bytes.

    Characters that XML does not have (control characters, lone surrogates, U+FFFE, U+FFFF) raise
    `EncodingError`, or with `lossy` become U+FFFD.
    """
    try:
        body = document.encode("utf-8")
        legal = not holds_control(body) and (
            len(body) == len(document) or ("\ufffe" not in document and "\uffff" not in document)
        )
    except UnicodeEncodeError:  # a lone surrogate
        legal = False
    if legal:
        return body
    if lossy:
        return legible(document).encode("utf-8")
    raise EncodingError("a text holds a character that XML does not have")


def legible(text: str) -> str:
    """Return `text` with U+FFFD for each character that XML does not have."""
    return _ILLEGAL.sub("\ufffd", text)


def _malformed(detail: str) -> Rejected:
    return Rejected(Reason.MALFORMED_CALL, detail)
