"""Traps between two XML-RPC parsers, through a real gate: what the upstream ran, what the caller
was told, what was recorded.

Each row is first sent to CPython's own server directly, where it fools a filter that reads the name
another way.
"""

import gzip
import re
import shutil
import threading
import xml.dom.minidom
import xml.etree.ElementTree as ET
import xmlrpc.client
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest

from proxy.model import DateTime
from proxy.protocol.xmlrpc.codec import encode_call
from tests.support.stack import Gate, only
from tests.support.stage import POLICIES, Response, free_port

XML = "text/xml"
CATALOG = """
name = "traps"
protocol = "xmlrpc"
allow_extra = false
[methods.look]
permission = "view"
no_cache = true
help = "Look at a workflow."
arguments = [{ name = "dag", type = "any" }, { name = "more", type = "any" }]
[methods.echo]
permission = "view"
no_cache = true
help = "Say the same."
arguments = [{ name = "value", type = "any", required = true, nullable = true }]
[methods.big]
permission = "view"
no_cache = true
help = "Say much."
arguments = [{ name = "size", type = "integer", required = true }]
[methods.launch]
permission = "trigger"
help = "Start a workflow."
arguments = [{ name = "dag", type = "any" }]
"""


class Handler(SimpleXMLRPCRequestHandler):
    """CPython's handler, which keeps the documents it was sent."""

    rpc_paths = ("/", "/RPC2")
    protocol_version = "HTTP/1.1"

    def decode_request_content(self, data: bytes) -> bytes | None:
        """Note the document as CPython will read it."""
        body: bytes | None = super().decode_request_content(data)
        assert isinstance(self.server, Upstream)
        self.server.documents.append(body or b"")
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Upstream(SimpleXMLRPCServer):
    """CPython's own server, which notes what it ran."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler, logRequests=False, allow_none=True)
        self.ran: list[tuple[str, tuple[Any, ...]]] = []
        self.documents: list[bytes] = []
        self.register_multicall_functions()
        self.register_function(lambda *args: "seen", "look")
        self.register_function(lambda *args: "started", "launch")
        self.register_function(lambda value: value, "echo")
        self.register_function(lambda size: "0123456789" * (size // 10), "big")
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve each client in a thread of its own: the gate keeps its connections open."""
        threading.Thread(target=self._serve, args=(request, client_address), daemon=True).start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has left
        finally:
            self.shutdown_request(request)

    def _dispatch(self, method: str, params: Any) -> Any:
        self.ran.append((method, tuple(params)))
        return super()._dispatch(method, params)

    def forget(self) -> None:
        """Begin a new page."""
        self.ran.clear()
        self.documents.clear()

    def end(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """One server for all tests here."""
    running = Upstream()
    yield running
    running.end()


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped policies, and the catalog above."""
    directory = tmp_path_factory.mktemp("traps") / "policies"
    shutil.copytree(POLICIES, directory)
    (directory / "catalogs" / "traps.toml").write_text(CATALOG, encoding="utf-8")
    return directory


def behind(port: int, prefix: str = "/", name: str = "traps") -> dict[str, object]:
    """An upstream of the settings."""
    return {
        "name": name,
        "protocol": "xmlrpc",
        "catalog": "traps",
        "url": f"http://127.0.0.1:{port}",
        "path_prefix": prefix,
    }


@pytest.fixture(scope="module")
def gate(
    upstream: Upstream, policies: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gate]:
    """A gate before `upstream`."""
    running = Gate(
        tmp_path_factory.mktemp("gate"), [behind(upstream.port)], policies=policies, tls=False
    ).start()
    yield running
    assert running.stop() == 0


# -- filters that read the name in another way than the server


def tree(body: bytes) -> str | None:
    """The first methodName by an element tree."""
    return ET.fromstring(body).findtext("methodName")


def stripped(body: bytes) -> str | None:
    """The same, made tidy."""
    return (tree(body) or "").strip()


def dom(body: bytes) -> str | None:
    """The first text in the first methodName by a DOM."""
    node = xml.dom.minidom.parseString(body).getElementsByTagName("methodName")[0].firstChild
    return node.nodeValue if node is not None else None


def pattern(body: bytes) -> str | None:
    """The first thing that looks like a name, as a rule of HAProxy or Lua would find it."""
    found = re.search(rb"<methodName>([^<]*)", body)
    return found[1].decode("latin-1") if found else None


def call(
    name: str, params: str = "<params/>", *, root: str = "methodCall", head: str = ""
) -> bytes:
    """A document with everything as it stands."""
    return f"{head}<{root}><methodName>{name}</methodName>{params}</{root}>".encode()


def param(*values: str) -> str:
    """One param, with one value as it should be."""
    return "<param>" + "".join(f"<value>{value}</value>" for value in values) + "</param>"


def member(name: str, value: str) -> str:
    """One member of a struct."""
    return f"<member><name>{name}</name><value>{value}</value></member>"


def batch(*entries: str) -> bytes:
    """A system.multicall of structs."""
    values = "".join(f"<value><struct>{entry}</struct></value>" for entry in entries)
    return call(
        "system.multicall", f"<params>{param(f'<array><data>{values}</data></array>')}</params>"
    )


NO_PARAMS = member("params", "<array><data/></array>")
LOOK, LAUNCH = member("methodName", "look") + NO_PARAMS, member("methodName", "launch") + NO_PARAMS
MALFORMED, AMBIGUOUS = (-32700, "malformed-call"), (-32600, "ambiguous-call")
DENIED, COMPLEX = (403, "no-policy-allows"), (-32600, "call-too-complex")


@dataclass(frozen=True)
class Trap:
    """A document, how a filter reads it, what CPython's server then runs, and how the gate refuses
    it to a viewer.

    `fault` is the code and the reason, for the whole call or (in a multicall) for each inner call,
    None where that passes.
    """

    name: str
    body: bytes
    filter: Callable[[bytes], str | None]
    reads: str | None
    runs: tuple[str, ...]
    fault: tuple[int, str] | tuple[tuple[int, str] | None, ...]
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = XML
    passes: tuple[str, ...] = ()


A = "http://example.org/a"
TRAPS = [
    Trap("two names", b"<methodCall><methodName>look</methodName><methodName>launch</methodName><params/></methodCall>",
         tree, "look", ("launch",), AMBIGUOUS),
    Trap("a name inside a value", call("look", f"<params>{param('<methodName>launch</methodName>')}</params>"),
         tree, "look", ("launch",), AMBIGUOUS),
    Trap("a name inside a string", call("look", f"<params>{param('<string><methodName>launch</methodName></string>')}</params>"),
         tree, "look", ("launch",), AMBIGUOUS),
    Trap("a name after the params", b"<methodCall><methodName>look</methodName><params/><methodName>launch</methodName></methodCall>",
         tree, "look", ("launch",), AMBIGUOUS),
    Trap("prefixed names", f'<a:methodCall xmlns:a="{A}"><a:methodName>launch</a:methodName><a:params/></a:methodCall>'.encode(),
         tree, None, ("launch",), MALFORMED),
    Trap("a default namespace", f'<methodCall xmlns="{A}"><methodName>launch</methodName><params/></methodCall>'.encode(),
         tree, None, ("launch",), MALFORMED),
    Trap("another root", call("launch", root="anything"), tree, "launch", ("launch",), MALFORMED),
    Trap("an answer as a call", call("launch", root="methodResponse"), tree, "launch", ("launch",), AMBIGUOUS),
    Trap("a comment in the name", call("lau<!-- -->nch"), dom, "lau", ("launch",), MALFORMED),
    Trap("a processing instruction in the name", call("lau<?x?>nch"), dom, "lau", ("launch",), MALFORMED),
    Trap("blanks around the name", call(" launch\n"), stripped, "launch", (" launch\n",), MALFORMED),
    Trap("a batch", batch(LOOK, LAUNCH), tree, "system.multicall", ("system.multicall", "look", "launch"),
         (None, DENIED), passes=("look",)),
    Trap("a batch entry with two names", batch(member("methodName", "look") + LAUNCH), tree, "system.multicall",
         ("system.multicall", "launch"), AMBIGUOUS),
    Trap("a batch in a batch",
         batch(LOOK, member("methodName", "system.multicall") + member("params", "<array><data><value><array><data>"
               f"<value><struct>{LAUNCH}</struct></value></data></array></value></data></array>")),
         tree, "system.multicall", ("system.multicall", "look", "system.multicall", "launch"), (None, COMPLEX), passes=("look",)),
    Trap("an entity as the name", call("&x;", head='<!DOCTYPE methodCall [<!ENTITY x "launch">]>'), pattern, "&x;", ("launch",), MALFORMED),
    Trap("a DOCTYPE", call("launch", head='<!DOCTYPE x SYSTEM "http://127.0.0.1:1/">'), tree, "launch", ("launch",), MALFORMED),
    Trap("character references", call("&#108;aunc&#x68;"), pattern, "&#108;aunc&#x68;", ("launch",), DENIED),
    Trap("CDATA", call("<![CDATA[launch]]>"), pattern, "", ("launch",), DENIED),
    Trap("CDATA in part", call("lau<![CDATA[nch]]>"), pattern, "lau", ("launch",), DENIED),
    Trap("UTF-16", call("launch", head='<?xml version="1.0" encoding="utf-16"?>').decode().encode("utf-16"),
         pattern, None, ("launch",), MALFORMED),
    Trap("UTF-16 without a declaration", call("launch").decode().encode("utf-16"), pattern, None, ("launch",), MALFORMED),
    Trap("Latin-1", call("launch", head='<?xml version="1.0" encoding="iso-8859-1"?>'), pattern, "launch", ("launch",), DENIED),
    Trap("a gzip body", gzip.compress(call("launch")), pattern, None, ("launch",), DENIED, {"Content-Encoding": "gzip"}),
    Trap("text/plain", call("launch"), pattern, "launch", ("launch",), MALFORMED, kind="text/plain"),
    Trap("a form", call("launch"), pattern, "launch", ("launch",), MALFORMED, kind="application/x-www-form-urlencoded"),
    Trap("two calls", call("look") + call("launch"), pattern, "look", (), AMBIGUOUS),
    Trap("an attribute", b'<methodCall><methodName x="look">launch</methodName><params/></methodCall>',
         tree, "launch", ("launch",), MALFORMED),
]  # fmt: skip


def sent_directly(upstream: Upstream, trap: Trap) -> tuple[str, ...]:
    """What the server runs when nobody stands before it."""
    upstream.forget()
    connection = HTTPConnection("127.0.0.1", upstream.port, timeout=10)
    try:
        connection.request("POST", "/RPC2", trap.body, {"Content-Type": trap.kind, **trap.headers})
        connection.getresponse().read()
        return tuple(name for name, _ in upstream.ran)
    finally:
        connection.close()
        upstream.forget()


def fault_of(response: Response) -> xmlrpc.client.Fault:
    """The fault that CPython's client finds in an answer."""
    assert (response.status, response.headers["content-type"]) == (200, XML)
    with pytest.raises(xmlrpc.client.Fault) as raised:
        xmlrpc.client.loads(response.body)
    return raised.value


def value_of(response: Response) -> Any:
    """The value that CPython's client finds in an answer."""
    assert (response.status, response.headers["content-type"]) == (200, XML)
    values: Any = xmlrpc.client.loads(response.body)[0]
    [value] = values
    return value


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_every_trap_fools_the_server_and_not_the_gate(
    upstream: Upstream, gate: Gate, trap: Trap
) -> None:
    """Directly the server runs what the filter did not read; through the gate a viewer runs nothing
    but views, and it is recorded.
    """
    try:
        assert trap.filter(trap.body) == trap.reads
    except (ET.ParseError, UnicodeDecodeError) as error:
        assert trap.reads is None, error
    assert sent_directly(upstream, trap) == trap.runs
    since = gate.mark()
    answer = gate.ask(
        "/RPC2",
        "viewer",
        trap.body,
        kind=trap.kind,
        **{k.replace("-", "_"): v for k, v in trap.headers.items()},
    )
    assert tuple(name for name, _ in upstream.ran) == trap.passes
    assert upstream.documents == [encode_call(name, []) for name in trap.passes], (
        "the gate's own encoding, whatever was sent"
    )
    records = gate.calls(since)
    if isinstance(trap.fault[0], int):
        code, reason = trap.fault
        fault = fault_of(answer)
        assert fault.faultCode == code
        assert f"[{reason}, ref " in fault.faultString
        record = only(records)
        assert (record["reason"], record["id"]) == (reason, fault.faultString[-17:-1])
        assert record["stage"] == ("decided" if reason == "no-policy-allows" else "rejected")
        assert record["principal"]["subject"] == "viewer-1"
        return
    results = value_of(answer)
    assert [None if isinstance(r, list) else r["faultCode"] for r in results] == [
        f and f[0] for f in trap.fault
    ]
    for result, inner in zip(results, trap.fault, strict=True):
        if isinstance(inner, tuple):
            assert f"[{inner[1]}, ref " in result["faultString"]
            assert sum(r["reason"] == inner[1] for r in records if r["stage"] != "completed") == 1


@pytest.mark.parametrize(
    ("params", "naive", "runs"),
    [
        (
            f"<params>{param('<string>dev</string>')}</params><value>prod</value>",
            1,
            ("dev", "prod"),
        ),
        (
            f"<params>{param('<string>dev</string>')}</params><params>{param('<string>prod</string>')}</params>",
            2,
            ("dev", "prod"),
        ),
        (
            f"<params>{param('<string>dev</string>', '<string>prod</string>')}</params>",
            1,
            ("dev", "prod"),
        ),
    ],
    ids=["a value outside", "two params", "two values"],
)
def test_arguments_that_a_filter_does_not_count(
    upstream: Upstream, gate: Gate, params: str, naive: int, runs: tuple[str, ...]
) -> None:
    """The server counts one argument more than there are `param`; the gate refuses what can be
    counted in two ways.
    """
    body = call("look", params)
    assert len(ET.fromstring(body).findall("params/param")) == naive
    upstream.forget()
    connection = HTTPConnection("127.0.0.1", upstream.port, timeout=10)
    connection.request("POST", "/RPC2", body, {"Content-Type": XML})
    connection.getresponse().read()
    connection.close()
    assert upstream.ran == [("look", runs)]
    upstream.forget()
    fault = fault_of(gate.ask("/RPC2", "admin", body, kind=XML))
    assert "[ambiguous-call, ref " in fault.faultString
    assert upstream.ran == []


def test_a_member_twice(upstream: Upstream, gate: Gate) -> None:
    """A policy that reads the first `dag` would allow dev where the server starts prod: even an
    admin's such call is refused.
    """
    body = call(
        "launch",
        f"<params>{param('<struct>' + member('dag', 'dev') + member('dag', 'prod') + '</struct>')}</params>",
    )
    assert [v.text for v in ET.fromstring(body).iter("value")][1] == "dev"
    upstream.forget()
    connection = HTTPConnection("127.0.0.1", upstream.port, timeout=10)
    connection.request("POST", "/RPC2", body, {"Content-Type": XML})
    connection.getresponse().read()
    connection.close()
    assert upstream.ran == [("launch", ({"dag": "prod"},))]
    upstream.forget()
    since = gate.mark()
    assert fault_of(gate.ask("/RPC2", "admin", body, kind=XML)).faultCode == -32600
    assert upstream.ran == []
    assert only(gate.calls(since))["reason"] == "ambiguous-call"


# -- what has to pass


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (call("look"), {}),
        (call("&#108;oo&#x6b;"), {}),
        (call("<![CDATA[look]]>"), {}),
        (call("look", ""), {}),
        (call("look", head='<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\r\n'), {}),
        (b"\xef\xbb\xbf" + call("look"), {}),
        (
            b"<methodCall>\n  <methodName>look</methodName>\n  <params>\n  </params>\n</methodCall>\n",
            {},
        ),
        (gzip.compress(call("look")), {"Content_Encoding": "gzip"}),
    ],
    ids=[
        "plain",
        "references",
        "CDATA",
        "no params",
        "declaration",
        "byte order mark",
        "indented",
        "gzip",
    ],
)
def test_one_call_in_many_spellings_reaches_the_upstream_in_one(
    upstream: Upstream, gate: Gate, body: bytes, headers: dict[str, str]
) -> None:
    """What can be read in one way only is allowed, and the upstream gets the gate's own spelling of
    it.
    """
    upstream.forget()
    answer = gate.ask("/RPC2", "viewer", body, kind=XML, **headers)
    assert value_of(answer) == "seen"
    assert upstream.documents == [encode_call("look", [])]


