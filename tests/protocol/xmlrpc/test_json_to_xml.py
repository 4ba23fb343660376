import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Unavailable
from proxy.model import Value
from proxy.protocol.xmlrpc.codec import decode_response
from proxy.protocol.xmlrpc.json_to_xml import json_to_xml
from tests.protocol.xmlrpc.test_json_to_xml_stream import JSONS, through
from tests.support.amount import examples

PIECES = [
    *'{}[],:"\\0-.eE \n\x00',
    "null",
    "NaN",
    "Infinity",
    "\\u12",
    "\\ud83d",
    "\\ude00",
    "é",
    '"a":1,',
    '{"a":1,"a":2}',
    "9" * 20,
    "1e999",
]


def agree(body: bytes) -> None:
    """Assert that a complete answer is encoded, or refused, as one that arrives in pieces."""
    try:
        meant = through(body)
    except Unavailable as error:
        with pytest.raises(Unavailable) as caught:
            json_to_xml(body)
        assert (caught.value.reason, caught.value.detail, caught.value.sent) == (
            error.reason,
            error.detail,
            error.sent,
        )
    else:
        assert json_to_xml(body) == meant


@given(
    JSONS,
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 3), st.sampled_from(PIECES)), max_size=3
    ),
)
@settings(max_examples=examples(600))
def test_it_encodes_as_the_stream_does(
    value: Value, ascii_only: bool, indent: int | str | None, changes: list[tuple[int, int, str]]
) -> None:
    """Any answer in any spelling, and any mutation of it."""
    body = json.dumps({"response": value}, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "backslashreplace"
    )
    agree(body)
    for at, cut, piece in changes:
        body = body[:at] + piece.encode() + body[at + cut :]
    agree(body)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"null",
            b"{}",
            b'{"response"',
            b'{"response":1}x',
            b'{"response":1,"other":2}',
            b'{"other":1}',
            b'{"other":1,"response":2}',
        ),
        *(
            b'{"response":1,"response":2}',
            b'{"\\u0072esponse":1}',
            b'\xef\xbb\xbf{"response":1}',
            b'{"response":"\xff"}',
            b'{"response":NaN}',
        ),
        *(
            b'{"response":-Infinity}',
            b'{"response":9223372036854775808}',
            b'{"response":-0}',
            b'{"response":-0.0}',
            b'{"response":1E2}',
        ),
        b'{"response":' + b"1" * 2049 + b"}",
        b'{"response":0.' + b"1" * 2046 + b"}",
        b'{"response":0.' + b"1" * 2047 + b"}",
        b'{"response":' + b"1" * 5000 + b"}",
        b'{"response":' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"response":' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"response":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"response": null}',
        b" " * 3000 + b'{"response":"a"}',
        b'{"response":"a"}' + b" " * 3000,
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_where_json_and_the_stream_could_differ(body: bytes) -> None:
    """Duplicate keys, numbers beyond XML-RPC, depth, blanks, byte order marks, the wrapper."""
    agree(body)


def test_each_byte_of_an_answer_changed() -> None:
    """Each is taken out, doubled, and replaced by each character with a meaning in JSON."""
    body = b'{"response": {"etl.Load_1": {"status": "FAILED \\u001b[31m\\n", "params": {}, "n": [1, -2.5e3, null, true], "t": 1.5}}}'
    for at in range(len(body)):
        for piece in (
            b"",
            body[at : at + 1] * 2,
            *(bytes([byte]) for byte in b'{}[],:"\\0-.e \x01\xff'),
        ):
            agree(body[:at] + piece + body[at + 1 :])
    assert decode_response(json_to_xml(body)) == {
        "etl.Load_1": {
            "status": "FAILED \ufffd[31m\n",
            "params": {},
            "n": [1, -2500.0, None, True],
            "t": 1.5,
        }
    }
