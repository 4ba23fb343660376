import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected, Unavailable
from proxy.model import DateTime, Reason, Value
from proxy.protocol.xmlrpc.codec import (
    RESPONSE_HEAD,
    RESPONSE_TAIL,
    decode_call,
    decode_response,
    encode_call,
    encode_response,
)
from tests.support.xmlrpc import TEXTS, tree_call, typed

# What we write for a value, and with it what else is read as the same value.
ROWS: list[tuple[Value, str, tuple[str, ...]]] = [
    (
        0,
        "<int>0</int>",
        (
            "<i4>0</i4>",
            "<i8>0</i8>",
            "<int>-0</int>",
            "<int>+000</int>",
            "<int >0</int\n>",
            "\n <int>0</int>\t",
        ),
    ),
    (-(2**31), "<int>-2147483648</int>", ("<i4>-2147483648</i4>", "<i8>-2147483648</i8>")),
    (2**31, "<i8>2147483648</i8>", ("<i8>+2147483648</i8>",)),
    (2**63 - 1, "<i8>9223372036854775807</i8>", ()),
    (True, "<boolean>1</boolean>", ("<boolean>&#49;</boolean>",)),
    (False, "<boolean>0</boolean>", ("<boolean><![CDATA[0]]></boolean>",)),
    (None, "<nil/>", ("<nil></nil>", "<nil />", "<nil><![CDATA[]]></nil>")),
    (
        0.5,
        "<double>0.5</double>",
        ("<double>.5</double>", "<double>5e-1</double>", "<double>+0.500</double>"),
    ),
    (-0.0, "<double>-0.0</double>", ("<double>-0</double>",)),
    (
        3.0,
        "<double>3.0</double>",
        ("<double>3</double>", "<double>3.</double>", "<double>3E0</double>"),
    ),
    (1e22, "<double>10000000000000000000000.0</double>", ("<double>1e22</double>",)),
    (1e-7, "<double>0.0000001</double>", ("<double>1E-07</double>",)),
    ("", "<string></string>", ("<string/>", "", "<string />", "<![CDATA[]]>")),
    (
        " a ",
        "<string> a </string>",
        (" a ", "<string>&#32;a&#x20;</string>", "<![CDATA[ a ]]>", " <![CDATA[a]]> "),
    ),
    (
        "<&>",
        "<string>&lt;&amp;&gt;</string>",
        ("<string>&#60;&#038;&#x3e;</string>", "<![CDATA[<&>]]>", "&lt;<![CDATA[&]]>>"),
    ),
    ("a\rb", "<string>a&#13;b</string>", ("<string>a&#xD;b</string>",)),
    ("a\nb", "<string>a\nb</string>", ("<string>a\r\nb</string>", "a\rb", "<![CDATA[a\r\nb]]>")),
    (
        "]]>",
        "<string>]]&gt;</string>",
        ("]]<![CDATA[>]]>", "]<![CDATA[]]]>&gt;", "]&#93;>", "<![CDATA[]]]]>&gt;"),
    ),
    ("'\"", "<string>'\"</string>", ("&apos;&quot;",)),
    ("é\U0001f600", "<string>é\U0001f600</string>", ("&#233;&#x1F600;",)),
    (
        DateTime("20240229T23:59:59"),
        "<dateTime.iso8601>20240229T23:59:59</dateTime.iso8601>",
        (
            "<dateTime.iso8601>2024-02-29T23:59:59</dateTime.iso8601>",
            "<dateTime.iso8601>20240229T235959</dateTime.iso8601>",
        ),
    ),
    (b"", "<base64></base64>", ("<base64/>", "<base64>\n</base64>")),
    (
        b"\x00\xffcallgate",
        "<base64>AP9jYWxsZ2F0ZQ==</base64>",
        ("<base64>\n AP9j\r\nYWxs Z2F0\tZQ= =\n</base64>",),
    ),
    (
        [],
        "<array><data></data></array>",
        ("<array><data/></array>", "\n<array >\n<data />\n</array>\n"),
    ),
    (
        [1, ["a"]],
        "<array><data><value><int>1</int></value><value><array><data><value><string>a</string></value></data></array></value></data></array>",
        (
            "<array><data>\n<value><i4>1</i4></value> <value> <array> <data> <value>a</value> </data> </array> </value>\n</data></array>",
        ),
    ),
    ({}, "<struct></struct>", ("<struct/>", "<struct>\n</struct>")),
    (
        {"a": 1, "": {}},
        "<struct><member><name>a</name><value><int>1</int></value></member>"
        "<member><name></name><value><struct></struct></value></member></struct>",
        (
            "<struct> <member> <name>&#97;</name> <value><int>1</int></value> </member>"
            " <member><name/><value><struct/></value></member> </struct>",
        ),
    ),
]


HEAD = '<?xml version="1.0"?>'


def call_of(value: str) -> bytes:
    """Return a call of ``m`` with one value, whose content is `value`."""
    return f"{HEAD}<methodCall><methodName>m</methodName><params><param><value>{value}</value></param></params></methodCall>".encode()


@pytest.mark.parametrize(
    ("value", "written", "also"), ROWS, ids=[written[:30] for _, written, _ in ROWS]
)
def test_each_value_has_one_encoding_and_all_its_spellings_decode(
    value: Value, written: str, also: tuple[str, ...]
) -> None:
    """Encoding gives exactly one form; decoding accepts it and every other form of the value."""
    assert encode_call("m", [value]) == call_of(written)
    for form in (written, *also):
        method, params = decode_call(call_of(form))
        assert (method, typed(params)) == ("m", typed([value])), form
        assert typed(tree_call(call_of(form))[1]) == typed([value]), (
            f"another parser reads {form} otherwise"
        )
    assert (
        encode_response(value)
        == f"{HEAD}<methodResponse><params><param><value>{written}</value></param></params></methodResponse>".encode()
    )
    assert typed(decode_response(encode_response(value))) == typed(value)