@pytest.mark.parametrize(
    "kind",
    [
        "text/xml",
        "text/xml; charset=utf-8",
        'text/xml; charset="UTF-8"',
        "text/xml;charset=utf-8",
        "application/xml",
        "Text/XML; Charset=utf-8",
    ],
)
def test_content_types_of_stock_clients_pass(gate: Gate, kind: str) -> None:
    """XML in UTF-8, however a client words it (RFC 9110 section 8.3.1: names and the charset in any
    case).
    """
    assert value_of(gate.ask("/", "viewer", call("look"), kind=kind)) == "seen"


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "text/html",
        "application/json",
        "multipart/form-data; boundary=x",
        "text/xml; charset=utf-16",
        "text/xml, text/plain",
    ],
)
def test_other_content_types_do_not(upstream: Upstream, gate: Gate, kind: str) -> None:
    """A browser can send some of these from any page; the server itself would run them all."""
    upstream.forget()
    assert fault_of(gate.ask("/", "viewer", call("look"), kind=kind)).faultCode == -32700
    assert upstream.ran == []


NOW = xmlrpc.client.DateTime("20260102T03:04:05")
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -(2**31),
    2**31 - 1,
    1.5,
    -1e300,
    5e-324,
    "",
    "  blanks kept\n",
    "<&>\"' \n\t ü 漢 \U0001f600",
    "]]>",
    b"",
    bytes(range(256)),
    NOW,
    [],
    {},
    [None, [1, ["a"]], {"b": [{}]}],
    {"": 0, "a b": 1, "<&>": 2, "ü": 3},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_every_type_passes_both_ways(upstream: Upstream, gate: Gate, value: Any) -> None:
    """What CPython's client sends, CPython's server gets, and its answer comes back as the same
    value; nil included.
    """
    proxy = gate.proxy("/RPC2", "viewer", allow_none=True, use_builtin_types=False)
    upstream.forget()
    back = proxy.echo(xmlrpc.client.Binary(value) if isinstance(value, bytes) else value)
    assert (back.data if isinstance(back, xmlrpc.client.Binary) else back) == value
    [(_, (got,))] = upstream.ran
    assert (got.data if isinstance(got, xmlrpc.client.Binary) else got) == value


