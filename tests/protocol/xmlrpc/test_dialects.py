"""Documents in the dialects of clients that are not run here, written from their sources."""

import pytest

from proxy.errors import Rejected
from proxy.model import DateTime, Reason, Value
from proxy.protocol.xmlrpc.call_templates import TemplateCache
from proxy.protocol.xmlrpc.codec import decode_call
from tests.support.xmlrpc import tree_call

ACCEPTED: dict[str, tuple[bytes, tuple[str, list[Value]]]] = {
    # github.com/kolo/xmlrpc: encoder.go, request.go
    "Go, kolo/xmlrpc": (
        b'<?xml version="1.0" encoding="UTF-8"?><methodCall><methodName>m</methodName><params>'
        b"<param><value><string>a &lt;b&gt; &#34;c&#34;</string></value></param>"
        b"<param><value><int>7</int></value></param>"
        b"<param><value><double>1.5</double></value></param>"
        b"<param><value><dateTime.iso8601>20240229T23:59:59</dateTime.iso8601></value></param>"
        b"</params></methodCall>",
        ("m", ['a <b> "c"', 7, 1.5, DateTime("20240229T23:59:59")]),
    ),
    # xmlrpc-c 1.33: src/xmlrpc_serialize.c
    "C, xmlrpc-c": (
        b'<?xml version="1.0" encoding="UTF-8"?>\r\n<methodCall>\r\n'
        b"<methodName>m</methodName>\r\n<params>\r\n"
        b"<param><value><i4>7</i4></value></param>\r\n"
        b"<param><value><array><data>\r\n<value><string>a&#x0d;\r\nb</string></value>\r\n"
        b"</data></array></value></param>\r\n"
        b"<param><value><base64>\r\nYWJj\r\n</base64></value></param>\r\n"
        b"<param><value><nil/></value></param>\r\n</params>\r\n</methodCall>\r\n",
        ("m", [7, ["a\r\nb"], b"abc", None]),
    ),
    # tcl-xmlrpc 0.3: xmlrpc.tcl
    "Tcl, xmlrpc": (
        b'<?xml version="1.0"?>\n<methodCall>\n\t<methodName>m</methodName>\n\t<params>\n'
        b"\t\t<param>\n\t\t\t<value><string>a</string></value>\n\t\t</param>\n"
        b"\t</params>\n</methodCall>\n",
        ("m", ["a"]),
    ),
    # libxmlrpcpp (ROS): XmlRpcClient.cpp, XmlRpcValue.cpp
    "C++, XmlRpc++": (
        b'<?xml version="1.0"?>\r\n<methodCall><methodName>m</methodName>\r\n<params>'
        b"<param><value>/node</value></param><param><value><boolean>1</boolean></value></param>"
        b"<param><value><double>1.50000000000000000e+00</double></value></param>"
        b"</params></methodCall>\r\n",
        ("m", ["/node", True, 1.5]),
    ),
    # CookComputing.XmlRpc 3.0: a byte order mark, indented, <params /> for no argument
    ".NET, XML-RPC.NET": (
        b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>\r\n<methodCall>\r\n'
        b"  <methodName>m</methodName>\r\n  <params />\r\n</methodCall>",
        ("m", []),
    ),
    # Apache ws-xmlrpc 3.1 without enabledForExtensions
    "Java, Apache": (
        b'<?xml version="1.0" encoding="UTF-8"?><methodCall><methodName>m</methodName><params>'
        b"<param><value>a</value></param><param><value><i4>7</i4></value></param>"
        b"</params></methodCall>",
        ("m", ["a", 7]),
    ),
    # Swift and others that were written after PHP's documentation
    "PHP, xmlrpc_encode_request": (
        b'<?xml version="1.0" encoding="iso-8859-1"?>\n<methodCall>\n<methodName>m</methodName>\n'
        b"<params>\n <param>\n  <value>\n   <string>a &#233;</string>\n  </value>\n </param>\n"
        b" <param>\n  <value>\n   <double>1.5</double>\n  </value>\n </param>\n"
        b"</params>\n</methodCall>\n",
        ("m", ["a é", 1.5]),
    ),
    "Emacs, xml-rpc.el": (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<methodCall><methodName>m</methodName>\n'
        b"<params>\n<param><value><struct><member><name>a</name><value><string/></value></member>"
        b"</struct></value></param></params></methodCall>",
        ("m", [{"a": ""}]),
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_dialect_is_read(name: str) -> None:
    """Once by the strict reader and once by the template that it left, and as defusedxml does."""
    body, call = ACCEPTED[name]
    templates = TemplateCache()
    assert decode_call(body, templates) == decode_call(body, templates) == call
    assert tree_call(body) == call


def value(inside: str) -> bytes:
    """Return a call with one value."""
    return (
        "<?xml version='1.0'?><methodCall><methodName>m</methodName><params><param><value>"
        f"{inside}</value></param></params></methodCall>"
    ).encode()


@pytest.mark.parametrize(
    "body",
    [
        # Apache's extensions: types that other parsers do not know, in a namespace.
        value("<ex:nil/>").replace(
            b"<methodCall>",
            b'<methodCall xmlns:ex="http://ws.apache.org/xmlrpc/namespaces/extensions">',
        ),
        value("<ex:i8>1</ex:i8>"),
        # libxmlrpc-epi reads the word as 0 (atoi), others as 1.
        value("<boolean>true</boolean>"),
        # A zone that some parsers drop.
        value("<dateTime.iso8601>2024-02-29T23:59:59Z</dateTime.iso8601>"),
        value("<double>1,5</double>"),
        value("<double>NaN</double>"),
        b"<!DOCTYPE methodCall>" + value("a"),
        value("a<?php ?>"),
        value("a<!-- b -->c"),
    ],
)
def test_what_parsers_read_differently_is_refused(body: bytes) -> None:
    """Each is a value to one parser, and another value or an error to the next."""
    with pytest.raises(Rejected) as caught:
        decode_call(body)
    assert caught.value.reason is Reason.MALFORMED_CALL
