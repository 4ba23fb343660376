"""The reader and a plain one without short cuts agree on any document.

They return the same call, or the same refusal in the same words.
"""

import re
import xmlrpc.client
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.model import Value
from proxy.protocol.xmlrpc import codec
from proxy.protocol.xmlrpc.call_templates import TemplateCache
from proxy.protocol.xmlrpc.grammar import Reader
from tests.protocol.xmlrpc.plain_reader import PlainReader
from tests.support.amount import examples, some
from tests.support.xmlrpc import TEXTS, typed

# longer than what one expression takes, with nothing to escape in it
LONG = "s3://warehouse/raw/part.parquet, " * 40
TASK: dict[str, Value] = {
    "date": "2024-05-17",
    "shop": "0",
    "note": "a & b",
    "n": 3,
    "ratio": -0.5,
    "on": True,
    "raw": b"bytes",
    "none": None,
}


def call_of(*values: str) -> str:
    """Return a call with these values."""
    params = "".join(f"<param>{value}</param>" for value in values)
    return f"<methodCall><methodName>m</methodName><params>{params}</params></methodCall>"


DOCUMENTS = {
    "as CPython writes it": xmlrpc.client.dumps(
        ("etl.Load_1", "Worker(pid=1)", 10, TASK, ["a", "b", "c"]), "add_task", allow_none=True
    ),
    "as we write it": codec.encode_call(
        "add_task", ["etl.Load_1", TASK, ["a", "b", "c", "d"], [], [[["x", "y"], ["z"]], {}]]
    ).decode(),
    "with a long text": codec.encode_call("m", [LONG, [LONG, LONG, LONG], {"a": LONG}]).decode(),
    "with white space": call_of(
        "\n<value> <array> <data>\n <value><string>a</string></value>\n<value><string>b</string></value>\n <value><string> c</string>"
        "</value>\n</data > </array> </value> ",
        "<value><struct >\n<member > <name>a</name> <value > x </value></member>\t</struct></value>",
    ),
    "with untyped texts": call_of(
        f"<value>{LONG}</value>",
        f"<value><struct><member><name>{LONG}</name><value>\n</value></member></struct></value>",
    ),
    "with references": call_of(
        "<value><array><data><value><string>&lt;a&#10;</string></value><value><string><![CDATA[<b>]]></string></value>"
        "<value><string>&amp;lt;</string></value></data></array></value>"
    ),
}
PIECES = [
    *("<", ">", "/", "&", " ", "\n", "x", "]]>", "&lt;", "&x;", "<![CDATA[x]]>", "\x01", LONG),
    *(
        "<data>",
        "</data>",
        "<value>",
        "</value>",
        "<string>",
        "<value/>",
        "<nil/>",
        "<value><int>1</int></value>",
    ),
    *(
        "</string></value>",
        "<value><string>",
        "</string></value>\n<value><string>",
        "<value><string>a</string></value>",
    ),
    *(
        "<value><array><data>",
        "</data></array></value>",
        "<value ><string>",
        "</string ></value>",
        "<struct/>",
        "<array/>",
        "<array>",
    ),
    *(
        "<member><name>shop</name><value>1</value></member>",
        "</struct>",
        "</struct></value>",
        "</member>",
        "</param>",
        "<data/>",
    ),
]


def outcome(body: bytes, templates: TemplateCache | None = None) -> object:
    """Return the call of a document with every type, or the reason and the words against it."""
    try:
        method, params = codec.decode_call(body, templates)
    except Rejected as error:
        return error.reason, error.detail
    return method, typed(params)


def agree(document: str) -> None:
    """Assert that both readers agree."""
    body = document.encode()
    expected = outcome(body)
    with patch.object(codec, "Reader", PlainReader):
        assert outcome(body) == expected, document


def mangled(document: str) -> Iterator[str]:
    """Yield the document cut short everywhere, and with each tag or text changed.

    Each is taken out, doubled, exchanged, or has another put before it.
    """
    tokens = re.findall("<[^>]*>|[^<]+", document)
    for number, token in enumerate(tokens):
        before, after = "".join(tokens[:number]), "".join(tokens[number + 1 :])
        yield before
        yield before + after
        yield before + token + token + after
        yield before + token[: len(token) // 2] + after
        yield "".join([*tokens[:number], *tokens[number : number + 2][::-1], *tokens[number + 2 :]])
        for piece in PIECES:
            yield before + piece + token + after


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_mutation_of_a_document_by_its_tags(document: str) -> None:
    """Tags are put in, taken out and exchanged, at every position."""
    agree(document)
    for other in some([*mangled(document)]):
        agree(other)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["as CPython writes it", "with white space", "with references"])
def test_a_document_with_any_one_character_changed(name: str) -> None:
    """Every character is taken out, doubled, or replaced by one with a meaning."""
    document = DOCUMENTS[name]
    for at, character in enumerate(document):
        for piece in ("", character * 2, "<", ">", "&", "/", " ", "x", "\x01", "\x00"):
            agree(document[:at] + piece + document[at + 1 :])


@given(
    st.lists(TEXTS | st.just(LONG), min_size=2, max_size=6),
    st.sampled_from(["", "\n", " \n\t"]),
    st.booleans(),
    st.data(),
)
@settings(max_examples=examples(400))
def test_arrays_of_texts(
    texts: list[str], between: str, typed_as_text: bool, data: st.DataObject
) -> None:
    """Long and short, marked up alike or not, escaped or not, with other items among them."""
    marked = [
        f"<string>{xmlrpc.client.escape(text)}</string>"
        if typed_as_text
        else xmlrpc.client.escape(text)
        for text in texts
    ]
    items = between.join(f"<value>{item}</value>" for item in marked)
    for at, piece in data.draw(
        st.lists(st.tuples(st.integers(0, len(items)), st.sampled_from(PIECES)), max_size=3)
    ):
        items = items[:at] + piece + items[at:]
    agree(call_of(f"<value><array><data>{between}{items}{between}</data></array></value>"))


@pytest.mark.interpreted
def test_the_split_of_texts_is_not_tried_again_in_a_document() -> None:
    """Nested arrays with three texts first would otherwise cost a search at each level."""
    texts = "<value><string>a</string></value>" * 3
    document = texts
    for _ in range(60):
        document = f"{texts}<value><array><data>{document}</data></array></value>"
    tries: list[bool] = []
    array = f"<value><array><data>{document}</data></array></value>"

    class Counting(Reader):
        def _texts(self, at: int) -> tuple[list[Value], int] | None:
            tries.append(self._try_texts)
            return super()._texts(at)

    assert Counting(array, True, 64).value(0) == PlainReader(array, True, 64).value(0)
    assert tries == [True] + [False] * 60
