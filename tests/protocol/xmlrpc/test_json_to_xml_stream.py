import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Unavailable
from proxy.model import Reason, Value
from proxy.protocol.xmlrpc.codec import RESPONSE_HEAD, decode_response, encode_response
from proxy.protocol.xmlrpc.json_to_xml_stream import JsonToXml
from tests.support.amount import examples

TEXTS = st.text(st.characters()) | st.sampled_from(
    [
        "\ud83d",
        "\ude00",
        "\ud83d\ud83d\ude00",
        "\\",
        '"',
        "\\ud83d",
        "\x00\x1b[0m",
        "]]>\r\n",
        "\U0001f600",
    ]
)
JSONS: st.SearchStrategy[Value] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


def through(body: bytes, *cuts: int) -> bytes:
    """Return the document for `body`, fed in pieces that end at `cuts`."""
    transcoder = JsonToXml()
    ends = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    parts = [transcoder.feed(body[begin:end]) for begin, end in pairwise(ends)]
    return b"".join([*parts, transcoder.close()])


@given(
    JSONS,
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
    st.lists(st.integers(0, 400), max_size=20),
)
@settings(max_examples=examples(300))
def test_it_encodes_as_the_codec_does_wherever_it_is_cut(
    value: Value, ascii_only: bool, indent: int | str | None, cuts: list[int]
) -> None:
    """The bytes are those of json.loads and encode_response, for any spelling and any pieces."""
    body = json.dumps({"response": value}, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "backslashreplace"
    )
    whole = encode_response(json.loads(body)["response"], lossy=True)
    assert through(body) == whole
    assert through(body, *cuts) == whole
    assert through(body, *range(len(body))) == whole, "a byte at a time"


