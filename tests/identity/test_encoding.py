import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.identity.encoding import base64url, base64url_encode, json_object


@given(st.binary(max_size=200))
def test_base64url_round_trip(data: bytes) -> None:
    """Encoded bytes decode to the same bytes."""
    assert base64url(base64url_encode(data)) == data


@given(st.text(alphabet="ABab01-_+/= \n.", max_size=12))
def test_base64url_has_one_spelling(text: str) -> None:
    """A text is the canonical spelling of its bytes, or it is refused."""
    try:
        data = base64url(text)
    except ValueError:
        return
    assert base64url_encode(data) == text


@pytest.mark.parametrize("text", ["YQ==", "YR", "Y", "Y Q", "YQ\n", "YQ+", "Y/Q", "ÿQ", "YWJj\n"])
def test_base64url_refuses_sloppy_text(text: str) -> None:
    """Padding, left-over bits, white space and the other alphabet are refused."""
    with pytest.raises(ValueError, match="base64url"):
        base64url(text)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b"[]",
        b"1",
        b"",
        b'{"a":1} x',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_json_refuses_what_two_parsers_could_differ_on(data: bytes) -> None:
    """Duplicate names, NaN, invalid UTF-8, deep nesting and values that are no object are a
    ValueError without the input's text.
    """
    with pytest.raises(
        ValueError,
        match=r"^(a JSON object with a duplicate name|NaN and|not (JSON|UTF-8|a JSON object)|nested)",
    ):
        json_object(data)


@given(
    st.dictionaries(
        st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=5
    )
)
def test_json_reads_objects(value: dict[str, Any]) -> None:
    """An object of distinct names is read as it was written."""
    assert json_object(json.dumps(value).encode()) == value
