import asyncio
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Method
from proxy.errors import REASONS, Rejected, Unavailable
from proxy.model import (
    Call,
    DateTime,
    Peer,
    Principal,
    Reason,
    RejectedEntry,
    Request,
    Response,
    Target,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.codec import ByteBudget
from proxy.protocol.luigi.api import LuigiApi
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.luigi.calls import WORKER_SHUTDOWN
from proxy.protocol.refusal import Refusal
from proxy.protocol.xmlrpc.codec import (
    Fault,
    decode_response,
    encode_call,
    encode_fault,
    encode_response,
)
from proxy.protocol.xmlrpc.http_binding import XmlRpcCodec
from proxy.protocol.xmlrpc.luigi_bridge import LuigiBridge
from proxy.protocol.xmlrpc.server import XmlRpcServer
from tests.support.paths import ROOT
from tests.support.xmlrpc import VALUES, typed

CATALOGS = ROOT / "policies" / "catalogs"
LUIGI = load_catalog(CATALOGS / "luigi.toml")
SUPERVISOR = load_catalog(CATALOGS / "supervisor.toml")
LIMIT = 100_000
PROCESSES = XmlRpcServer("processes", SUPERVISOR, "/RPC2", max_batch_calls=5, body_bytes=LIMIT)
BATCHES = BatchIdSigner(b"k" * 32, "luigi")
TASKS = LuigiBridge("luigi", LUIGI, "", max_batch_calls=5, body_bytes=LIMIT, batch_ids=BATCHES)
API = LuigiApi("luigi", LUIGI, batch_ids=BATCHES)
BOTH = pytest.mark.parametrize("dialect", [PROCESSES, TASKS], ids=["supervisord", "luigid"])
ALICE = Principal("https://idp.example", "okta", "alice", ("worker",))
XML = b"text/xml"
JSON = {b"content-type": b"application/json; charset=UTF-8"}


def request(
    body: bytes = b"",
    *,
    verb: str = "POST",
    kind: bytes | None = XML,
    query: str | None = None,
    **headers: bytes,
) -> Request:
    """One request as the edge hands it over; `headers` with ``_`` for ``-``."""
    sent = {
        b"host": b"gate",
        **{name.replace("_", "-").encode(): value for name, value in headers.items()},
    }
    if kind is not None:
        sent[b"content-type"] = kind
    return Request("ID", verb, "/RPC2", query, sent, body, Peer("127.0.0.1", 1, "TLSv1.3", ""))


def asked(dialect: XmlRpcCodec, method: str, *params: Value) -> Call:
    """The one call that a document makes."""
    batch = dialect.decode(request(encode_call(method, params)), "/RPC2", ALICE)
    assert batch.single
    (call,) = batch.calls
    return call


def refused(dialect: XmlRpcCodec, sent: Request) -> Rejected:
    """Why a request is no call."""
    with pytest.raises(Rejected) as error:
        dialect.decode(sent, "/RPC2", ALICE)
    return error.value


def bundled(dialect: XmlRpcCodec, *entries: Value) -> tuple[Call | RejectedEntry, ...]:
    """The entries of a system.multicall, in wire order."""
    batch = dialect.decode(
        request(encode_call("system.multicall", [list(entries)])), "/RPC2", ALICE
    )
    assert not batch.single
    items: list[Call | RejectedEntry] = list(batch.calls)
    for entry in batch.rejected:
        items.insert(entry.index, entry)
    return tuple(items)


def entry(method: str, *params: Value) -> Value:
    """One entry of a system.multicall."""
    return {"methodName": method, "params": list(params)}


def read(reply: Response) -> Value | Fault:
    """The value or fault in a reply."""
    assert (reply.status, reply.content_type) == (200, XML)
    assert dict(reply.headers)[b"cache-control"] == b"no-store"
    return decode_response(reply.body)


class Parts:
    """A stream of given parts and a given end, which notes whether it was given up."""

    def __init__(self, parts: Sequence[bytes], error: Exception | None = None) -> None:
        self.parts = list(parts)
        self.error = error
        self.closed = False

    def __aiter__(self) -> "Parts":
        return self

    async def __anext__(self) -> bytes:
        if self.parts:
            return self.parts.pop(0)
        raise self.error or StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


async def whole(reply: Response) -> bytes:
    """The body of a reply, streamed or not."""
    return reply.body if reply.stream is None else b"".join([part async for part in reply.stream])


# -- what becomes of a request


@BOTH
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (request(verb="GET", kind=None), Reason.METHOD_NOT_ALLOWED),
        (request(verb="PUT"), Reason.METHOD_NOT_ALLOWED),
        (request(b"x", query="a=b"), Reason.AMBIGUOUS_CALL),
        (request(b"x", kind=None), Reason.MALFORMED_CALL),
        (request(b"x", kind=b"text/plain"), Reason.MALFORMED_CALL),
        (request(b"x", kind=b"application/x-www-form-urlencoded"), Reason.MALFORMED_CALL),
        (request(b"x", kind=b"text/xml; charset=utf-16"), Reason.MALFORMED_CALL),
        (request(b"x", kind=b"text/xml; charset=utf-8; charset=utf-16"), Reason.AMBIGUOUS_CALL),
        (request(encode_call("m", []), kind=b"text/xml; charset=utf-16"), Reason.MALFORMED_CALL),
        (request(encode_call("m", []), kind=b"text/xml; charset=ebcdic"), Reason.MALFORMED_CALL),
        (request(encode_call("m", []), kind=b"text/xml; charset=utf-7"), Reason.MALFORMED_CALL),
        (request(encode_call("m", []), kind=b"text/xml; charset="), Reason.MALFORMED_CALL),
        (request(encode_call("m", []), kind=b'text/xml; charset=""'), Reason.MALFORMED_CALL),
        (request(encode_call("m", []), kind=b"text/xml charset=utf-8"), Reason.MALFORMED_CALL),
        (request(encode_call("m", []), kind=b""), Reason.MALFORMED_CALL),
        (
            request(encode_call("m", []), kind=None, authorization=b"Bearer x", cookie=b"a=b"),
            Reason.MALFORMED_CALL,
        ),
        (
            request(encode_call("m", []), kind=None, authorization=b"Bearer x", referer=b"a"),
            Reason.MALFORMED_CALL,
        ),
        (request(encode_call("m", []), cookie=b"a=b"), Reason.CROSS_SITE),
        (request(encode_call("m", []), referer=b"https://a/"), Reason.CROSS_SITE),
        (request(encode_call("m", []), kind=None, origin=b"https://gate"), Reason.MALFORMED_CALL),
        (
            request(encode_call("m", []), kind=None, sec_fetch_site=b"none"),
            Reason.CROSS_SITE,
        ),
        (request(b"x", kind=b"text/xml; charset='utf-8'"), Reason.MALFORMED_CALL),
        (request(b"x", kind=b"text/xmlx"), Reason.MALFORMED_CALL),
        (request(b""), Reason.MALFORMED_CALL),
        (request(b"{}"), Reason.MALFORMED_CALL),
        (request(encode_call("m", []), origin=b"https://evil.example"), Reason.CROSS_SITE),
        (request(encode_call("m", []), sec_fetch_site=b"cross-site"), Reason.CROSS_SITE),
        (
            request(encode_call("m", []), sec_fetch_site=b"none", sec_fetch_mode=b"navigate"),
            Reason.CROSS_SITE,
        ),
        (request(encode_call("m", []), content_encoding=b"br"), Reason.MALFORMED_CALL),
        (request(encode_call("m", []), content_encoding=b"gzip"), Reason.MALFORMED_CALL),
        (
            request(gzip.compress(encode_call("m", [])) + b"\0", content_encoding=b"gzip"),
            Reason.MALFORMED_CALL,
        ),
        (
            request(gzip.compress(encode_call("m", []))[:-1], content_encoding=b"gzip"),
            Reason.MALFORMED_CALL,
        ),
        (request(gzip.compress(bytes(LIMIT + 1)), content_encoding=b"gzip"), Reason.BODY_TOO_LARGE),
        (
            request(gzip.compress(bytes(500 * LIMIT)), content_encoding=b"gzip"),
            Reason.BODY_TOO_LARGE,
        ),
    ],
)
def test_what_is_no_call(dialect: XmlRpcCodec, sent: Request, reason: Reason) -> None:
    """Each is refused before any XML is read, or as no XML-RPC."""
    assert refused(dialect, sent).reason is reason


