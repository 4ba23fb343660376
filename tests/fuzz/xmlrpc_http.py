"""XML-RPC calls at an XML-RPC server and at luigid: the encoded call is the one decided on.

The input is the body, gzip or not.
"""

import json
from urllib.parse import parse_qsl

from proxy.catalog.loading import load_catalog
from proxy.errors import Rejected
from proxy.model import Call, Target
from proxy.protocol.catalog_call import bind_worker
from proxy.protocol.xmlrpc.codec import decode_call
from proxy.protocol.xmlrpc.luigi_bridge import LuigiBridge
from proxy.protocol.xmlrpc.server import XmlRpcServer
from tests.fuzz.kit import ALICE, POLICIES, read, request, typed

LIMIT = 1 << 20
LUIGI = load_catalog(POLICIES / "catalogs" / "luigi.toml")
TO_LUIGI = LuigiBridge("luigi", LUIGI, "", max_batch_calls=10, body_bytes=LIMIT)
TO_SERVER = XmlRpcServer(
    "processes",
    load_catalog(POLICIES / "catalogs" / "supervisor.toml"),
    "/RPC2",
    max_batch_calls=10,
    body_bytes=LIMIT,
)


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    headers = {b"content-type": b"text/xml"}
    if data.startswith(b"\x1f\x8b"):
        headers[b"content-encoding"] = b"gzip"
    asked = request("POST", "/RPC2", headers, data)
    for codec in (TO_SERVER, TO_LUIGI):
        found = read(codec.decode, asked, "/RPC2", ALICE)
        if isinstance(found, Rejected):
            continue
        for call in found.calls:
            if not call.in_catalog:
                continue
            if call.target is Target.GATE:
                codec.introspect(call, lambda name: len(name) % 2 == 0)
            elif codec is TO_SERVER:
                _check_server(call, TO_SERVER.encode(call, ALICE, asked).body)
            else:
                _check_luigi(call, TO_LUIGI.encode(call, ALICE, asked).body)


def _check_server(call: Call, sent: bytes) -> None:
    name, params = decode_call(sent)
    assert (name, typed(params)) == (call.method, typed(list(call.args.values()))), (
        "the server gets the call that was decided on"
    )


def _check_luigi(call: Call, sent: bytes) -> None:
    [(_, text)] = parse_qsl(sent.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    expected = dict(call.args)
    worker = LUIGI.methods[call.method].worker_arg
    if worker is not None:
        expected[worker] = bind_worker(expected[worker], ALICE)
    assert typed(json.loads(text.encode("latin-1"))) == typed(expected), (
        "luigid gets the call that was decided on"
    )
