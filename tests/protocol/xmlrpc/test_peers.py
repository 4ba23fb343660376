"""Another language's XML-RPC (node's ``xmlrpc`` package) reads our documents, and we read its."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.model import DateTime, Value
from proxy.protocol.xmlrpc.codec import decode_call, encode_call, encode_fault, encode_response
from tests.support.amount import examples
from tests.support.xmlrpc import METHODS, VALUES, typed

pytestmark = pytest.mark.process  # starts the command, or another program

HERE = Path(__file__).parent / "peers"
Ask = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def node() -> Iterator[Ask]:
    """Yield one node process that reads and writes documents for all tests of this module.

    Without node the tests are skipped; in CI they fail.
    """
    if shutil.which("node") is None:
        pytest.skip("node is not installed: no other language's XML-RPC parser to compare with")
    if not (HERE / "node_modules" / "xmlrpc").is_dir():
        pytest.skip(
            "run `npm ci --prefix tests/protocol/xmlrpc/peers` to have node's xmlrpc package to compare with"
        )
    # The package makes dates of local time; in UTC every one of them exists.
    process = subprocess.Popen(
        ["node", "--no-deprecation", "read.js"],
        cwd=HERE,
        env=os.environ | {"TZ": "UTC"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdin is not None and process.stdout is not None
    to_node, from_node = process.stdin, process.stdout

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        to_node.write(json.dumps(question) + "\n")
        to_node.flush()
        reply: dict[str, Any] = json.loads(from_node.readline())
        return reply

    try:
        yield ask
    finally:
        to_node.close()
        process.wait(timeout=10)
        from_node.close()


def read(node: Ask, kind: str, body: bytes) -> dict[str, Any]:
    """Return node's reading of a document."""
    return node({"read": kind, "xml": base64.b64encode(body).decode()})


def as_node_reads(value: Value) -> object:
    """Return `value` as read.js shows it.

    Node has one kind of number, shows `i8` as digits, and orders keys in its own way.
    """
    if value is None:
        return ["nil"]
    if isinstance(value, bool):
        return ["boolean", value]
    if isinstance(value, int):
        return ["number", float(value)] if -(2**31) <= value < 2**31 else ["string", str(value)]
    if isinstance(value, float):
        return ["number", value if value or str(value) == "0.0" else "-0"]
    if isinstance(value, str):
        return ["string", value]
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, DateTime):
        date, time = value.text.split("T")
        return ["time", f"{date[:4]}-{date[4:6]}-{date[6:]}T{time}.000Z"]
    if isinstance(value, list):
        return ["array", [as_node_reads(item) for item in value]]
    return ["struct", sorted([name, as_node_reads(item)] for name, item in value.items())]


def tidy(shown: Any) -> object:
    """Return the output of read.js with numbers as floats (but minus zero) and keys in order."""
    kind = shown[0]
    if kind == "number":
        return [kind, shown[1] if shown[1] == "-0" else float(shown[1])]
    if kind == "array":
        return [kind, [tidy(item) for item in shown[1]]]
    if kind == "struct":
        return [kind, sorted([name, tidy(item)] for name, item in shown[1])]
    return shown


def has_proto(value: Value) -> bool:
    """Return whether a struct in `value` has the member that node takes for a prototype."""
    if isinstance(value, dict):
        return "__proto__" in value or any(map(has_proto, value.values()))
    return isinstance(value, list) and any(map(has_proto, value))


FOR_NODE = VALUES.filter(lambda value: not has_proto(value))
ONE_NODE = settings(
    max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(method=METHODS, params=st.lists(FOR_NODE, max_size=3))
@ONE_NODE
def test_node_reads_our_calls_as_the_same_values(
    node: Ask, method: str, params: list[Value]
) -> None:
    """A server in another language runs the call that was decided on."""
    reply = read(node, "call", encode_call(method, params))
    assert reply.get("method") == method, reply
    assert [tidy(param) for param in reply["params"]] == [as_node_reads(param) for param in params]


@given(value=FOR_NODE)
@ONE_NODE
def test_node_reads_our_answers_as_the_same_values(node: Ask, value: Value) -> None:
    """A client in another language gets the upstream's answer."""
    reply = read(node, "response", encode_response(value))
    assert tidy(reply["value"]) == as_node_reads(value), reply


def test_node_shows_our_faults(node: Ask) -> None:
    """A refusal reaches the user of such a client: number and line."""
    assert read(node, "response", encode_fault(403, "callgate: al <may> & \x1b not")) == {
        "fault": [403, "callgate: al <may> & \ufffd not"]
    }


WRITTEN_BY_NODE: list[tuple[list[Any], Value]] = [
    (["string", "a & b < c > d"], "a & b < c > d"),
    (["string", "]]> and & \U0001f600é"], "]]> and & \U0001f600é"),
    (["string", ""], ""),
    (["string", " \n\t "], " \n\t "),
    (["number", "-2147483648"], -(2**31)),
    (["number", "0.1"], 0.1),
    (["number", "5e-324"], 5e-324),
    (["boolean", True], True),
    (["nil"], None),
    (["bytes", "AP8="], b"\x00\xff"),
    (["time", "2024-02-29T23:59:59.000Z"], DateTime("20240229T23:59:59")),
    (["array", [["nil"], ["array", []]]], [None, []]),
    (["struct", [["a", ["struct", []]], ["<b>", ["string", "x"]]]], {"a": {}, "<b>": "x"}),
]


@pytest.mark.parametrize(
    ("written", "value"), WRITTEN_BY_NODE, ids=[str(written)[:40] for written, _ in WRITTEN_BY_NODE]
)
def test_we_read_what_node_writes(node: Ask, written: list[Any], value: Value) -> None:
    """The documents of node's stock client are accepted: CDATA sections, short tags, exponents."""
    body = base64.b64decode(node({"write": "a.method", "params": [written]})["xml"])
    method, params = decode_call(body)
    assert (method, typed(params)) == ("a.method", typed([value])), body