@pytest.mark.parametrize(
    "kind",
    [
        b"text/xml",
        b"application/xml",
        b"TEXT/XML",
        b'text/xml;charset="utf-8"',
        b"text/xml ; charset=UTF-8",
        b"text/xml; charset = utf-8",
        b"text/xml;",
        b"text/xml; charset=utf-8; charset=UTF-8",
        b'text/xml; charset=utf8; profile="a b"; version=1',
        b"application/xml;charset=iso-8859-1",
        b'text/xml; charset="us-ascii"',
        b"text/xml; charset=windows-1252",
        None,
    ],
)
def test_types_that_are_xml(kind: bytes | None) -> None:
    """In any case and spacing, under any name that means ASCII here, and without a type."""
    (call,) = PROCESSES.decode(
        request(encode_call("supervisor.getState", []), kind=kind), "/RPC2", ALICE
    ).calls
    assert call.method == "supervisor.getState"


class CountedInflater:
    """Counts the bytes that come out of a gzip, and notes the size of each piece."""

    def __init__(self) -> None:
        self._stream = _decompressobj(wbits=31)
        self.pieces: list[int] = []

    def decompress(self, data: bytes, most: int) -> bytes:
        """Return the next piece."""
        piece = self._stream.decompress(data, most)
        self.pieces.append(len(piece))
        return piece

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


