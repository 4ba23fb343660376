import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected, Unavailable
from proxy.model import Reason, Value
from proxy.protocol.xmlrpc.codec import (
    Fault,
    decode_call,
    decode_response,
    encode_call,
    encode_fault,
    encode_response,
    is_method_name,
)
from tests.support.xmlrpc import METHODS, VALUES, as_cpython_reads, tree_call, typed

HEAD = '<?xml version="1.0"?>'


@given(METHODS, st.lists(VALUES, max_size=3))
def test_a_call_survives_encoding_and_decoding(method: str, params: list[Value]) -> None:
    """decode(encode(x)) == x, with exact types, and encoding it again gives the same bytes."""
    body = encode_call(method, params)
    again = decode_call(body)
    assert (again[0], typed(again[1])) == (method, typed(params))
    assert encode_call(*again) == body


@given(METHODS, st.lists(VALUES, max_size=3))
def test_other_parsers_read_our_calls_as_the_same_values(method: str, params: list[Value]) -> None:
    """CPython's client and a plain walk over an XML tree read the same call."""
    body = encode_call(method, params)
    read, name = xmlrpc.client.loads(body, use_builtin_types=True)
    assert name == method
    assert [typed(value) for value in read] == [as_cpython_reads(value) for value in params]
    assert tree_call(body)[0] == method
    assert typed(tree_call(body)[1]) == typed(params)


@given(VALUES)
def test_an_answer_survives_encoding_and_decoding(value: Value) -> None:
    """As for calls; CPython's client reads the same, and lossy encoding changes nothing."""
    body = encode_response(value)
    assert typed(decode_response(body)) == typed(value)
    assert encode_response(value, lossy=True) == body
    (read,), _ = xmlrpc.client.loads(body, use_builtin_types=True)
    assert typed(read) == as_cpython_reads(value)


@pytest.mark.parametrize(
    "odd",
    ["\x00", "\x08", "\x0b", "\x0c", "\x1b", "\x1f", "\ud800", "\udfff", "\ufffe", "\uffff"],
    ids=ascii,
)
def test_characters_that_xml_does_not_have(odd: str) -> None:
    """A call with one is refused; a lossy answer has U+FFFD for each. Names count as texts."""
    values: list[Value] = [f"a{odd}b", {f"a{odd}b": 1}]
    for value in values:
        with pytest.raises(Rejected) as caught:
            encode_call("m", [value])
        assert caught.value.reason is Reason.BAD_ARGUMENTS
        with pytest.raises(Unavailable):
            encode_response(value)
    assert decode_response(encode_response(f"a{odd}{odd}b", lossy=True)) == "a\ufffd\ufffdb"
    assert decode_response(encode_response({f"a{odd}": odd}, lossy=True)) == {"a\ufffd": "\ufffd"}


@pytest.mark.parametrize(
    "name", ["", " m", "m ", "m\n", "a" * 256, "a-b", "é", "a<b", "system.multicall;"], ids=ascii
)
def test_a_method_name_is_of_few_characters(name: str) -> None:
    """1 to 255 letters, digits and ``_ . : /``; all else is refused in both directions."""
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
    """``params`` is optional, and white space between and around elements has no meaning."""
    body = f"\n<methodCall>\n<methodName>a.b:C/d_9</methodName>{params}</methodCall>\n\n".encode()
    assert decode_call(body) == ("a.b:C/d_9", [])
    assert (
        encode_call("a.b:C/d_9", [])
        == f"{HEAD}<methodCall><methodName>a.b:C/d_9</methodName><params></params></methodCall>".encode()
    )


@given(st.integers(-(2**31), 2**31 - 1), st.text())
def test_a_fault_survives_any_text(code: int, text: str) -> None:
    """A fault with any text is encoded, and decoded as a fault."""
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
    """The error says that the call was sent, and that its answer is invalid."""
    with pytest.raises(Unavailable) as caught:
        decode_response(body)
    assert caught.value.reason is Reason.UPSTREAM_INVALID
    assert caught.value.sent


def test_limits_can_be_set_for_each_document() -> None:
    """At the bound a document is decoded; one element or level more is refused."""
    body = encode_call("m", [[1, 2]])
    elements = body.count(b"</") + 1  # the declaration is counted as well
    assert decode_call(body, max_elements=elements, max_depth=1) == ("m", [[1, 2]])
    for bound, depth in ((elements - 1, 1), (elements, 0)):
        with pytest.raises(Rejected) as caught:
            decode_call(body, max_elements=bound, max_depth=depth)
        assert caught.value.reason is Reason.CALL_TOO_COMPLEX