def test_large_integers_pass_as_i8(upstream: Upstream, gate: Gate) -> None:
    """CPython's client cannot send them, and its parser reads them; 64 bits pass both ways, one
    more is refused.
    """
    for number in (2**31, -(2**31) - 1, 2**63 - 1, -(2**63)):
        upstream.forget()
        body = call("look", f"<params>{param(f'<i8>{number}</i8>')}</params>")
        assert value_of(gate.ask("/RPC2", "viewer", body, kind=XML)) == "seen"
        assert upstream.ran == [("look", (number,))]
        assert upstream.documents == [encode_call("look", [number])]
    for text in (f"<i8>{2**63}</i8>", f"<int>{2**31}</int>", f"<i4>{2**31}</i4>"):
        assert (
            fault_of(
                gate.ask(
                    "/RPC2", "viewer", call("look", f"<params>{param(text)}</params>"), kind=XML
                )
            ).faultCode
            == -32700
        )


@pytest.mark.parametrize(
    "text",
    [
        "<double>inf</double>",
        "<double>nan</double>",
        "<double>1e999</double>",
        "<int> 1</int>",
        "<boolean>2</boolean>",
    ],
)
def test_values_that_parsers_read_differently_are_refused(
    upstream: Upstream, gate: Gate, text: str
) -> None:
    """Numbers that are none elsewhere, or that one parser trims and another does not."""
    upstream.forget()
    assert (
        fault_of(
            gate.ask("/RPC2", "viewer", call("look", f"<params>{param(text)}</params>"), kind=XML)
        ).faultCode
        == -32700
    )
    assert upstream.ran == []