_decompressobj = zlib.decompressobj
SIXTEEN = XmlRpcServer("t", SUPERVISOR, "/RPC2", max_batch_calls=9, body_bytes=16 << 20)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("size", "claimed", "reason", "most"),
    [
        (15 << 20, 15 << 20, Reason.BODY_TOO_LARGE, 0),
        (15 << 20, 500_000, Reason.MALFORMED_CALL, 500_001),
        (15 << 20, 0, Reason.MALFORMED_CALL, 1),
        (900_000, 900_000, Reason.MALFORMED_CALL, 900_000),
    ],
    ids=["ratio", "lies", "says nothing", "below the first megabyte"],
)
def test_inflation_has_a_ratio_and_pieces(
    size: int, claimed: int, reason: Reason, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand times as long is refused before a byte is inflated; the old way inflated all."""
    made: list[CountedInflater] = []

    def inflater(wbits: int) -> CountedInflater:
        made.append(CountedInflater())
        return made[-1]

    monkeypatch.setattr("proxy.protocol.xmlrpc.http_binding.zlib.decompressobj", inflater)
    body = gzip.compress(bytes(size))[:-4] + claimed.to_bytes(4, "little")
    with pytest.raises(Rejected) as caught:
        SIXTEEN.decode(request(body, content_encoding=b"gzip"), "/RPC2", ALICE)
    assert caught.value.reason is reason
    pieces = [piece for each in made for piece in each.pieces]
    assert sum(pieces) == most
    assert max(pieces, default=0) <= 262_144
    old = _decompressobj(wbits=31)
    assert len(old.decompress(body[:-8], 16 << 20)) == size


def test_a_gzip_body_is_the_same_call() -> None:
    """Up to the limit for a plain body, to the byte."""
    plain = encode_call(
        "supervisor.getProcessInfo",
        ["x" * (LIMIT - len(encode_call("supervisor.getProcessInfo", [""])))],
    )
    assert len(plain) == LIMIT
    sent = request(gzip.compress(plain), content_encoding=b"gzip")
    assert PROCESSES.decode(sent, "/RPC2", ALICE) == PROCESSES.decode(
        request(plain), "/RPC2", ALICE
    )


@given(st.binary(max_size=200))
def test_any_gzip_gives_a_call_or_a_rejection(body: bytes) -> None:
    """Bytes that zlib chokes on, and bytes that it does not, end in nothing else."""
    for data in (body, zlib.compress(body, wbits=31), gzip.compress(body)[:-2] + body):
        with pytest.raises(Rejected):
            TASKS.decode(request(data, content_encoding=b"gzip"), "/RPC2", ALICE)


# -- an XML-RPC server


def test_arguments_get_the_names_of_the_catalog_and_go_on_in_order() -> None:
    """What policy and record call by name reaches the upstream by position, as it came."""
    call = asked(PROCESSES, "supervisor.startProcess", "web", False)
    assert (call.permission, dict(call.args), call.in_catalog) == (
        "trigger",
        {"name": "web", "wait": False},
        True,
    )
    outbound = PROCESSES.encode(call, ALICE, request())
    assert outbound == UpstreamRequest(
        "POST", b"/RPC2", XML, encode_call("supervisor.startProcess", ["web", False])
    )


def test_a_view_may_be_shared_and_an_act_may_not() -> None:
    """The effect of a call is its class: only what looks may be sent twice or answered for two."""
    effects = {}
    for name, method in SUPERVISOR.methods.items():
        params: list[Value] = [
            0 if a.type == "integer" else "x" for a in method.arguments if a.required
        ]
        effects[method.permission] = PROCESSES.encode(
            asked(PROCESSES, name, *params), ALICE, request()
        ).kind
    assert effects == {"view": "read", "trigger": "write", "admin": "write"}


def test_secrets_are_named_for_the_record() -> None:
    """An argument that the catalog calls secret is withheld by its name."""
    assert asked(PROCESSES, "supervisor.sendProcessStdin", "web", "hunter2").secret_paths == (
        ("chars",),
    )


@BOTH
def test_an_unknown_method_is_a_call_to_be_denied(dialect: XmlRpcCodec) -> None:
    """It exists to be recorded: unknown, of the highest class, its arguments by number."""
    call = asked(dialect, "no.such/method", 7, "x")
    assert (call.in_catalog, call.permission, dict(call.args)) == (
        False,
        "admin",
        {"0": 7, "1": "x"},
    )


@pytest.mark.parametrize(
    ("answer", "reason", "said"),
    [
        (UpstreamResponse(404, {b"content-type": XML}, b""), Reason.UPSTREAM_INVALID, "404"),
        (UpstreamResponse(401, {b"content-type": XML}, b""), Reason.UPSTREAM_INVALID, "401"),
        (UpstreamResponse(503, {b"content-type": XML}, b""), Reason.UPSTREAM_ERROR, "503"),
        (
            UpstreamResponse(200, {b"content-type": b"text/html; charset=utf-8"}, b""),
            Reason.UPSTREAM_INVALID,
            "HTML",
        ),
        (
            UpstreamResponse(200, {b"content-type": b"application/json"}, b""),
            Reason.UPSTREAM_INVALID,
            "other than XML",
        ),
        (UpstreamResponse(200, {}, b""), Reason.UPSTREAM_INVALID, "other than XML"),
        (
            UpstreamResponse(200, {b"content-type": XML, b"content-encoding": b"gzip"}, b""),
            Reason.UPSTREAM_INVALID,
            "compressed",
        ),
        (
            UpstreamResponse(200, {b"content-type": b"text/xml; charset=\r\nx"}, b""),
            Reason.UPSTREAM_INVALID,
            "other than XML",
        ),
    ],
)
def test_answers_that_are_none(answer: UpstreamResponse, reason: Reason, said: str) -> None:
    """What the upstream said instead of an answer is named, never passed on."""
    call = asked(PROCESSES, "supervisor.getState")
    with pytest.raises(Unavailable) as error:
        PROCESSES.answer(call, ALICE, answer)
    assert (error.value.reason, error.value.sent) == (reason, True)
    assert said in error.value.detail


@pytest.mark.parametrize(
    ("given_type", "passed"),
    [
        (b"text/xml", XML),
        (b"application/xml", XML),
        (b"Text/XML; charset=UTF-8", b"text/xml; charset=UTF-8"),
        (b'text/xml;charset="iso-8859-1"', b"text/xml; charset=iso-8859-1"),
        (b"text/xml; charset=utf-8; x=y", b"text/xml; charset=utf-8"),
        (b"text/xml; x=y", XML),
    ],
)
def test_an_answer_is_passed_as_it_is(given_type: bytes, passed: bytes) -> None:
    """The upstream's document is relayed, with the charset that it says it is in."""
    body = encode_response([1, "x"])
    reply = PROCESSES.answer(
        asked(PROCESSES, "supervisor.getState"),
        ALICE,
        UpstreamResponse(200, {b"content-type": given_type}, body),
    )
    assert (reply.status, reply.body, reply.content_type, reply.outcome) == (
        200,
        body,
        passed,
        "ok",
    )


def test_a_fault_of_the_upstream_is_recorded_as_one() -> None:
    """It passes as it is, and the record tells it from a result."""
    reply = PROCESSES.answer(
        asked(PROCESSES, "supervisor.getState"),
        ALICE,
        UpstreamResponse(200, {b"content-type": XML}, encode_fault(10, "BAD_NAME")),
    )
    assert (read(reply), reply.outcome) == (Fault(10, "BAD_NAME"), "fault")


# -- luigid


SAMPLES: dict[str, Value] = {
    "boolean": True,
    "integer": 2**40,
    "unsigned": 3,
    "finite": 1.5,
    "number": 1.5,
    "positive": 1.5,
    "percentage": 50,
    "task-id": "A_1_2",
    "task-ids": ["A_1_2"],
    "worker-id": "w",
    "family": "A",
    "module": "a.b",
    "url": "https://a.example/",
    "resource": "db",
    "resources": {"db": 1},
    "params": {"a": "b"},
    "visibilities": {"a": 0},
    "retry-policy": {"retry_count": 3},
    "string-list": ["a"],
    "status": "RUNNING",
    "status-filter": "RUNNING",
    "upstream-status-filter": "",
    "object": {},
    "any": "x",
    "json": "x",
}


def sample(method: Method) -> dict[str, Value]:
    """An argument for each name that the method has, of a value that its type takes."""
    args: dict[str, Value] = {}
    for argument in method.arguments:
        candidates: list[Value] = [
            SAMPLES.get(argument.type, "x"),
            "x",
            1,
            True,
            {},
            [],
            [["a", 1]],
            {"a": 1},
        ]
        args[argument.name] = next(
            value for value in candidates if method.checks[argument.name][0].accepts(value)
        )
    if "batch_id" in args:
        args["batch_id"] = BATCHES.sign(ALICE, str(args["family"]), "0cc175b9", "A_1")
    return args


METHODS = sorted(name for name in LUIGI.methods if not name.startswith("page."))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_luigid_by_position_by_name_and_as_json_is_one_call(name: str) -> None:
    """Whichever way it comes, it is the same call to policy and record, and the same to luigid."""
    args = sample(LUIGI.methods[name])
    by_name = asked(TASKS, name, args)
    form = urlencode({"data": json.dumps(args)}).encode()
    (api,) = API.decode(
        request(form, kind=b"application/x-www-form-urlencoded"), f"/api/{name}", ALICE
    ).calls
    assert by_name == api
    here, there = TASKS.encode(by_name, ALICE, request()), API.encode(api, ALICE, request())
    assert replace(here, body=b"") == replace(there, body=b"")
    assert sent_to_luigid(here) == sent_to_luigid(there)
    if name != "update_resources":  # its keywords are the data: they have no places
        assert asked(TASKS, name, *args.values()) == api


def sent_to_luigid(outbound: UpstreamRequest) -> Any:
    """The arguments that luigid will read in a call."""
    [data] = parse_qs(outbound.body.decode(), strict_parsing=True)["data"]
    return json.loads(data)


def test_nulls_and_large_integers_reach_luigid() -> None:
    """nil is JSON's null, and i8 keeps its digits; what is left out is not sent, so that luigid's
    default holds.
    """
    call = asked(
        TASKS, "add_task", {"task_id": "A_1", "worker": "w", "deps": None, "priority": 2**62}
    )
    sent = sent_to_luigid(TASKS.encode(call, ALICE, request()))
    assert sent == {"task_id": "A_1", "worker": "w [okta:alice]", "deps": None, "priority": 2**62}


@given(VALUES)
def test_what_luigid_is_sent_is_what_came(value: Value) -> None:
    """Every value that JSON can carry means the same there, and is of the same type; every other is
    refused.
    """
    document = encode_call("count_pending", [{"worker": "w", "value": value}])
    try:
        json.dumps(value)
    except TypeError:
        assert refused(TASKS, request(document)).reason is Reason.BAD_ARGUMENTS
    else:
        sent = sent_to_luigid(
            TASKS.encode(
                asked(TASKS, "count_pending", {"worker": "w", "value": value}), ALICE, request()
            )
        )
        assert typed(sent["value"]) == typed(value)


@pytest.mark.parametrize(
    "value",
    [b"x", DateTime("20260101T00:00:00"), [b"x"], {"a": {"b": [DateTime("20260101T00:00:00")]}}],
)
def test_what_json_has_no_type_for_is_refused(value: Value) -> None:
    """At any depth, by position or by name: luigid could not be told it."""
    for params in ([value], [{"task_id": "A_1", "worker": "w", "params": value}]):
        error = refused(TASKS, request(encode_call("add_task", params)))
        assert error.reason is Reason.BAD_ARGUMENTS


def test_pages_are_no_methods_here() -> None:
    """They answer HTML: not called, and not listed."""
    assert not asked(TASKS, "page.visualiser").in_catalog
    listed = read(TASKS.introspect(asked(TASKS, "system.listMethods"), lambda method: True))
    assert isinstance(listed, list)
    assert set(METHODS) < set(map(str, listed))
    assert not [name for name in listed if str(name).startswith("page.")]


def test_too_many_by_position_are_refused() -> None:
    """There is no name for them."""
    assert refused(TASKS, request(encode_call("is_paused", [1]))).reason is Reason.BAD_ARGUMENTS
    assert (
        refused(PROCESSES, request(encode_call("supervisor.getState", [1]))).reason
        is Reason.BAD_ARGUMENTS
    )


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60_000))
def test_luigids_json_is_one_document_however_it_arrives(cuts: list[int], repeats: int) -> None:
    """Cut anywhere, small or large, whole or streamed, the answer is the same methodResponse."""
    value: Value = {
        "T_1": {"name": "é\U0001f600 <&>", "deps": [], "priority": -1.5, "none": None, "yes": True},
        "n": "x" * repeats,
    }
    body = b'{"response": ' + json.dumps(value).encode() + b"}"
    parts, rest = [], body
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    call = asked(TASKS, "task_list")
    streamed = TASKS.answer(call, ALICE, UpstreamResponse(200, JSON, stream=Parts([*parts, rest])))
    assert (streamed.length, streamed.body) == (None, b"")
    document = asyncio.run(whole(streamed))
    assert document == TASKS.answer(call, ALICE, UpstreamResponse(200, JSON, body)).body
    assert decode_response(document) == value


