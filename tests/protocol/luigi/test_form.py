import itertools
import json
import string
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.httputil import parse_body_arguments

from proxy.errors import Rejected
from proxy.model import Reason
from proxy.protocol.luigi.form import (
    FORM,
    encode_form,
    is_form,
    parse_form,
    unquote_plus,
    without_cache_buster,
)
from tests.support.amount import some

HEX = frozenset(string.hexdigits.encode())


def unquote_by_hand(value: bytes) -> bytes | None:
    """Decode one byte after the other; return None for a broken escape."""
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
        [
            *(
                b"%",
                b"%4",
                b"%41",
                b"%5c",
                b"%5C",
                b"\\",
                b"\\x",
                b"+",
                b"%2B",
                b"%\x1c4",
                b"%+1",
                b"%-1",
                b"%0_",
                b"x",
                b"\xff",
                b"\n",
            ),
            *(
                b"=",
                b"==",
                b"=41",
                b"%=",
                b"%3D",
                b"%3",
                b"=\n",
                b"%\n",
                b"\r",
                b"%\r",
                b"\r\n",
                b"%0D",
                b"%0A",
                b"_",
                b"%25",
                b"%2541",
            ),
        ]
    )
    | st.binary(max_size=3)
).map(b"".join)


@given(escaped | st.binary())
@example(b"\\%\x1c4")
@example(b"%")
@example(b"\\%")
@example(b"\\N{DIGIT ONE}%41")
@example(b"%=")
@example(b"%=\n")
@example(b"%\r\n%41")
@example(b"a%\n")
@example(b"%%3D")
@example(b"%3%3D")
def test_percent_decoding_is_strict(value: bytes) -> None:
    """The decoder in C returns what the simple one does, and refuses what that refuses."""
    decoders_agree(value)


def decoders_agree(value: bytes) -> None:
    """Assert that the decoder and the simple one agree."""
    expected = unquote_by_hand(value)
    if expected is None:
        with pytest.raises(Rejected) as refused:
            unquote_plus(value)
        assert refused.value.reason is Reason.MALFORMED_CALL
    else:
        assert unquote_plus(value) == expected


@pytest.mark.parametrize("end", [b"", b"%41"])
def test_every_two_bytes_after_a_percent_sign_are_decoded_strictly(end: bytes) -> None:
    """All 65,536 pairs, at the end of a value and inside."""
    for pair in some(range(0x10000)):
        decoders_agree(b"%" + pair.to_bytes(2, "big") + end)


@pytest.mark.parametrize("end", [b"", b"x" * 5000])
@pytest.mark.parametrize("longest", [5, pytest.param(7, marks=pytest.mark.exhaustive)])
def test_every_short_value_of_escapes_is_decoded_strictly(end: bytes, longest: int) -> None:
    """Complete and broken escapes of ``=`` next to each other, in short values and in long ones."""
    for length in range(longest + 1):
        for letters in itertools.product(b"%3Dd", repeat=length):
            decoders_agree(bytes(letters) + end)


@pytest.mark.parametrize("count", [63, 64, 65, 66, 1000])
@pytest.mark.parametrize("end", [b"", b"%", b"%3", b"%%3D", b"%3d", b"%3D3D", b"%%3d%3D"])
def test_any_number_of_equals_signs_is_decoded_strictly(count: int, end: bytes) -> None:
    """A broken escape is found among any number of complete ones."""
    for filling in (b"", b"%5C" * 2000):
        decoders_agree(filling + b"%3D" * count + end)
        decoders_agree(end + b"%3D" * count + filling)


@pytest.mark.parametrize("mangle", ["lost", "twice", "percent", "other"])
def test_a_real_body_with_one_byte_wrong_is_decoded_strictly(mangle: str) -> None:
    """Each byte of an add_task is lost, doubled, made a percent sign, or one bit off."""
    body = urlencode(
        {"data": json.dumps({"task_id": "etl.A_1%_é", "deps": ["a+b=c", "\n"], "x": {"y": 1.5}})}
    ).encode()[5:]
    for at in range(len(body)):
        byte = {
            "lost": b"",
            "twice": body[at : at + 1] * 2,
            "percent": b"%",
            "other": bytes([body[at] ^ 1]),
        }[mangle]
        decoders_agree(body[:at] + byte + body[at + 1 :])


@given(st.text())
def test_the_fields_of_stock_clients_are_read_back(text: str) -> None:
    """Both spellings of a blank that stock clients use (+ and %20) give the text again."""
    raw = text.encode("utf-8", "surrogatepass")
    assert parse_form(urlencode({"data": raw}).encode()) == raw
    assert parse_form(b"data=" + quote_plus(raw).replace("+", "%20").encode()) == raw


@given(st.text())
def test_tornado_reads_an_encoded_form_as_one_field(text: str) -> None:
    """luigid's form parser finds one field, named data, with the same text."""
    found: dict[str, list[bytes]] = {}
    raw = text.encode("utf-8", "surrogatepass")
    parse_body_arguments(FORM.decode(), encode_form(raw), found, {})
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
    """A second field, another name or spelling of it, and a broken escape are refused."""
    with pytest.raises(Rejected) as refused:
        parse_form(form)
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (b"", None),
        (b"data=", b""),
        (b"data=a=b", b"a=b"),
        (b"data=a%26b", b"a&b"),
        (b"data=%2541", b"%41"),
    ],
)
def test_the_value_is_decoded_once(form: bytes, value: bytes | None) -> None:
    """An escaped character is data: it does not end the field and is not decoded again."""
    assert parse_form(form) == value


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        (b"application/x-www-form-urlencoded", True),
        (b"application/x-www-form-urlencoded; charset=UTF-8", True),
        (b"application/x-www-form-urlencoded;charset=utf-8", True),
        (b"application/x-www-form-urlencodedX", False),
        (b"APPLICATION/x-www-form-urlencoded", True),
        (b"application/x-www-form-urlencoded; charset=utf-16-le", False),
        (b"application/x-www-form-urlencoded; charset=utf-8; charset=utf-16", False),
        (b"multipart/form-data; boundary=x", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_one_content_type_is_a_form(content_type: bytes, accepted: bool) -> None:
    """Only a form in UTF-8 passes, in any case: luigid gets a type of the gate's own."""
    assert is_form(content_type) is accepted
    assert is_form(content_type.upper()) is accepted


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("", ""),
        ("data=%7B%7D", "data=%7B%7D"),
        ("_=1700000000000", ""),
        ("data=%7B%7D&_=1700000000000", "data=%7B%7D"),
        ("t=1.5&data=%7B%7D", "data=%7B%7D"),
        ("_=1&_=2", "_=2"),
        ("_=%31", "_=%31"),
        ("_=data=x", "_=data=x"),
        ("%5f=1", "%5f=1"),
        ("other=1", "other=1"),
    ],
)
def test_one_cache_buster_is_left_out(query: str, left: str) -> None:
    """Its name and value are plain; whatever else is there stays, to be read or refused."""
    assert without_cache_buster(query) == left