def test_a_carriage_return_passes_as_a_reference(upstream: Upstream, gate: Gate) -> None:
    """A parser reads a raw one as a line feed; written as a reference it stays what it is."""
    upstream.forget()
    gate.ask("/RPC2", "viewer", call("look", f"<params>{param('a&#13;b')}</params>"), kind=XML)
    assert upstream.ran == [("look", ("a\rb",))]


def test_three_spellings_of_a_time_become_one(upstream: Upstream, gate: Gate) -> None:
    """All that is valid is sent on in the spelling that every parser knows."""
    for text in ("20260102T03:04:05", "2026-01-02T03:04:05", "20260102T030405"):
        upstream.forget()
        body = call(
            "look", f"<params>{param(f'<dateTime.iso8601>{text}</dateTime.iso8601>')}</params>"
        )
        gate.ask("/RPC2", "viewer", body, kind=XML)
        assert upstream.documents == [encode_call("look", [DateTime("20260102T03:04:05")])]


def test_a_big_struct_passes(upstream: Upstream, gate: Gate) -> None:
    """Twenty thousand members and two megabytes in one call, which the edge reads only after it
    knows the caller.
    """
    big = {f"member {number}": "x" * 60 for number in range(20_000)}
    assert gate.proxy("/RPC2", "viewer").echo(big) == big