@pytest.mark.parametrize(
    "body",
    [b'{"response": [1, 2', b'{"response": NaN}', b'{"response": 1}x', b'{"response": "\xff"}'],
)
def test_broken_json_is_never_passed_as_whole(body: bytes) -> None:
    """Small, it becomes a refusal; streamed, an error in the middle that the edge cuts the
    connection for.
    """
    call = asked(TASKS, "task_list")
    with pytest.raises(Unavailable) as error:
        TASKS.answer(call, ALICE, UpstreamResponse(200, JSON, body))
    assert error.value.reason is Reason.UPSTREAM_INVALID
    with pytest.raises(Unavailable):
        asyncio.run(
            whole(TASKS.answer(call, ALICE, UpstreamResponse(200, JSON, stream=Parts([body]))))
        )


async def test_a_transcoded_stream_that_is_left_leaves_its_upstream() -> None:
    """Giving it up gives up what it reads from, and it has no further part."""
    source = Parts([b'{"response": [1, ', b"2]}"])
    stream = TASKS.answer(
        asked(TASKS, "task_list"), ALICE, UpstreamResponse(200, JSON, stream=source)
    ).stream
    assert stream is not None
    assert (await stream.__anext__()).startswith(b"<?xml")
    await stream.aclose()
    assert source.closed
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()


