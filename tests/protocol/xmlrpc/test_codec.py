import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected, Unavailable
from proxy.model import DateTime, Reason, Value
from proxy.protocol.xmlrpc.codec import (
    RESPONSE_HEAD,
    RESPONSE_TAIL,
    Fault,
    decode_call,
    decode_response,
    encode_call,
    encode_fault,
    encode_response,
    is_method_name,
)
from tests.support.xmlrpc import METHODS, TEXTS, VALUES, as_cpython_reads, tree_call, typed

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
    """A call of ``m`` with one value, of which `value` is the inside."""
    return f"{HEAD}<methodCall><methodName>m</methodName><params><param><value>{value}</value></param></params></methodCall>".encode()


@pytest.mark.parametrize(
    ("value", "written", "also"), ROWS, ids=[written[:30] for _, written, _ in ROWS]
)
def test_one_table_holds_what_is_written_and_what_is_read(
    value: Value, written: str, also: tuple[str, ...]
) -> None:
    """Writing gives exactly one form; reading takes it, and every other form that XML and XML-RPC
    have for the same value.
    """
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
    """No guessing: another implementation would read such a text otherwise, or not at all."""
    with pytest.raises(Rejected) as caught:
        decode_call(call_of(inside))
    assert caught.value.reason is Reason.MALFORMED_CALL


@given(METHODS, st.lists(VALUES, max_size=3))
def test_a_call_survives_writing_and_reading(method: str, params: list[Value]) -> None:
    """decode(encode(x)) == x, with exact types, and writing it again gives the same bytes."""
    body = encode_call(method, params)
    again = decode_call(body)
    assert (again[0], typed(again[1])) == (method, typed(params))
    assert encode_call(*again) == body


@given(METHODS, st.lists(VALUES, max_size=3))
def test_other_parsers_read_our_calls_as_the_same_values(method: str, params: list[Value]) -> None:
    """CPython's client and a plain walk over an XML tree see what we meant."""
    body = encode_call(method, params)
    read, name = xmlrpc.client.loads(body, use_builtin_types=True)
    assert name == method
    assert [typed(value) for value in read] == [as_cpython_reads(value) for value in params]
    assert tree_call(body)[0] == method
    assert typed(tree_call(body)[1]) == typed(params)


@given(
    st.lists(TEXTS, max_size=8),
    st.integers(0, 8),
    st.none() | st.integers(0, 1) | st.just("\x1f") | st.just("]]>"),
)
def test_many_texts_are_written_as_each_alone(texts: list[Value], at: int, odd: Value) -> None:
    """Side by side, and with something else among them: an array's items do not depend on each
    other.
    """
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


@given(VALUES)
def test_an_answer_survives_writing_and_reading(value: Value) -> None:
    """As calls, and CPython's client reads the same; without odd characters, lossy writing is the
    same writing.
    """
    body = encode_response(value)
    assert typed(decode_response(body)) == typed(value)
    assert encode_response(value, lossy=True) == body
    (read,), _ = xmlrpc.client.loads(body, use_builtin_types=True)
    assert typed(read) == as_cpython_reads(value)


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
    """A caller's value is the caller's fault, an upstream's the upstream's; neither is rounded or
    dropped.
    """
    with pytest.raises(Rejected) as caught:
        encode_call("m", [{"a": [value]}])
    assert caught.value.reason is Reason.BAD_ARGUMENTS
    with pytest.raises(Unavailable) as invalid:
        encode_response(value, lossy=True)
    assert invalid.value.reason is Reason.UPSTREAM_INVALID
    assert invalid.value.sent


@pytest.mark.parametrize(
    "odd",
    ["\x00", "\x08", "\x0b", "\x0c", "\x1b", "\x1f", "\ud800", "\udfff", "\ufffe", "\uffff"],
    ids=ascii,
)
def test_characters_that_xml_does_not_have(odd: str) -> None:
    """A call with one is refused; an answer that may lose them gets U+FFFD, each for one; names
    count as texts.
    """
    values: list[Value] = [f"a{odd}b", {f"a{odd}b": 1}]
    for value in values:
        with pytest.raises(Rejected) as caught:
            encode_call("m", [value])
        assert caught.value.reason is Reason.BAD_ARGUMENTS
        with pytest.raises(Unavailable):
            encode_response(value)
    assert decode_response(encode_response(f"a{odd}{odd}b", lossy=True)) == "a\ufffd\ufffdb"
    assert decode_response(encode_response({f"a{odd}": odd}, lossy=True)) == {"a\ufffd": "\ufffd"}


def test_a_value_may_nest_as_deep_when_written_as_when_read() -> None:
    """64 arrays and structs within each other; the 65th is refused both ways, so that what we write
    can be read.
    """
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


