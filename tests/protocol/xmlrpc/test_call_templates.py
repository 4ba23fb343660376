import copy
import tracemalloc
import xmlrpc.client
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import Value
from proxy.protocol.xmlrpc import codec
from proxy.protocol.xmlrpc.call_templates import TemplateCache
from tests.protocol.xmlrpc.test_grammar_short_cuts import DOCUMENTS, PIECES, mangled, outcome
from tests.support.xmlrpc import TEXTS, VALUES, typed

NONE = TemplateCache(0)
NUMBERS = [
    "0",
    "1",
    "-5",
    "+7",
    "٣",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "0" * 41,
    "1" * 40,
]


def agree(shapes: TemplateCache, document: str) -> None:
    """Hold that with the known shapes the same becomes of a document as without any."""
    body = document.encode()
    with patch.object(codec, "_SHAPES", NONE):
        plainly = outcome(body)
    with patch.object(codec, "_SHAPES", shapes):
        assert outcome(body) == plainly, document


def learnt(*documents: str) -> TemplateCache:
    """The shapes of some documents."""
    shapes = TemplateCache()
    for document in documents:
        agree(shapes, document)
    return shapes


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_known_document_and_all_that_can_be_made_of_it(document: str) -> None:
    """By its tags and by its characters: what is no longer of its shape is read by the strict
    reader.
    """
    shapes = learnt(document)
    agree(shapes, document)
    for other in mangled(document):
        agree(shapes, other)
    for at, character in enumerate(document[:1500]):
        for piece in ("", character * 2, "<", ">", "&", "/", " ", "x", "7", "\x01", "\r", "é"):
            agree(shapes, document[:at] + piece + document[at + 1 :])


@given(
    st.lists(VALUES, max_size=3),
    st.lists(TEXTS | st.sampled_from([*PIECES, *NUMBERS, "20240101T00:00:00", "QUJD"]), min_size=1),
)
@settings(max_examples=300)
def test_a_call_of_known_shape_with_other_texts(params: list[Value], texts: list[str]) -> None:
    """Each text of it in turn exchanged for any other, valid for its type or not."""
    document = codec.encode_call("m", params).decode()
    shapes = learnt(document)
    for number, text in enumerate(texts):
        places = [at + 1 for at, character in enumerate(document) if character == ">"]
        at = places[number % len(places)]
        agree(
            shapes,
            document[:at] + text + document[document.find("<", at) :]
            if "<" in document[at:]
            else document + text,
        )


@pytest.mark.interpreted
def test_a_call_of_known_shape_is_read_without_the_reader() -> None:
    """The point of it; and a call of another shape is not."""
    one, two, three = (
        xmlrpc.client.dumps(({"a": text, "n": number}, ["x"]), "m").encode()
        for text, number in (("1", 1), ("é", -7), ("2", 2))
    )
    with patch.object(codec, "_SHAPES", TemplateCache()):
        codec.decode_call(one)
        with patch.object(codec, "Reader", side_effect=AssertionError):
            assert codec.decode_call(two) == ("m", [{"a": "é", "n": -7}, ["x"]])
            with pytest.raises(AssertionError):
                codec.decode_call(three.replace(b"<name>a<", b"<name>b<"))


def _emptied(value: Value) -> None:
    """Take everything out of a value, from the inmost list or struct on."""
    if isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            _emptied(part)
        value.clear()


def test_nothing_is_shared_between_two_calls() -> None:
    """A caller that changes what it got changes no later call."""
    body = codec.encode_call("m", [{"a": [], "b": {}, "c": [None, "x", {"d": "y"}]}, ["z"]])
    with patch.object(codec, "_SHAPES", TemplateCache()):
        codec.decode_call(body)
        _, params = codec.decode_call(body)
        kept = copy.deepcopy(params)
        _emptied(params)
        assert typed(codec.decode_call(body)[1]) == typed(kept)


def test_what_is_kept_is_bounded() -> None:
    """Four shapes of a method, thirty-two in all, none of a long document: and less than a megabyte
    of memory.
    """
    tracemalloc.start()
    try:
        shapes = TemplateCache()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(200):
            for items in range(8):
                agree(
                    shapes,
                    codec.encode_call(
                        f"m{number:03}", ["x"] * items + [1] * 24 + ["y"] * (items % 2)
                    ).decode(),
                )
        agree(shapes, codec.encode_call("long", ["x" * 3000]).decode())
        assert tracemalloc.get_traced_memory()[0] - before < 1_000_000
    finally:
        tracemalloc.stop()
    assert [len(known) for known in shapes._shapes.values()] == [4] * 8


def test_shapes_that_are_not_met_any_more_make_room() -> None:
    """After ten thousand calls of other shapes."""
    shapes = learnt(*(codec.encode_call(f"m{number}", ["x"]).decode() for number in range(32)))
    other = codec.encode_call("other", ["x"]).decode()
    with patch.object(codec, "_SHAPES", shapes):
        for _ in range(10_000):
            assert shapes.match(other) is None
            codec.decode_call(other.encode())
        assert shapes.match(other) is None
        codec.decode_call(other.encode())
    assert shapes.match(other) == ("other", ["x"])
