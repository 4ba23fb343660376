"""Strict base64url and JSON: the two encodings that tokens and key sets are made of.

Implements base64url without padding (RFC 7515 section 2) and JSON objects (RFC 8259). Both are
stricter than the usual decoders. Base64url has no padding, no white space and no left-over bits:
two texts must not mean the same bytes. JSON has no duplicate names, no NaN or Infinity and no
invalid UTF-8. A refusal is a `ValueError` whose text holds nothing of the input.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")


def base64url(text: str) -> bytes:
    """Decode `text`.

    Raises:
        ValueError: `text` is not the one canonical spelling of its bytes.

    """
    if not _BASE64URL.match(text):
        raise ValueError("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    if base64url_encode(data) != text:  # left-over bits that are not zero
        raise ValueError("not canonical base64url")
    return data


def base64url_encode(data: bytes) -> str:
    """Encode `data` as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def json_object(data: bytes) -> dict[str, object]:
    """Parse the JSON object in `data`.

    Raises:
        ValueError: `data` is not a JSON object, or two parsers could read it differently.

    """
    try:
        value: object = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_reject_constant
        )
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except _StrictError:
        raise
    # The message of json can quote the text. Numbers of thousands of digits end here too (int()).
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


class _StrictError(ValueError):
    """A `ValueError` of this module, whose text holds nothing of the input."""


def _object(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    """Build one JSON object. Refuse a duplicate name: parsers disagree on which one counts."""
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise _StrictError("a JSON object with a duplicate name")
        members[name] = value
    return members


def _reject_constant(_: str) -> object:
    """Refuse NaN, Infinity and -Infinity, which Python's parser takes and JSON does not have."""
    raise _StrictError("NaN and Infinity are not JSON")
