"""Any bytes give one call or one Rejected; every other parser reads the same call."""

import gzip
import xmlrpc.client

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import Rejected, Unavailable
from proxy.model import DateTime, Reason, Value
from proxy.protocol.xmlrpc.codec import decode_call, decode_response, encode_call, encode_response
from tests.support.amount import examples
from tests.support.xmlrpc import METHODS, VALUES, tree_call, typed

# Pieces of documents: valid ones, invalid ones, and some that are known to confuse
# parsers.
PIECES = [
    *(
        f"<{slash}{name}>"
        for name in ("methodCall", "methodName", "params", "param", "value")
        for slash in ("", "", "/", "/")
    ),
    *(
        f"<{slash}{name}>"
        for name in ("int", "string", "array", "data", "struct", "member", "name", "base64")
        for slash in ("", "/")
    ),
    *(
        "<value/>",
        "<nil/>",
        "<params/>",
        "<data/>",
        "<struct/>",
        "<string/>",
        "<value >",
        "</value\n>",
        "< value>",
        "<value a='b'>",
        "<x:value>",
    ),
    *(
        "m",
        "1",
        " ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "&amp;",
        "&#65;",
        "&#0;",
        "&#xD800;",
        "&x;",
        "&",
        "<",
        ">",
        "]]>",
        "<![CDATA[",
        "\x00",
        "\ufffe",
    ),
    *(
        "<!-- -->",
        "<!DOCTYPE m>",
        '<!DOCTYPE m [<!ENTITY x "y">]>',
        "<?x y?>",
        '<?xml version="1.0"?>',
        "<![CDATA[ ]]>",
        "<![CDATA[<]]>",
        "\ufeff",
    ),
]
SEED = encode_call(
    "m", [1, "a&b", {"n": [None, True, 2.5, b"x", DateTime("20240101T00:00:00")]}, ""]
)


def agree(body: bytes) -> None:
    """Assert the property for one document."""
    try:
        method, params = decode_call(body)
    except Rejected as error:
        assert error.reason in (
            Reason.MALFORMED_CALL,
            Reason.AMBIGUOUS_CALL,
            Reason.CALL_TOO_COMPLEX,
        )
        assert error.detail.isascii() and error.detail.isprintable()
        return
    assert (method, typed(params)) == ((tree := tree_call(body))[0], typed(tree[1])), (
        "defusedxml reads something else"
    )
    assert len(xmlrpc.client.loads(body, use_builtin_types=True)[0]) == len(params), (
        "CPython reads another number of arguments"
    )
    again = encode_call(method, params)
    assert (method, typed(params)) == ((reread := decode_call(again))[0], typed(reread[1]))


@given(st.binary())
@example(b"")
@example(b"\x00" * 64)
@example(gzip.compress(SEED))
@example(SEED.decode().encode("utf-16"))
@example(SEED.decode().encode("utf-7"))
@example(b"\xef\xbb\xbf" + SEED)
@example(b"{" + b'"jsonrpc": "2.0"}')
def test_any_bytes(body: bytes) -> None:
    """Random bytes, other encodings, compressed bytes and JSON."""
    agree(body)


@given(st.lists(st.sampled_from(PIECES), max_size=40))
@settings(max_examples=examples(300))
def test_any_pieces(pieces: list[str]) -> None:
    """Documents made at random from tags and texts."""
    agree("".join(pieces).encode())
    agree(("<methodCall><methodName>m</methodName>" + "".join(pieces) + "</methodCall>").encode())
    agree(
        (
            "<methodCall><methodName>m</methodName><params><param><value>"
            + "".join(pieces)
            + "</value></param></params></methodCall>"
        ).encode()
    )


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SEED)),
            st.integers(0, 12),
            st.sampled_from(PIECES) | st.text(max_size=3),
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=examples(500))
def test_any_mutation_of_a_good_call(changes: list[tuple[int, int, str]]) -> None:
    """Valid documents with pieces cut out and put in."""
    body = SEED
    for at, cut, piece in changes:
        body = body[:at] + piece.encode("utf-8", "replace") + body[at + cut :]
    agree(body)