# -- system.multicall


def test_a_bundle_is_taken_apart() -> None:
    """Calls, the gate's own methods, and entries that are no calls stand in their order, each by
    itself.
    """
    items = bundled(
        PROCESSES,
        entry("supervisor.getState"),
        entry("supervisor.startProcess"),
        entry("system.multicall", []),
        entry("system.listMethods"),
        7,
    )
    assert [item.method if isinstance(item, Call) else item.reason for item in items] == [
        "supervisor.getState",
        Reason.BAD_ARGUMENTS,
        Reason.CALL_TOO_COMPLEX,
        "system.listMethods",
        Reason.MALFORMED_CALL,
    ]


@BOTH
def test_a_bundle_has_a_bound(dialect: XmlRpcCodec) -> None:
    """Five here; one more is refused as a whole."""
    assert len(bundled(dialect, *[entry("x")] * 5)) == 5
    too_many = request(encode_call("system.multicall", [[entry("x")] * 6]))
    assert refused(dialect, too_many).reason is Reason.CALL_TOO_COMPLEX


@BOTH
def test_an_empty_bundle_is_a_call_of_the_gates_own(dialect: XmlRpcCodec) -> None:
    """No inner call would leave a record of it, so it leaves one itself; the answer is what every
    server gives.
    """
    call = asked(dialect, "system.multicall", [])
    assert (call.target, call.method, call.permission) == (
        Target.GATE,
        "system.multicall",
        "view",
    )
    assert read(dialect.introspect(call, lambda method: False)) == []


