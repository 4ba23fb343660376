"""Text of remote parties: whether it shows as it is, and two ways to make it do so.

Control characters, line ends and direction marks change how a log line, a status line or a terminal
shows the text around them. A lone surrogate cannot be encoded at all.
"""

import re
from typing import TypeGuard

# Characters of one name (a subject, a group, a key id); OpenID Connect Core 1.0 section 2 sets it
# for ``sub``.
MAX_NAME_LENGTH = 255
_NOT_PLAIN = re.compile(r"[^ -~]")
_BRACKETS = str.maketrans("[]<>", "()()")
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def is_printable(value: object, limit: int = MAX_NAME_LENGTH) -> TypeGuard[str]:
    """Return whether `value` is a string of 1 to `limit` characters that shows as it is.

    Rejects control characters, line ends, direction marks and lone surrogates.
    """
    return isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()


def to_plain_ascii(text: str, limit: int = 64) -> str:
    """Return `text` cut to `limit` characters, with ``?`` for all but plain printable ASCII.

    Square and angle brackets become round ones: in a status line ``[...]`` delimits the reason
    code, and the text may be shown as markup.
    """
    return _NOT_PLAIN.sub("?", text[:limit].translate(_BRACKETS))


def escape_controls(text: object) -> str:
    r"""Return `text` with every control character written out as ``\xNN`` or ``\uNNNN``.

    Line ends, direction marks and lone surrogates count as control characters. Everything else
    stays as it is, in any script.
    """
    return _CONTROL.sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