@given(
    JSONS,
    st.lists(
        st.tuples(
            st.integers(0, 200),
            st.integers(0, 3),
            st.sampled_from([*'{}[],:"\\0-.eE \n\x00', "null", "\\u12", "\\ud83d", "é"]),
        ),
        max_size=3,
    ),
)
@settings(max_examples=examples(500))
def test_it_refuses_what_json_refuses(value: Value, changes: list[tuple[int, int, str]]) -> None:
    """Both read any mutation of an answer as the same value, or both refuse it."""
    body = json.dumps({"response": value}).encode()
    for at, cut, piece in changes:
        body = body[:at] + piece.encode() + body[at + cut :]

    def once(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
        repeated.append(len(dict(pairs)) != len(pairs))
        return dict(pairs)

    repeated: list[bool] = []
    try:
        document = json.loads(body.decode(), object_pairs_hook=once)
        assert type(document) is dict and document.keys() == {"response"}
        meant = encode_response(document["response"], lossy=True)
    except (ValueError, AssertionError, Unavailable, RecursionError):
        with pytest.raises(Unavailable) as caught:
            through(body)
        assert caught.value.reason is Reason.UPSTREAM_INVALID
        with pytest.raises(Unavailable):
            through(body, *range(len(body)))
        return
    if not any(repeated):
        assert through(body) == meant
        assert through(body, *range(len(body))) == meant


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b" ",
            b"null",
            b"[]",
            b"{}",
            b"<html>",
            b'"response"',
            b'{"response"',
            b'{"response":',
            b'{"response":1',
            b'{"response":}',
        ),
        *(
            b'{"other":1}',
            b'{"response":1,"other":2}',
            b'{"other":1,"response":2}',
            b'{"response":1,}',
            b'{"response":1}}',
            b'{"response":1}x',
        ),
        *(
            b'{"response":1}{"response":1}',
            b'{"response":1 2}',
            b'\xef\xbb\xbf{"response":1}',
            b"{'response':1}",
            b"{response:1}",
        ),
        *(
            b'{"response":NaN}',
            b'{"response":Infinity}',
            b'{"response":-Infinity}',
            b'{"response":nan}',
            b'{"response":True}',
            b'{"response":nul}',
        ),
        *(
            b'{"response":01}',
            b'{"response":+1}',
            b'{"response":1.}',
            b'{"response":.5}',
            b'{"response":1e}',
            b'{"response":0x1}',
            b'{"response":-}',
        ),
        *(
            b'{"response":1e999}',
            b'{"response":9223372036854775808}',
            b'{"response":-9223372036854775809}',
            b'{"response":' + b"1" * 5000 + b"}",
        ),
        *(
            b'{"response":"a}',
            b'{"response":"a\n"}',
            b'{"response":"\\x"}',
            b'{"response":"\\u12"}',
            b'{"response":"\\u123g"}',
            b'{"response":"\xff"}',
        ),
        *(
            b'{"response":"\xed\xa0\x80"}',
            b'{"response":"\xc3',
            b'{"response":[1,]}',
            b'{"response":[,1]}',
            b'{"response":[1 2]}',
            b'{"response":[1}',
        ),
        *(
            b'{"response":[1}}',
            b'{"response":{"a"}}',
            b'{"response":{"a":}}',
            b'{"response":{"a":1,}}',
            b'{"response":{,}}',
            b'{"response":{"a" 1}}',
        ),
        *(
            b'{"response":{1:1}}',
            b'{"response":{"a":1]}',
            b'{"response":{"a":1',
            b'{"response":/**/1}',
            b'{"response":\x0c1}',
            b'{"response":\xc2\xa01}',
        ),
        b" " * 100_000,
        b'{"response":' + b"1" * 100_000,
        b'{"response":' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"response":' + b'{"a":' * 65 + b"1" + b"}" * 66,
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_an_answer_that_is_none_is_the_upstreams_fault(body: bytes) -> None:
    """The output never becomes invalid XML-RPC: it stops, and the error says that the call was
    sent.
    """
    for cuts in ((), range(min(len(body), 200))):
        with pytest.raises(Unavailable) as caught:
            through(body, *cuts)
        assert caught.value.reason is Reason.UPSTREAM_INVALID
        assert caught.value.sent


def test_bad_beginnings_are_refused_at_once() -> None:
    """An HTML page in place of JSON is refused with its first piece, before any output."""
    with pytest.raises(Unavailable):
        JsonToXml().feed(b"\n <html>")
    with pytest.raises(Unavailable):
        JsonToXml().feed(b'{"response":1}x')
    assert JsonToXml().feed(b' \n{ "resp') == b""


@pytest.mark.parametrize("endless", [b" ", b'{"response":1', b'{"response":t', b'{"response"'])
def test_an_endless_token_is_refused(endless: bytes) -> None:
    """An endless number, word or run of blanks is refused after 2 kB."""
    transcoder = JsonToXml()
    assert transcoder.feed(endless) in (b"", RESPONSE_HEAD.encode())
    transcoder.feed(endless[-1:] * 1000 if endless[-1:] != b'"' else b" " * 1000)
    with pytest.raises(Unavailable) as caught:
        transcoder.feed(endless[-1:] * 2000 if endless[-1:] != b'"' else b" " * 2000)
    assert caught.value.reason is Reason.UPSTREAM_INVALID


def test_depth_is_bounded_as_in_the_codec() -> None:
    """The bound is that of encode_response and decode_response, or `max_depth`."""
    body = b'{"response":' + b'[{"a":' * 32 + b"1" + b"}]" * 32 + b"}"
    assert through(body) == encode_response(json.loads(body)["response"])
    shallow = JsonToXml(max_depth=1)
    shallow.feed(b'{"response":[')
    with pytest.raises(Unavailable):
        shallow.feed(b"[")


def test_a_duplicate_key_is_a_duplicate_member() -> None:
    """Knowing all keys would take memory of the answer's size. A client takes the last."""
    body = through(b'{"response":{"a":1,"a":2}}')
    assert body.count(b"<name>a</name>") == 2
    assert body.index(b"<int>1</int>") < body.index(b"<int>2</int>")


def test_an_answer_of_luigi() -> None:
    """A failed task with a coloured traceback, nulls and a large number read back unchanged."""
    answer = {
        "A_1": {
            "status": "FAILED",
            "error": "\x1b[31mTrace\r\n",
            "start_time": 1.7e9,
            "retries": None,
            "n": 2**40,
            "ok": True,
            "deps": [],
        }
    }
    read = decode_response(through(json.dumps({"response": answer}).encode()))
    assert read == {"A_1": answer["A_1"] | {"error": "\ufffd[31mTrace\r\n"}}


@pytest.mark.parametrize(
    "make",
    [
        lambda size: b",".join(
            b'{"id": "t_%d", "deps": ["a", "b"], "n": null}' % number
            for number in range(size // 45)
        ),
        lambda size: b'"' + b"a long text, " * (size // 13) + b'"',
        lambda size: b'"' + b"\\u00e9\\n" * (size // 8) + b'"',
        pytest.param(
            lambda size: b",".join([b"[" * 60 + b"]" * 60] * (size // 121)),
            marks=pytest.mark.exhaustive,
        ),
        lambda size: b" " * size + b"1",
    ],
    ids=["tasks", "a long string", "escapes", "nesting", "blanks"],
)
def test_memory_does_not_grow_with_the_answer(make: "object") -> None:
    """Four times the answer takes no more memory: a chunk, its text and its output."""
    assert callable(make)
    peaks = []
    for size in (100_000, 400_000):
        body = b'{"response":[' + make(size) + b"]}"
        transcoder = JsonToXml()
        tracemalloc.start()
        try:
            for at in range(0, len(body), 16_384):
                transcoder.feed(body[at : at + 16_384])
            transcoder.close()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 65_536
    assert peaks[1] < 3_000_000
