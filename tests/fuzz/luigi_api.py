"""luigid's JSON calls: luigid would read every accepted one alike, before and after encoding.

The input has three forms: an HTTP request (see `kit.parse_http`); ``= method`` and a line break
before the JSON of its arguments; ``< method`` and a line break before an answer of luigid's.
"""

import json
from collections.abc import Mapping
from urllib.parse import parse_qsl

from proxy.catalog.loading import load_catalog
from proxy.errors import Rejected
from proxy.model import Batch, Call, Request, UpstreamResponse, Value
from proxy.protocol.catalog_call import bind_worker
from proxy.protocol.luigi.api import LuigiApi
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.luigi.calls import make_call
from proxy.protocol.strict_json import parse_arguments
from tests.fuzz.kit import ALICE, POLICIES, parse_http, read, request, typed

CATALOG = load_catalog(POLICIES / "catalogs" / "luigi.toml")
BATCHES = BatchIdSigner(b"k" * 32, "luigi")
API = LuigiApi("luigi", CATALOG, batch_ids=BATCHES)


def one(data: bytes) -> None:
    """Assert the properties of one input."""
    if data[:2] in (b"= ", b"< "):
        name, _, rest = data[2:].partition(b"\n")
        method = name.decode("latin-1")
        if data[:1] == b"=":
            args = read(parse_arguments, rest)
            call = (
                args
                if isinstance(args, Rejected)
                else read(make_call, "luigi", CATALOG, method, args, ALICE, BATCHES)
            )
            if isinstance(call, Call):
                _check_sent(call, request("POST", "/api/x", {}, b""))
        elif method in CATALOG.methods:
            _check_answer(Call("luigi", "luigi", method, "work", {}), rest)
        return
    asked = parse_http(data)
    if asked is None:
        return
    batch = read(API.decode, asked, asked.path, ALICE)
    if isinstance(batch, Batch):
        (call,) = batch.calls
        said = asked.body.decode("latin-1") if asked.body else asked.query or ""
        read_by_luigid = _as_luigid_reads(said)
        assert read_by_luigid.keys() == call.args.keys(), "luigid would read other arguments"
        if call.in_catalog:
            _check_sent(call, asked)


def _as_luigid_reads(form: str) -> dict[str, Value]:
    """Return the arguments of a form as luigid 3 reads them.

    It takes the last ``data``, stripped, and Python's json.
    """
    fields = [
        value
        for name, value in parse_qsl(form, keep_blank_values=True, encoding="latin-1")
        if name == "data"
    ]
    if not fields:
        return {}
    args: dict[str, Value] = json.loads(fields[-1].encode("latin-1").strip().decode("utf-8"))
    return args


def _check_sent(call: Call, asked: Request) -> None:
    """Assert that luigid will read what was decided on, but for the suffix of the worker's id."""
    if not call.in_catalog:
        return
    outbound = API.encode(call, ALICE, asked)
    expected: Mapping[str, Value] = call.args
    worker = CATALOG.methods[call.method].worker_arg
    if worker is not None:
        expected = {**expected, worker: bind_worker(expected[worker], ALICE)}
    [(name, _)] = parse_qsl(
        outbound.body.decode("latin-1"), keep_blank_values=True, encoding="latin-1"
    )
    assert name == "data"
    assert typed(_as_luigid_reads(outbound.body.decode("latin-1"))) == typed(dict(expected)), (
        "luigid would read something else"
    )


def _check_answer(call: Call, body: bytes) -> None:
    """Assert that an answer passes, is rewritten with the same members, or is refused."""
    reply = read(
        API.answer, call, ALICE, UpstreamResponse(200, {b"content-type": b"application/json"}, body)
    )
    if not isinstance(reply, Rejected) and reply.body != body:
        before, after = json.loads(body)["response"], json.loads(reply.body)["response"]
        assert before.keys() == after.keys(), "no member of the answer is lost"
        assert len(before["running_tasks"]) == len(after["running_tasks"]), "no task is lost"