def test_the_answers_of_a_bundle() -> None:
    """A result is an array of one, a fault a struct, a refusal a fault with its code."""
    refusal = Refusal.from_error(Rejected(Reason.BAD_ARGUMENTS, "name is missing"), "REF")
    assert read(PROCESSES.render_batch([1, Fault(10, "BAD_NAME"), refusal, None])) == [
        [1],
        {"faultCode": 10, "faultString": "BAD_NAME"},
        {"faultCode": -32602, "faultString": refusal.message},
        [None],
    ]


async def test_inner_answers_share_their_room() -> None:
    """What is held of them together is bounded, whole or streamed; the one that does not fit is
    refused and read no further.
    """
    body = encode_response("x" * 1000)
    room = ByteBudget(2 * len(body) + 10)
    assert await PROCESSES.read_result(Response(200, body), room, "ref") == "x" * 1000
    assert (
        await PROCESSES.read_result(
            Response(200, stream=Parts([body[:500], body[500:]])), room, "ref"
        )
        == "x" * 1000
    )
    assert room.left == 10
    for reply in (Response(200, body), Response(200, stream=Parts([body, body]))):
        with pytest.raises(Rejected) as error:
            await PROCESSES.read_result(reply, room, "ref")
        assert error.value.reason is Reason.CALL_TOO_COMPLEX
    assert await PROCESSES.read_result(
        Response(200, encode_fault(10, "x")), ByteBudget(), "ref"
    ) == Fault(10, "x")