REFUSED_SCALARS = [
    *(
        "<int></int>",
        "<int/>",
        "<int> 1</int>",
        "<int>1 </int>",
        "<int>1_0</int>",
        "<int>0x1</int>",
        "<int>1.0</int>",
        "<int>١</int>",
    ),
    *(
        "<int>2147483648</int>",
        "<i4>-2147483649</i4>",
        "<i8>9223372036854775808</i8>",
        "<i8>" + "9" * 5000 + "</i8>",
        "<int>--1</int>",
    ),
    *(
        "<boolean>true</boolean>",
        "<boolean></boolean>",
        "<boolean>01</boolean>",
        "<boolean>2</boolean>",
        "<boolean/>",
    ),
    *(
        "<double>inf</double>",
        "<double>nan</double>",
        "<double>1e999</double>",
        "<double></double>",
        "<double>.</double>",
        "<double>1,5</double>",
    ),
    *(
        "<double>1_0.0</double>",
        "<double>0x1p3</double>",
        "<double>0." + "1" * 2000 + "</double>",
        "<double>1e</double>",
        "<double>e1</double>",
    ),
    *(
        "<nil> </nil>",
        "<nil>x</nil>",
        "<i16>1</i16>",
        "<float>1</float>",
        "<String>a</String>",
        "<INT>1</INT>",
        "<ex:nil/>",
    ),
    *(
        f"<dateTime.iso8601>{text}</dateTime.iso8601>"
        for text in (
            *(
                "",
                "20230229T00:00:00",
                "20240101T24:00:00",
                "20240101T00:00:60",
                "00000101T00:00:00",
                "20240101T00:00:00Z",
                "20240101",
            ),
            *(
                "2024-01-01T000000",
                "20240101T00:0000",
                "20240101T0000:00",
                "2024-0101T00:00:00",
                "20240101T00:00:00+01:00",
                "20240101 00:00:00",
            ),
            *(
                "20240101T00:00:00.5",
                " 20240101T00:00:00",
                "٢٠٢٤0101T00:00:00",
                "20240101t00:00:00",
            ),
        )
    ),
    *(
        f"<base64>{text}</base64>"
        for text in (
            "A",
            "AA",
            "AA=",
            "AAAA=",
            "=AAA",
            "AA==AA==",
            "A-_A",
            "AB==",
            "AA==x",
            "é",
            "A\u00a0AAA",
            "====",
        )
    ),
]


@pytest.mark.parametrize("inside", REFUSED_SCALARS, ids=lambda inside: inside[:40])
def test_a_scalar_is_of_its_type_or_refused(inside: str) -> None:
    """Other implementations would read such a text in another way, or not at all."""
    with pytest.raises(Rejected) as caught:
        decode_call(call_of(inside))
    assert caught.value.reason is Reason.MALFORMED_CALL


@given(
    st.lists(TEXTS, max_size=8),
    st.integers(0, 8),
    st.none() | st.integers(0, 1) | st.just("\x1f") | st.just("]]>"),
)
def test_many_texts_are_encoded_as_each_alone(texts: list[Value], at: int, odd: Value) -> None:
    """The items of an array do not depend on each other, with others among them too."""
    for items in (texts, [*texts[:at], odd, *texts[at:]]):
        alone = b"".join(
            [
                encode_response(item, lossy=True)[len(RESPONSE_HEAD) : -len(RESPONSE_TAIL)]
                for item in items
            ]
        )
        array = (
            f"{RESPONSE_HEAD}<value><array><data>".encode()
            + alone
            + f"</data></array></value>{RESPONSE_TAIL}".encode()
        )
        assert encode_response(items, lossy=True) == array


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        float("inf"),
        float("-inf"),
        float("nan"),
        DateTime("2024"),
        DateTime("20240230T00:00:00"),
        {1, 2},
        1j,
    ],
    ids=repr,
)
def test_what_xmlrpc_cannot_carry_is_refused_in_calls_and_answers(value: Value) -> None:
    """A caller's value is the caller's error, an upstream's the upstream's; nothing is rounded."""
    with pytest.raises(Rejected) as caught:
        encode_call("m", [{"a": [value]}])
    assert caught.value.reason is Reason.BAD_ARGUMENTS
    with pytest.raises(Unavailable) as invalid:
        encode_response(value, lossy=True)
    assert invalid.value.reason is Reason.UPSTREAM_INVALID
    assert invalid.value.sent


def test_depth_is_bounded_alike_in_both_directions() -> None:
    """64 arrays and structs within each other; the 65th is refused in both directions."""
    deep: Value = "x"
    for level in range(64):
        deep = [deep] if level % 2 else {"a": deep}
    assert decode_call(encode_call("m", [deep])) == ("m", [deep])
    with pytest.raises(Rejected) as caught:
        encode_call("m", [[deep]])
    assert caught.value.reason is Reason.BAD_ARGUMENTS
    wrapped = encode_call("m", [deep]).replace(
        b"<param><value>", b"<param><value><array><data><value>"
    )
    with pytest.raises(Rejected) as too_deep:
        decode_call(
            wrapped.replace(b"</value></param>", b"</value></data></array></value></param>")
        )
    assert too_deep.value.reason is Reason.CALL_TOO_COMPLEX


@pytest.mark.interpreted
def test_tuples_are_encoded_as_arrays() -> None:
    """Python code that makes answers may use either."""
    assert encode_response((1, "a")) == encode_response([1, "a"])  # type: ignore[arg-type]  # Value has no tuples; the writer takes them
