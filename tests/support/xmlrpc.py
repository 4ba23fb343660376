"""Shared by the tests of XML-RPC: values, a second reading of calls, and CPython's server."""

import base64
import contextlib
import datetime
import http.client
import threading
import xmlrpc.client
import xmlrpc.server
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
from hypothesis import strategies as st

from proxy.model import DateTime, Value

XML_CHARACTERS = st.characters(
    exclude_categories=["Cs"],
    exclude_characters=[
        *map(chr, [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20)]),
        "\ufffe",
        "\uffff",
    ],
)
TEXTS = st.text(XML_CHARACTERS) | st.sampled_from(
    ["", " ", "\n", "\r\n", "\r", "]]>", "&amp;", "<value>", "<![CDATA[x]]>", "é\U0001f600"]
)
TIMES = st.datetimes(min_value=datetime.datetime(1, 1, 1)).map(
    lambda t: DateTime(f"{t.year:04}{t:%m%dT%H:%M:%S}")
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.binary()
    | TIMES
)
VALUES: st.SearchStrategy[Value] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
METHODS = st.from_regex(r"[A-Za-z0-9_.:/]{1,40}", fullmatch=True)


def typed(value: object) -> object:
    """Return `value` with every type written out.

    Python has ``True == 1 == 1.0`` and ``-0.0 == 0.0``; the wire does not.
    """
    if isinstance(value, dict):
        return ("dict", [(name, typed(item)) for name, item in value.items()])
    if isinstance(value, list):
        return ("list", [typed(item) for item in value])
    return (type(value).__name__, repr(value))


def as_cpython_reads(value: Value) -> object:
    """Return `value` as `typed` shows it after ``xmlrpc.client.loads`` with builtin types."""
    if isinstance(value, DateTime):
        return ("datetime", repr(datetime.datetime.strptime(value.text, "%Y%m%dT%H:%M:%S")))
    if isinstance(value, dict):
        return ("dict", [(name, as_cpython_reads(item)) for name, item in value.items()])
    if isinstance(value, list):
        return ("list", [as_cpython_reads(item) for item in value])
    return typed(value)


def tree_call(body: bytes) -> tuple[str, list[Value]]:
    """Return a call by defusedxml's tree and the plainest walk over it.

    Raises where the tree is no call.
    """
    root = defusedxml.ElementTree.fromstring(body, forbid_dtd=True)
    (name,) = root.findall("methodName")
    assert (
        root.tag == "methodCall"
        and root.findall(".//methodName") == [name]
        and len(root.findall("params")) <= 1
    )
    assert not any(element.attrib for element in root.iter()), "an attribute"
    return name.text or "", [_tree_value(value) for value in root.findall("params/param/value")]


def _tree_value(value: Element) -> Value:
    if len(value) == 0:
        return value.text or ""
    (typed_element,) = value
    kind, text = typed_element.tag, typed_element.text or ""
    if kind == "array":
        return [_tree_value(item) for item in typed_element.findall("data/value")]
    if kind == "struct":
        members = typed_element.findall("member")
        struct = {
            member.findtext("name") or "": _tree_value(member.findall("value")[0])
            for member in members
        }
        assert len(struct) == len(members), "a member twice"
        return struct
    if kind in ("int", "i4", "i8"):
        return int(text)
    if kind == "dateTime.iso8601":
        digits = text.replace("-", "").replace(":", "").replace("T", "")
        return DateTime(f"{digits[:8]}T{digits[8:10]}:{digits[10:12]}:{digits[12:]}")
    readers: dict[str, Value] = {"string": text, "nil": None, "boolean": text == "1"}
    if kind in readers:
        return readers[kind]
    return (
        float(text) if kind == "double" else base64.b64decode("".join(text.split()), validate=True)
    )


@dataclass
class CallLog:
    """The calls that a real server ran, in order."""

    port: int = 0
    calls: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)

    def post(self, body: bytes, **headers: str) -> bytes:
        """Send `body` to the server; clear the calls before."""
        self.calls.clear()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            sent = {"Content-Type": "text/xml"} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            connection.request("POST", "/RPC2", body, sent)
            return connection.getresponse().read()
        finally:
            connection.close()


class _Quiet(xmlrpc.server.SimpleXMLRPCRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def cpython_server() -> Iterator[CallLog]:
    """Yield CPython's SimpleXMLRPCServer in its default configuration.

    Its methods ``view``, ``trigger`` and ``" trigger "`` accept any arguments.
    """
    ran = CallLog()
    with xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), _Quiet, allow_none=True) as server:
        for name in ("view", "trigger", " trigger "):
            server.register_function(lambda *args, name=name: ran.calls.append((name, args)), name)
        server.register_multicall_functions()
        ran.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield ran
        finally:
            server.shutdown()
            thread.join()