@pytest.mark.parametrize(
    "name", ["", " m", "m ", "m\n", "a" * 256, "a-b", "é", "a<b", "system.multicall;"], ids=ascii
)
def test_a_method_name_is_of_few_characters(name: str) -> None:
    """1 to 255 of letters, digits and ``_ . : /``: everything else is refused, read or written."""
    assert not is_method_name(name)
    with pytest.raises(ValueError, match="not a method name"):
        encode_call(name, [])
    with pytest.raises(Rejected) as caught:
        decode_call(f"<methodCall><methodName>{name}</methodName></methodCall>".encode())
    assert caught.value.reason is Reason.MALFORMED_CALL


@pytest.mark.parametrize(
    "params", ["", "<params/>", "<params></params>", "\n<params >\n</params >\n"]
)
def test_a_call_without_arguments_can_be_spelt_in_several_ways(params: str) -> None:
    """``params`` is optional; blanks between elements mean nothing, before and after the document
    too.
    """
    body = f"\n<methodCall>\n<methodName>a.b:C/d_9</methodName>{params}</methodCall>\n\n".encode()
    assert decode_call(body) == ("a.b:C/d_9", [])
    assert (
        encode_call("a.b:C/d_9", [])
        == f"{HEAD}<methodCall><methodName>a.b:C/d_9</methodName><params></params></methodCall>".encode()
    )


@pytest.mark.interpreted
def test_tuples_are_written_as_arrays() -> None:
    """Python code that makes answers may use either."""
    assert encode_response((1, "a")) == encode_response([1, "a"])  # type: ignore[arg-type]  # Value has no tuples; the writer takes them


@given(st.integers(-(2**31), 2**31 - 1), st.text())
def test_a_fault_survives_whatever_its_text(code: int, text: str) -> None:
    """Faults carry texts of others; they are always written, and read again as a fault."""
    body = encode_fault(code, text)
    fault = decode_response(body)
    assert isinstance(fault, Fault)
    assert (fault.code, len(fault.text)) == (code, len(text))
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(body)
    assert (caught.value.faultCode, caught.value.faultString) == (code, fault.text)


FAULT = "<value><struct><member><name>faultCode</name><value><int>4</int></value></member>{}</struct></value>"
STRING = "<member><name>faultString</name><value>Too many parameters.</value></member>"


def test_the_fault_of_the_specification() -> None:
    """The example of xmlrpc.com, its white space included."""
    inside = "\n" + FAULT.format(STRING) + "\n"
    assert decode_response(
        f"<methodResponse><fault>{inside}</fault></methodResponse>".encode()
    ) == Fault(4, "Too many parameters.")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>It works!</body></html>",
        b"<!DOCTYPE html><html></html>",
        b"<methodResponse></methodResponse>",
        b"<methodResponse><params></params></methodResponse>",
        b"<methodResponse><params/></methodResponse>",
        b"<methodResponse><params><param><value>1</value></param><param><value>2</value></param></params></methodResponse>",
        b"<methodResponse><params><param><value>1</value></param></params></methodResponse><methodResponse/>",
        b"<methodResponse><params><param><value>1</value></param></params><params></params></methodResponse>",
        b"<methodResponse><fault></fault></methodResponse>",
        b"<methodResponse><fault><value>x</value></fault></methodResponse>",
        b"<methodResponse><fault><value>x</value><value>y</value></fault></methodResponse>",
        f"<methodResponse><fault>{FAULT.format('')}</fault></methodResponse>".encode(),
        f"<methodResponse><fault>{FAULT.format(STRING.replace('Too many parameters.', '<int>1</int>'))}</fault></methodResponse>".encode(),
        f"<methodResponse><fault>{FAULT.format(STRING)}</fault><params/></methodResponse>".encode(),
        encode_call("m", [1]),
        encode_response("x" * 100)[:-20],
    ],
    ids=lambda body: body[:60].decode(),
)
def test_an_answer_that_is_none_is_the_upstreams_fault(body: bytes) -> None:
    """Such an answer means that the call was sent and what became of it is not known: the error
    says both.
    """
    with pytest.raises(Unavailable) as caught:
        decode_response(body)
    assert caught.value.reason is Reason.UPSTREAM_INVALID
    assert caught.value.sent


def test_limits_can_be_set_for_each_document() -> None:
    """The bounds are arguments: at the bound a document is read, one element or level beyond it is
    refused.
    """
    body = encode_call("m", [[1, 2]])
    elements = body.count(b"</") + 1  # the declaration is counted as well
    assert decode_call(body, max_elements=elements, max_depth=1) == ("m", [[1, 2]])
    for bound, depth in ((elements - 1, 1), (elements, 0)):
        with pytest.raises(Rejected) as caught:
            decode_call(body, max_elements=bound, max_depth=depth)
        assert caught.value.reason is Reason.CALL_TOO_COMPLEX