# -- gzip


def test_a_gzip_bomb_is_refused_in_bounded_memory(upstream: Upstream, gate: Gate) -> None:
    """A hundred kilobytes that inflate to 128 megabytes: refused at the limit, and memory grew by
    no more than that allows.
    """
    squeezer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([squeezer.compress(bytes(1 << 20)) for _ in range(128)]) + squeezer.flush()
    assert len(bomb) < 140_000
    upstream.forget()
    since, before = gate.mark(), gate.peak_memory()
    fault = fault_of(gate.ask("/RPC2", "viewer", bomb, kind=XML, Content_Encoding="gzip"))
    assert (fault.faultCode, "[body-too-large, ref " in fault.faultString) == (413, True)
    assert gate.peak_memory() - before < 64 << 20, (
        "the limit is 16 MiB, and a buffer that grows to it is copied"
    )
    assert only(gate.calls(since))["reason"] == "body-too-large"
    assert upstream.ran == []


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (call("look"), "gzip"),
        # The last four bytes, which are the length of a complete member, must give a small one.
        (gzip.compress(call("look"))[:-4] + b"\1\0\0\0", "gzip"),
        (gzip.compress(call("look")) + b"x\0\0\0", "gzip"),
        (gzip.compress(call("look")) + gzip.compress(call("launch")), "gzip"),
        (zlib.compress(call("look")), "deflate"),
        (gzip.compress(gzip.compress(call("look"))), "gzip, gzip"),
        (call("look"), "identity"),
    ],
    ids=["none", "cut short", "followed", "two members", "deflate", "twice", "identity"],
)
def test_other_encodings_are_refused(
    upstream: Upstream, gate: Gate, body: bytes, encoding: str
) -> None:
    """One whole gzip member and nothing else is read."""
    upstream.forget()
    assert (
        fault_of(gate.ask("/RPC2", "viewer", body, kind=XML, Content_Encoding=encoding)).faultCode
        == -32700
    )
    assert upstream.ran == []