async def test_inner_answers_that_cannot_be_read_are_refused() -> None:
    """An upstream's odd document passes alone, but cannot become part of the gate's own."""
    for reply in (
        Response(200, b"<html>"),
        Response(200, stream=Parts([b"<"], Unavailable(Reason.UPSTREAM_CLOSED))),
    ):
        with pytest.raises(Unavailable):
            await PROCESSES.read_result(reply, ByteBudget(), "ref")


# -- the gate's own methods


def test_introspection_keeps_every_argument() -> None:
    """What was asked is what is recorded and judged: an argument too many is not dropped."""
    call = asked(PROCESSES, "system.methodHelp", "supervisor.getState", "x", 3)
    assert dict(call.args) == {"method": "supervisor.getState", "1": "x", "2": 3}
    fault = read(PROCESSES.introspect(call, lambda method: True))
    assert isinstance(fault, Fault)
    assert fault.code == -32602


def test_introspection_shows_what_the_caller_may_call() -> None:
    """The predicate is asked of each method; what it denies is not there."""
    call = asked(PROCESSES, "system.listMethods")
    listed = read(
        PROCESSES.introspect(call, lambda name: SUPERVISOR.methods[name].permission == "view")
    )
    assert isinstance(listed, list)
    assert {name for name in listed if not str(name).startswith("system.")} == {
        name for name, method in SUPERVISOR.methods.items() if method.permission == "view"
    }
    denied = PROCESSES.introspect(
        asked(PROCESSES, "system.methodHelp", "supervisor.shutdown"), lambda method: False
    )
    assert (read(denied), denied.outcome) == (
        read(PROCESSES.introspect(asked(PROCESSES, "system.methodHelp", "none"), lambda m: True)),
        "fault",
    )


