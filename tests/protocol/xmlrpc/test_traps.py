"""The table of traps: each row misleads CPython's own server, and not the codec."""

import gzip
import re
import xml.dom.minidom
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from proxy.errors import Rejected
from proxy.model import Reason, RejectedEntry, Value
from proxy.protocol.xmlrpc.codec import decode_call, encode_call
from proxy.protocol.xmlrpc.multicall import decode_multicall
from tests.support.xmlrpc import CallLog, cpython_server

NameAndCount = tuple[str | None, int]


def by_tree(body: bytes) -> NameAndCount:
    """Judge as a proxy on an element tree: the first methodName, one argument for each param."""
    root = ET.fromstring(body)
    return root.findtext("methodName"), len(root.findall("params/param"))


def by_tree_stripped(body: bytes) -> NameAndCount:
    """Judge as `by_tree`, with white space stripped from the name."""
    name, count = by_tree(body)
    return name and name.strip(), count


def by_dom(body: bytes) -> NameAndCount:
    """Judge as a proxy on a DOM: the first child of the first methodName."""
    document = xml.dom.minidom.parseString(body)
    name = document.getElementsByTagName("methodName")[0].firstChild
    assert name is not None
    return name.nodeValue, len(document.getElementsByTagName("param"))


def by_pattern(body: bytes) -> NameAndCount:
    """Judge as a filter of Lua or HAProxy: the first text that resembles a name."""
    found = re.search(rb"<methodName>\s*([^<]*)", body)
    return found[1].decode() if found else None, body.count(b"<param>")


def call(name: str, params: str = "", root: str = "methodCall", after: str = "") -> bytes:
    """Return a document with `name` as it is, and any other content."""
    return (
        f"<{root}><methodName>{name}</methodName><params>{params}</params>{after}</{root}>".encode()
    )


def param(inside: str) -> str:
    """Return one param."""
    return f"<param><value>{inside}</value></param>"


def entry(name: str, *more: str) -> str:
    """Return one entry of a system.multicall."""
    members = "".join(
        f"<member><name>methodName</name><value>{each}</value></member>" for each in (name, *more)
    )
    return f"<value><struct>{members}<member><name>params</name><value><array><data/></array></value></member></struct></value>"


def batch(*entries: str) -> str:
    """Return the array of a system.multicall."""
    return f"<array><data>{''.join(entries)}</data></array>"


def struct(*values: str) -> str:
    """Return a struct with the member ``dag`` for each value."""
    return (
        "<struct>"
        + "".join(f"<member><name>dag</name><value>{value}</value></member>" for value in values)
        + "</struct>"
    )


@dataclass(frozen=True)
class Trap:
    """A document, and how each party reads it.

    `naive` is a proxy's judgement (None: it fails), `runs` is what the server runs, and `verdict`
    is the codec's: the reason of a refusal, or the one call.
    """

    name: str
    body: bytes
    naive: Callable[[bytes], NameAndCount]
    judged: NameAndCount | None
    runs: list[tuple[str, tuple[object, ...]]]
    verdict: Reason | tuple[str, list[Value]]
    headers: dict[str, str] = field(default_factory=dict)