# -- answers


def test_a_large_answer_is_streamed(gate: Gate) -> None:
    """Eight megabytes come through whole, while the gate's memory grows by a small part of that,
    and the record counts the bytes.
    """
    proxy = gate.proxy("/RPC2", "viewer")
    assert len(proxy.big(300_000)) == 300_000
    since, before = gate.mark(), gate.peak_memory()
    assert proxy.big(8_000_000) == "0123456789" * 800_000
    assert gate.peak_memory() - before < 4 << 20
    completed = only(gate.calls(since), stage="completed")
    assert completed["outcome"] == "ok"
    assert completed["bytes"] > 8_000_000


@dataclass
class Scripted:
    """An upstream with one answer for everything."""

    status: int = 200
    kind: str = XML
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0  # bytes that are announced and do not come

    def start(self) -> ThreadingHTTPServer:
        """Listen; ended with its ``shutdown``."""
        scripted = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(scripted.status)
                for name, value in scripted.headers.items():
                    self.send_header(name, value)
                if scripted.kind:
                    self.send_header("Content-Type", scripted.kind)
                self.send_header("Content-Length", str(len(scripted.body) + scripted.missing))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(scripted.body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return server


GOOD = b"<?xml version='1.0'?><methodResponse><params><param><value><int>7</int></value></param></params></methodResponse>"
ODD = {
    "html": (
        Scripted(200, "text/html; charset=utf-8", b"<html><h1>Welcome</h1>"),
        "upstream-invalid",
        "HTML",
    ),
    "json": (
        Scripted(200, "application/json", b"{}"),
        "upstream-invalid",
        "something other than XML",
    ),
    "typeless": (Scripted(200, "", GOOD), "upstream-invalid", "something other than XML"),
    "error": (Scripted(500, "text/html", b"<html>Traceback: secret"), "upstream-error", "500"),
    "elsewhere": (
        Scripted(302, XML, GOOD, {"Location": "http://127.0.0.1:1/"}),
        "upstream-invalid",
        "302",
    ),
    "gzipped": (
        Scripted(200, XML, gzip.compress(GOOD), {"Content-Encoding": "gzip"}),
        "upstream-invalid",
        "compressed",
    ),
    "short": (Scripted(200, XML, GOOD, missing=1), "upstream-closed", ""),
}


@pytest.fixture(scope="module")
def odd(policies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate before upstreams that do not speak XML-RPC, and one port where nobody listens."""
    servers = {name: script.start() for name, (script, _, _) in ODD.items()}
    upstreams = [
        behind(int(server.server_address[1]), f"/{name}", name) for name, server in servers.items()
    ]
    upstreams.append(behind(free_port(), "/down", "down"))
    gate = Gate(tmp_path_factory.mktemp("odd"), upstreams, policies=policies, tls=False).start()
    yield gate
    assert gate.stop() == 0
    for server in servers.values():
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("method", ["look", "launch"])
def test_answers_that_are_no_xml_rpc_become_faults(odd: Gate, name: str, method: str) -> None:
    """What the upstream says instead is named, not shown; the record of the allowed call is closed
    with the reason.
    """
    _, reason, said = ODD[name]
    since = odd.mark()
    fault = fault_of(odd.ask(f"/{name}", "operator", call(method), kind=XML))
    assert fault.faultCode == 502
    assert f"[{reason}, ref " in fault.faultString
    assert said in fault.faultString
    assert "secret" not in fault.faultString
    records = odd.calls(since)
    assert only(records, stage="decided")["decision"] == "allow"
    completed = only(records, stage="completed")
    assert (completed["outcome"], completed["reason"]) == ("failed", reason)


def test_inside_a_batch_they_are_faults_in_their_place(odd: Gate) -> None:
    """Each inner call of a multicall fails by itself."""
    answer = odd.ask("/html", "operator", batch(LOOK, LAUNCH), kind=XML)
    results = value_of(answer)
    assert ["HTML" in result["faultString"] for result in results] == [True, True], results


def test_an_upstream_that_is_down_is_a_fault_with_retry_after(odd: Gate) -> None:
    """Nobody listens: a fault that says so, a header that says when to come back, a record that
    says why.
    """
    since = odd.mark()
    answer = odd.ask("/down/RPC2", "operator", call("launch"), kind=XML)
    fault = fault_of(answer)
    assert (fault.faultCode, "[upstream-unreachable, ref " in fault.faultString) == (502, True)
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert only(odd.calls(since), stage="completed")["reason"] == "upstream-unreachable"


# -- the door itself


def test_a_get_is_405_with_what_is_allowed(gate: Gate) -> None:
    """Whoever opens the URL in a browser or with a probe is no XML-RPC client, and is told in
    HTTP's own words.
    """
    answer = gate.get("/RPC2", gate.token("viewer"))
    assert (answer.status, answer.headers["allow"], answer.refused) == (
        405,
        "POST",
        "method-not-allowed",
    )


def test_a_query_is_refused(upstream: Upstream, gate: Gate) -> None:
    """Arguments have one place."""
    upstream.forget()
    assert (
        "ambiguous-call"
        in fault_of(gate.ask("/RPC2?methodName=look", "viewer", call("look"), kind=XML)).faultString
    )
    assert upstream.ran == []


def test_a_batch_is_bounded_and_an_empty_one_is_recorded(upstream: Upstream, gate: Gate) -> None:
    """A hundred calls at the most, each with its record; none at all is answered with none, and
    leaves a record too.
    """
    upstream.forget()
    since = gate.mark()
    results = value_of(gate.ask("/RPC2", "viewer", batch(*[LOOK] * 100), kind=XML))
    assert results == [["seen"]] * 100
    assert len(upstream.ran) == 100
    assert sum(r["stage"] == "decided" for r in gate.calls(since)) == 100
    since = gate.mark()
    fault = fault_of(gate.ask("/RPC2", "viewer", batch(*[LOOK] * 101), kind=XML))
    assert "call-too-complex" in fault.faultString
    assert only(gate.calls(since))["reason"] == "call-too-complex"
    since = gate.mark()
    assert value_of(gate.ask("/RPC2", "viewer", batch(), kind=XML)) == []
    assert only(gate.calls(since), stage="decided")["method"] == "system.multicall"
    assert len(upstream.ran) == 100


def test_a_batch_of_large_answers_is_bounded(gate: Gate) -> None:
    """All answers of a batch have to be held at once, so all together they have a limit; what is
    over it is a fault in its place.
    """
    body = encode_call(
        "system.multicall", [[{"methodName": "big", "params": [10_000_000]} for _ in range(4)]]
    )
    since, before = gate.mark(), gate.peak_memory()
    results = value_of(gate.ask("/RPC2", "viewer", body, kind=XML))
    assert results[0] == ["0123456789" * 1_000_000]
    assert ["call-too-complex" in r["faultString"] for r in results[1:]] == [True] * 3
    assert gate.peak_memory() - before < 160 << 20
    outcomes = [
        (r["outcome"], r.get("reason")) for r in gate.calls(since) if r["stage"] == "completed"
    ]
    assert outcomes == [("ok", None)] + [("failed", "call-too-complex")] * 3


def test_introspection_takes_exactly_its_arguments(gate: Gate) -> None:
    """An argument too many is refused, not dropped: what is recorded is what was asked."""
    proxy = gate.proxy("/RPC2", "viewer")
    for name, args in (
        ("methodHelp", ("look", "launch")),
        ("listMethods", ("look",)),
        ("methodHelp", ()),
    ):
        since = gate.mark()
        with pytest.raises(xmlrpc.client.Fault) as raised:
            getattr(proxy.system, name)(*args)
        assert raised.value.faultCode == -32602
        assert tuple(only(gate.calls(since), stage="decided")["args"].values()) == args
