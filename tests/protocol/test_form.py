import string
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.httputil import parse_body_arguments

from proxy.errors import Rejected
from proxy.model import Reason
from proxy.protocol.form import FORM, is_form, read_field, unquote_plus, write_field

HEX = frozenset(string.hexdigits.encode())


def unquote_by_hand(value: bytes) -> bytes | None:
    """The obvious decoder, one byte after the other; None for a broken escape."""
    result = bytearray()
    place = 0
    while place < len(value):
        byte = value[place]
        if byte == ord("+"):
            result.append(ord(" "))
        elif byte == ord("%"):
            digits = value[place + 1 : place + 3]
            if len(digits) != 2 or not HEX.issuperset(digits):
                return None
            result.append(int(digits, 16))
            place += 2
        else:
            result.append(byte)
        place += 1
    return bytes(result)


escaped = st.lists(
    st.sampled_from(
        [b"%", b"%4", b"%41", b"%5c", b"%5C", b"\\", b"\\x", b"+", b"%2B", b"%\x1c4", b"%+1", b"%-1", b"%0_", b"x", b"\xff", b"\n"]
    )
    | st.binary(max_size=3)
).map(b"".join)


@given(escaped | st.binary())
@example(b"\\%\x1c4")
@example(b"%")
@example(b"\\%")
@example(b"\\N{DIGIT ONE}%41")
def test_percent_decoding_is_the_strict_one(value: bytes) -> None:
    """The decoder in C decodes as the obvious one does, byte for byte, and refuses exactly what that cannot decode."""
    expected = unquote_by_hand(value)
    if expected is None:
        with pytest.raises(Rejected) as refused:
            unquote_plus(value)
        assert refused.value.reason is Reason.MALFORMED_CALL
    else:
        assert unquote_plus(value) == expected


@given(st.text())
def test_what_stock_clients_encode_is_read_back(text: str) -> None:
    """Both ways in which stock clients write the field (urllib's quoting, with + and with %20) give the text again."""
    raw = text.encode("utf-8", "surrogatepass")
    assert read_field(urlencode({"data": raw}).encode()) == raw
    assert read_field(b"data=" + quote_plus(raw).replace("+", "%20").encode()) == raw


@given(st.text())
def test_what_is_written_tornado_reads_as_one_field(text: str) -> None:
    """luigid's own form parser finds one field, named data, and in it the very text."""
    found: dict[str, list[bytes]] = {}
    raw = text.encode("utf-8", "surrogatepass")
    parse_body_arguments(FORM.decode(), write_field(raw), found, {})
    assert found == {"data": [raw]}


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (b"data=1&data=2", Reason.AMBIGUOUS_CALL),
        (b"data=1&", Reason.AMBIGUOUS_CALL),
        (b"&data=1", Reason.AMBIGUOUS_CALL),
        (b"data=1&x=2", Reason.AMBIGUOUS_CALL),
        (b"%64ata=1", Reason.MALFORMED_CALL),
        (b"data", Reason.MALFORMED_CALL),
        (b"data%3D1", Reason.MALFORMED_CALL),
        (b"Data=1", Reason.MALFORMED_CALL),
        (b"data[]=1", Reason.MALFORMED_CALL),
        (b" data=1", Reason.MALFORMED_CALL),
        (b"_=1", Reason.MALFORMED_CALL),
        (b"data=%", Reason.MALFORMED_CALL),
        (b"data=%zz", Reason.MALFORMED_CALL),
        (b"data=\\%zz", Reason.MALFORMED_CALL),
        (b"data=%u0041", Reason.MALFORMED_CALL),
    ],
)
def test_only_one_field_of_one_spelling_is_read(form: bytes, reason: Reason) -> None:
    """A second field, another name, another spelling of the name, or a broken escape is refused."""
    with pytest.raises(Rejected) as refused:
        read_field(form)
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("form", "value"), [(b"", None), (b"data=", b""), (b"data=a=b", b"a=b"), (b"data=a%26b", b"a&b"), (b"data=%2541", b"%41")]
)
def test_the_value_is_decoded_once(form: bytes, value: bytes | None) -> None:
    """What an escape stands for is data: it neither ends the field nor is decoded again."""
    assert read_field(form) == value


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        (b"application/x-www-form-urlencoded", True),
        (b"application/x-www-form-urlencoded; charset=UTF-8", True),
        (b"application/x-www-form-urlencoded;charset=utf-8", True),
        (b"application/x-www-form-urlencodedX", False),
        (b"APPLICATION/x-www-form-urlencoded", False),
        (b"application/x-www-form-urlencoded; charset=utf-16-le", False),
        (b"application/x-www-form-urlencoded; charset=utf-8; charset=utf-16", False),
        (b"multipart/form-data; boundary=x", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_one_content_type_is_a_form(content_type: bytes, accepted: bool) -> None:
    """Only what luigid and every other parser take for a UTF-8 form passes: luigid goes by the first letters alone."""
    assert is_form(content_type) is accepted
