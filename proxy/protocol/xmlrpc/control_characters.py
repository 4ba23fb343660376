"""Control characters in an upstream's answer: XML cannot carry them, so no client can read it.

supervisord's XML-RPC writes what a program printed into its answer as it is, colours and progress
bars included. The setting ``replace_control_characters`` of an upstream has each replaced by
U+FFFD, or by a question mark in another encoding than UTF-8. Without it the caller gets a fault
that names the first one and its place. An answer that is streamed is relayed as it is then.
"""

import re

from proxy.errors import Unavailable
from proxy.model import Reason, Stream
from proxy.protocol.xmlrpc.text import holds_control

_CONTROL = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f]"
    rb"|&#(?:0*(?:[0-8]|1[124-9]|2[0-9]|3[01])|x0*(?:[0-8bcefBCEF]|1[0-9a-fA-F]));"
)
_REFERENCE = b"&#"


def readable(body: bytes, *, replace: bool, utf8: bool) -> bytes:
    """Return the answer `body`, with its control characters replaced if `replace` says so.

    `utf8` says that its Content-Type names no other encoding. Raises `Unavailable`
    (UPSTREAM_INVALID) for a control character that is to stay.
    """
    if not holds_control(body) and _REFERENCE not in body:
        return body
    if replace:
        return replaced(body, utf8=utf8)
    found = _CONTROL.search(body)
    if found is None:
        return body
    raise Unavailable(
        Reason.UPSTREAM_INVALID,
        f"the answer holds the control character U+{_number(found[0]):04X} at byte "
        f"{found.start()}, which XML cannot carry; set replace_control_characters for the upstream",
        sent=True,
    )


def replaced(part: bytes, *, utf8: bool) -> bytes:
    """Return `part` of an answer with its control characters replaced."""
    return _CONTROL.sub(b"\xef\xbf\xbd" if utf8 else b"?", part)


def _number(found: bytes) -> int:
    if len(found) == 1:
        return found[0]
    digits = found[2:-1].decode("ascii")
    return int(digits[1:], 16) if digits[0] == "x" else int(digits)


class ReplacedStream:
    """A stream of an answer whose control characters are replaced.

    A reference to one (``&#27;``) stays if two parts share it.
    """

    def __init__(self, stream: Stream, *, utf8: bool) -> None:
        self._stream = stream
        self._utf8 = utf8

    def __aiter__(self) -> "ReplacedStream":
        return self

    async def __anext__(self) -> bytes:
        return replaced(await self._stream.__anext__(), utf8=self._utf8)

    async def aclose(self) -> None:
        """Read no further."""
        await self._stream.aclose()