# -- refusals


@BOTH
@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ALLOWED])
def test_every_reason_is_told_in_the_callers_protocol(dialect: XmlRpcCodec, reason: Reason) -> None:
    """A fault in a 200, except for who are you (401, with a challenge) and wrong verb (405, with
    the right one).
    """
    refusal = Refusal.from_error(Rejected(reason, "detail"), "REF")
    reply = dialect.render(refusal)
    headers = dict(reply.headers)
    if REASONS[reason].status == 401:
        assert (reply.status, b"Basic" in headers[b"www-authenticate"]) == (401, True)
    elif reason is Reason.METHOD_NOT_ALLOWED:
        assert (reply.status, headers[b"allow"]) == (405, b"POST")
    else:
        fault = read(reply)
        assert isinstance(fault, Fault)
        assert fault.text == refusal.message
        assert f"[{reason}, ref REF]" in fault.text
        assert fault.code in (REASONS[reason].status, -32700, -32600, -32602)


def test_codes_of_calls_that_are_wrong_in_themselves() -> None:
    """They have the codes of the XML-RPC fault code conventions, which libraries know."""
    codes: Mapping[Reason, int] = {
        Reason.MALFORMED_CALL: -32700,
        Reason.AMBIGUOUS_CALL: -32600,
        Reason.BAD_ARGUMENTS: -32602,
    }
    for reason, code in codes.items():
        fault = read(PROCESSES.render(Refusal.from_error(Rejected(reason), "REF")))
        assert isinstance(fault, Fault)
        assert fault.code == code


def test_retry_after_is_a_header_of_the_fault() -> None:
    """A client that looks at headers learns when to come back."""
    reply = PROCESSES.render(
        Refusal.from_error(Unavailable(Reason.UPSTREAM_UNREACHABLE, retry_after=5), "REF")
    )
    assert dict(reply.headers)[b"retry-after"] == b"5"


def disabled(reason: Reason) -> Refusal:
    """A refusal of get_work."""
    return Refusal(reason, REASONS[reason].status, "line", "remedy", "REF", method="get_work")


@pytest.mark.parametrize("reason", [Reason.NO_POLICY_ALLOWS, Reason.DRAINING])
def test_a_denied_get_work_is_luigids_own_answer(reason: Reason) -> None:
    """Alone and in a bundle, through this door as through the other; a supervisord has no such
    answer.
    """
    assert read(TASKS.render(disabled(reason))) == WORKER_SHUTDOWN
    assert read(TASKS.render_batch([disabled(reason)])) == [[WORKER_SHUTDOWN]]
    assert isinstance(read(PROCESSES.render(disabled(reason))), Fault)
    results: Any = read(PROCESSES.render_batch([disabled(reason)]))
    assert results[0]["faultCode"] == REASONS[reason].status