TRIGGER: list[tuple[str, tuple[object, ...]]] = [("trigger", ())]
BOTH: list[tuple[str, tuple[object, ...]]] = [("view", ()), ("trigger", ())]
TRAPS = [
    Trap(
        "two methodName",
        b"<methodCall><methodName>view</methodName><methodName>trigger</methodName><params/></methodCall>",
        by_tree,
        ("view", 0),
        TRIGGER,
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "methodName after params",
        call("view", after="<methodName>trigger</methodName>"),
        by_tree,
        ("view", 0),
        TRIGGER,
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "methodName in a value",
        call("view", param("<methodName>trigger</methodName>")),
        by_tree,
        ("view", 1),
        TRIGGER,
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "prefixed elements",
        b'<a:methodCall xmlns:a="urn:a"><a:methodName>trigger</a:methodName><a:params/></a:methodCall>',
        by_tree,
        (None, 0),
        TRIGGER,
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "a prefixed methodName after ours",
        call("view", after='<a:methodName xmlns:a="urn:a">trigger</a:methodName>'),
        by_tree,
        ("view", 0),
        TRIGGER,
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "another root",
        call("trigger", root="anything"),
        by_tree,
        ("trigger", 0),
        TRIGGER,
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "value after params",
        call("view", param("1"), after="<value>2</value>"),
        by_tree,
        ("view", 1),
        [("view", ("1", "2"))],
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "value before params",
        b"<methodCall><methodName>view</methodName><value>2</value><params><param><value>1</value></param></params></methodCall>",
        by_tree,
        ("view", 1),
        [("view", ("2", "1"))],
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "two params",
        call("view", param("1"), after=f"<params>{param('2')}</params>"),
        by_pattern,
        ("view", 2),
        [("view", ("1", "2"))],
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "two values in a param",
        call("view", param("1</value><value>2")),
        by_tree,
        ("view", 1),
        [("view", ("1", "2"))],
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "two types in a value",
        call("view", param("<int>1</int><int>2</int>")),
        by_tree,
        ("view", 1),
        [("view", (1, 2))],
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "a member twice",
        call("view", param(struct("dev", "prod"))),
        by_tree,
        ("view", 1),
        [("view", ({"dag": "prod"},))],
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "a comment in the name",
        call("tri<!-- -->gger"),
        by_dom,
        ("tri", 0),
        TRIGGER,
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "an instruction in the name",
        call("tri<?x?>gger"),
        by_dom,
        ("tri", 0),
        TRIGGER,
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "blanks around the name",
        call(" trigger "),
        by_tree_stripped,
        ("trigger", 0),
        [(" trigger ", ())],
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "a batch of two",
        call("system.multicall", param(batch(entry("view"), entry("trigger")))),
        by_tree,
        ("system.multicall", 1),
        BOTH,
        (
            "system.multicall",
            [[{"methodName": "view", "params": []}, {"methodName": "trigger", "params": []}]],
        ),
    ),
    Trap(
        "a batch entry with two methodName",
        call("system.multicall", param(batch(entry("view", "trigger")))),
        by_tree,
        ("system.multicall", 1),
        TRIGGER,
        Reason.AMBIGUOUS_CALL,
    ),
    Trap(
        "an entity as the name",
        b'<!DOCTYPE m [<!ENTITY t "trigger">]><methodCall><methodName>&t;</methodName><params/></methodCall>',
        by_pattern,
        ("&t;", 0),
        TRIGGER,
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "character references in the name",
        call("&#116;r&#x69;gger"),
        by_pattern,
        ("&#116;r&#x69;gger", 0),
        TRIGGER,
        ("trigger", []),
    ),
    Trap(
        "CDATA in the name",
        call("<![CDATA[trig]]>ger"),
        by_pattern,
        ("", 0),
        TRIGGER,
        ("trigger", []),
    ),
    Trap(
        "UTF-16",
        ('<?xml version="1.0"?>' + call("trigger").decode()).encode("utf-16"),
        by_pattern,
        (None, 0),
        TRIGGER,
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "a declared encoding",
        b'<?xml version="1.0" encoding="koi8-r"?>'
        + call("view", param("\u0430")).decode().encode("koi8-r"),
        by_pattern,
        ("view", 1),
        [("view", ("\u0430",))],
        Reason.MALFORMED_CALL,
    ),
    Trap(
        "a gzip body",
        gzip.compress(call("trigger")),
        by_pattern,
        (None, 0),
        TRIGGER,
        Reason.MALFORMED_CALL,
        {"Content_Encoding": "gzip"},
    ),
    Trap(
        "another Content-Type",
        call("trigger"),
        by_tree,
        ("trigger", 0),
        TRIGGER,
        ("trigger", []),
        {"Content_Type": "text/plain"},
    ),
    Trap(
        "a second methodCall",
        call("view") + call("trigger"),
        by_pattern,
        ("view", 0),
        [],
        Reason.AMBIGUOUS_CALL,
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[CallLog]:
    """Yield CPython's server, for all rows."""
    with cpython_server() as ran:
        yield ran


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_a_trap_misleads_the_server_and_not_the_codec(trap: Trap, server: CallLog) -> None:
    """A naive reading and the server disagree; the codec refuses, or agrees with the server."""
    assert trap.naive(trap.body) == trap.judged
    server.post(trap.body, **trap.headers)
    assert server.calls == trap.runs
    if isinstance(trap.verdict, Reason):
        with pytest.raises(Rejected) as caught:
            decode_call(trap.body)
        assert caught.value.reason is trap.verdict
        assert "trigger" not in caught.value.detail, "a detail never holds what was sent"
        return
    assert decode_call(trap.body) == trap.verdict
    fresh = encode_call(*trap.verdict)
    assert trap.naive(fresh)[0] == trap.verdict[0], (
        "a naive proxy reads the encoded call as the server does"
    )
    server.post(fresh)
    assert server.calls == trap.runs


def test_a_batch_within_a_batch_runs_at_the_server_and_is_refused_here(server: CallLog) -> None:
    """A proxy that opens one level would see ``view`` and one more call; the server opens both."""
    inner = entry("system.multicall").replace(
        "<array><data/></array>", batch(f"<value>{batch(entry('trigger'))}</value>")
    )
    body = call("system.multicall", param(batch(entry("view"), inner)))
    server.post(body)
    assert server.calls == BOTH
    first, second = decode_multicall(decode_call(body)[1])
    assert first == ("view", [])
    assert isinstance(second, RejectedEntry)
    assert second.reason is Reason.CALL_TOO_COMPLEX


def test_the_server_runs_each_call_as_it_was_read(server: CallLog) -> None:
    """Arguments of every common type arrive at the real server as they were decoded."""
    body = call(
        "view",
        param("<i4>1</i4>")
        + param(" a ")
        + param(struct("<![CDATA[<x>]]>"))
        + param(batch("<value><nil/></value>")),
    )
    name, params = decode_call(body)
    server.post(encode_call(name, params))
    assert server.calls == [("view", (1, " a ", {"dag": "<x>"}, [None]))]
