import pytest

from proxy.errors import Unavailable
from proxy.model import Reason
from proxy.protocol.xmlrpc.codec import decode_response, encode_response
from proxy.protocol.xmlrpc.control_characters import ReplacedStream, readable

ANSWER = encode_response("@")


@pytest.mark.parametrize("number", [0, 1, 8, 0x0B, 0x0C, 0x0E, 0x1B, 0x1F])
@pytest.mark.parametrize("form", ["raw", "&#{0};", "&#0{0};", "&#x{0:x};", "&#x0{0:X};"])
def test_a_control_character_is_named_or_replaced(number: int, form: str) -> None:
    """As it is, and as a reference."""
    raw = bytes([number]) if form == "raw" else form.format(number).encode()
    body = ANSWER.replace(b"@", b"a" + raw + b"b")
    with pytest.raises(Unavailable) as caught:
        readable(body, replace=False, utf8=True)
    assert caught.value.reason is Reason.UPSTREAM_INVALID
    assert caught.value.sent
    place = ANSWER.index(b"@") + 1
    assert f"the control character U+{number:04X} at byte {place}," in caught.value.detail
    assert decode_response(readable(body, replace=True, utf8=True)) == "a\ufffdb"
    assert decode_response(readable(body, replace=True, utf8=False)) == "a?b"


@pytest.mark.parametrize("text", ["", "a\tb\nc", "&#9;&#10;&#13;&#x20;&#32;&#127;&#x80;", "é\x7f"])
@pytest.mark.parametrize("replace", [True, False])
def test_other_answers_stay_as_they_are(text: str, replace: bool) -> None:
    """To the byte."""
    body = ANSWER.replace(b"@", text.encode())
    assert readable(body, replace=replace, utf8=True) is body or b"&#" in body
    assert readable(body, replace=replace, utf8=True) == body


class Parts:
    """A stream of two parts."""

    def __init__(self) -> None:
        self.parts = [b"a\x1b", b"\x00b"]
        self.closed = False

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        if not self.parts:
            raise StopAsyncIteration
        return self.parts.pop(0)

    async def aclose(self) -> None:
        self.closed = True


async def test_a_stream_is_replaced_part_by_part() -> None:
    """And closed with its reader."""
    parts = Parts()
    stream = ReplacedStream(parts, utf8=False)
    assert [part async for part in stream] == [b"a?", b"?b"]
    await stream.aclose()
    assert parts.closed
