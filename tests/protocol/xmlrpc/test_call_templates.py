import copy
import tracemalloc
import xmlrpc.client
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import Value
from proxy.protocol.xmlrpc import codec
from proxy.protocol.xmlrpc.call_templates import (
    MAX_LENGTH,
    MAX_MISSES,
    MAX_OF_ONE_METHOD,
    MAX_TEMPLATES,
    TemplateCache,
)
from proxy.protocol.xmlrpc.codec import decode_call, encode_call
from tests.protocol.xmlrpc.test_grammar_short_cuts import DOCUMENTS, PIECES, mangled, outcome
from tests.support.amount import examples, some
from tests.support.xmlrpc import TEXTS, VALUES, typed

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


def agree(templates: TemplateCache, document: str) -> None:
    """Assert that a document is decoded as without templates; it may leave a template behind."""
    body = document.encode()
    assert outcome(body, templates) == outcome(body), document


def learnt(*documents: str) -> TemplateCache:
    """Return the templates of some documents."""
    templates = TemplateCache()
    for document in documents:
        agree(templates, document)
    return templates


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_mutation_of_a_document_is_decoded_as_without_its_template(document: str) -> None:
    """Its tags and its characters are changed one by one."""
    templates = learnt(document)
    agree(templates, document)
    for other in some([*mangled(document)]):
        agree(templates, other)
    for at, character in some([*enumerate(document[:1500])]):
        for piece in ("", character * 2, "<", ">", "&", "/", " ", "x", "7", "\x01", "\r", "é"):
            agree(templates, document[:at] + piece + document[at + 1 :])


@given(
    st.lists(VALUES, max_size=3),
    st.lists(TEXTS | st.sampled_from([*PIECES, *NUMBERS, "20240101T00:00:00", "QUJD"]), min_size=1),
)
@settings(max_examples=examples(300))
def test_a_call_of_the_same_markup_with_other_texts(params: list[Value], texts: list[str]) -> None:
    """Each text is exchanged for any other, valid for its type or not."""
    document = encode_call("m", params).decode()
    templates = learnt(document)
    for number, text in enumerate(texts):
        places = [at + 1 for at, character in enumerate(document) if character == ">"]
        at = places[number % len(places)]
        agree(
            templates,
            document[:at] + text + document[document.find("<", at) :]
            if "<" in document[at:]
            else document + text,
        )


@pytest.mark.interpreted
def test_a_call_that_matches_is_decoded_without_the_reader() -> None:
    """A call of another markup needs the reader."""
    one, two, three = (
        xmlrpc.client.dumps(({"a": text, "n": number}, ["x"]), "m").encode()
        for text, number in (("1", 1), ("é", -7), ("2", 2))
    )
    templates = TemplateCache()
    decode_call(one, templates)
    with patch.object(codec, "Reader", side_effect=AssertionError):
        assert decode_call(two, templates) == ("m", [{"a": "é", "n": -7}, ["x"]])
        with pytest.raises(AssertionError):
            decode_call(three.replace(b"<name>a<", b"<name>b<"), templates)


def _emptied(value: Value) -> None:
    """Take everything out of a value, from the inmost list or struct on."""
    if isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            _emptied(part)
        value.clear()


def test_two_calls_share_no_value() -> None:
    """A caller that changes its arguments changes no later call."""
    body = encode_call("m", [{"a": [], "b": {}, "c": [None, "x", {"d": "y"}]}, ["z"]])
    templates = TemplateCache()
    decode_call(body, templates)
    _, params = decode_call(body, templates)
    copied = copy.deepcopy(params)
    _emptied(params)
    assert typed(decode_call(body, templates)[1]) == typed(copied)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_integer_is_decoded_as_without_a_template(number: str) -> None:
    """One beyond 32 bits matches, and is left to the reader, which refuses it."""
    document = encode_call("m", [5]).decode()
    agree(learnt(document), document.replace(">5<", f">{number}<"))


def test_two_caches_share_no_template() -> None:
    """Each codec knows the calls of its own upstream."""
    document = encode_call("m", ["x"]).decode()
    assert learnt(document).match(document) == ("m", ["x"])
    assert TemplateCache().match(document) is None


@pytest.mark.exhaustive
def test_the_cache_is_bounded() -> None:
    """Few templates of a method, few in all, none of a long document: under a megabyte."""
    tracemalloc.start()
    try:
        templates = TemplateCache()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(200):
            for items in range(8):
                params: list[Value] = [*["x"] * items, *[1] * 24, *["y"] * (items % 2)]
                agree(templates, encode_call(f"m{number:03}", params).decode())
        agree(templates, encode_call("long", ["x" * MAX_LENGTH]).decode())
        assert tracemalloc.get_traced_memory()[0] - before < 1_000_000
    finally:
        tracemalloc.stop()
    assert templates.counts() == [MAX_OF_ONE_METHOD] * (MAX_TEMPLATES // MAX_OF_ONE_METHOD)


def test_templates_are_evicted_after_many_misses() -> None:
    """After ten thousand calls that found no room, the next call leaves a template."""
    templates = learnt(*(encode_call(f"m{number}", ["x"]).decode() for number in range(32)))
    other = encode_call("other", ["x"])
    for _ in range(MAX_MISSES):
        assert templates.match(other.decode()) is None
        decode_call(other, templates)
    assert templates.match(other.decode()) is None
    decode_call(other, templates)
    assert templates.match(other.decode()) == ("other", ["x"])
    assert templates.counts() == [1]