@st.composite
def spelt(draw: st.DrawFn, value: Value) -> str:
    """Return the ``value`` element of `value`, in any spelling of XML and XML-RPC."""

    def blank() -> str:
        return draw(st.sampled_from(["", "", "", " ", "\n", "\r\n\t "]))

    def text(plain: str) -> str:
        out = []
        for character in plain:
            number = ord(character)
            forms = [f"&#{number};", f"&#x{number:x};", f"&#000{number};"]
            if character not in "<&>\r":
                forms += [character, character, f"<![CDATA[{character}]]>"]
            out.append(draw(st.sampled_from(forms)))
        return "".join(out)

    def tag(name: str) -> str:
        return f"<{name}{blank()}>"

    def element(name: str, inside: str) -> str:
        return f"{tag(name)}{inside}{tag('/' + name)}"

    if isinstance(value, str) and draw(st.booleans()):
        return (
            element("value", text(value))
            if value
            else draw(
                st.sampled_from(["<value/>", "<value></value>", "<value ><![CDATA[]]></value>"])
            )
        )
    if isinstance(value, list):
        items = "".join(blank() + draw(spelt(item)) for item in value)
        inner = element("array", f"{blank()}{element('data', items + blank())}{blank()}")
    elif isinstance(value, dict):
        members = [
            element(
                "member",
                f"{blank()}{element('name', text(name))}{blank()}{draw(spelt(item))}{blank()}",
            )
            for name, item in value.items()
        ]
        inner = element("struct", blank() + "".join(member + blank() for member in members))
    elif value is None:
        inner = f"<nil{blank()}/>"
    elif isinstance(value, bool):
        inner = element("boolean", text(str(int(value))))
    elif isinstance(value, int):
        kind = draw(st.sampled_from(["int", "i4", "i8"])) if -(2**31) <= value < 2**31 else "i8"
        inner = element(kind, text(str(value)))
    elif isinstance(value, float):
        inner = element("double", text(repr(value)))
    elif isinstance(value, DateTime):
        inner = element("dateTime.iso8601", text(value.text))
    elif isinstance(value, str):
        inner = element("string", text(value))
    else:
        written = encode_call("m", [value]).decode()
        inner = element(
            "base64",
            "".join(
                c + blank()
                for c in written[written.index("<base64>") + 8 : written.index("</base64>")]
            ),
        )
    return element("value", blank() + inner + blank())


@given(st.data(), METHODS, st.lists(VALUES, max_size=2))
def test_every_spelling_of_a_call_is_the_same_call(
    data: st.DataObject, method: str, params: list[Value]
) -> None:
    """White space, CDATA, references, short tags and aliases of types change nothing."""
    values = "".join(f"<param>\n{data.draw(spelt(value))} </param>\t" for value in params)
    body = f"<methodCall> <methodName>{method}</methodName>\r<params >{values}</params></methodCall>".encode()
    assert typed(decode_call(body)[1]) == typed(params)
    agree(body)


@given(
    st.lists(
        st.sampled_from([*PIECES, "<methodResponse>", "</methodResponse>", "<fault>", "</fault>"]),
        max_size=30,
    ),
    st.integers(0, 400),
)
def test_any_bytes_are_an_answer_or_the_upstreams_fault(pieces: list[str], cut: int) -> None:
    """The same for answers; an upstream may send anything in their place."""
    for body in (
        "".join(pieces).encode(),
        encode_response({"a": [1, "".join(pieces)]}, lossy=True)[:cut],
    ):
        try:
            decode_response(body)
        except Unavailable as error:
            assert error.reason is Reason.UPSTREAM_INVALID
            assert error.detail.isascii()


LAUGHS = (
    '<!DOCTYPE m [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)


@pytest.mark.parametrize(
    "body",
    [
        (LAUGHS + "<methodCall><methodName>&i;</methodName></methodCall>").encode(),
        b'<!DOCTYPE m [<!ENTITY a "'
        + b"a" * 100_000
        + b'">]><methodCall><methodName>'
        + b"&a;" * 100_000
        + b"</methodName></methodCall>",
        b'<!DOCTYPE m SYSTEM "http://127.0.0.1:9/x.dtd"><methodCall><methodName>m</methodName></methodCall>',
        b'<!DOCTYPE m [<!ENTITY % p SYSTEM "file:///dev/zero">%p;]><methodCall><methodName>m</methodName></methodCall>',
        b"<methodCall><methodName>" + b"<![CDATA[" * 100_000 + b"</methodName></methodCall>",
        b"<methodCall>" + b" " * 1_000_000,
        b"<methodCall><methodName>m</methodName>" + b"<params>" * 100_000,
        b"<methodCall><methodName>m</methodName><params><param><value>"
        + b"&#1" * 300_000
        + b"</value></param></params></methodCall>",
        b"<methodCall><methodName>m</methodName><params><param><value><double>"
        + b"1" * 1_000_000
        + b"</double></value></param></params></methodCall>",
        b"<methodCall><methodName>m</methodName><params><param><value><int>"
        + b"1" * 1_000_000
        + b"</int></value></param></params></methodCall>",
    ],
    ids=lambda body: body[:40].decode(),
)
def test_bombs_are_refused(body: bytes) -> None:
    """There are no entities, and no other input grows while it is decoded."""
    with pytest.raises(Rejected) as caught:
        decode_call(body)
    assert caught.value.reason in (Reason.MALFORMED_CALL, Reason.AMBIGUOUS_CALL)


@pytest.mark.parametrize(
    "piece",
    [
        b"<value/>",
        b"<value><int>1</int></value>",
        b"<a>",
        b"<",
        b"<a></a>",
        b"<!--",
        b"<![CDATA[]]>",
        b"&amp;",
        b"&#1;<",
    ],
)
def test_too_many_elements_are_refused_before_anything_is_parsed(piece: bytes) -> None:
    """The bound is checked first, whatever the elements are."""
    body = piece * (600_000 // (piece.count(b"<") + piece.count(b"&")) + 1)
    with pytest.raises(Rejected) as caught:
        decode_call(body)
    assert caught.value.reason is Reason.CALL_TOO_COMPLEX
