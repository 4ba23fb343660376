"""A large call away from the event loop comes to what it comes to on it."""

import json
from dataclasses import replace

import pytest

from proxy.audit.format.record import RecordEncoder
from proxy.audit.redaction.redactor import Redactor
from proxy.catalog.loading import load_catalog
from proxy.errors import Rejected
from proxy.gate.execution import encode_call
from proxy.gate.ports import Prepared
from proxy.gate.routing import Endpoint, Router, make_route
from proxy.model import (
    Call,
    Decision,
    Peer,
    PreparedCall,
    Principal,
    Reason,
    Receipt,
    Request,
    Target,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.policy.engine import PolicySet
from proxy.policy.load import load_policies
from proxy.protocol.catalog_call import with_prepared
from proxy.protocol.codec_table import CodecOptions
from proxy.protocol.luigi.task_reports import TaskReports
from proxy.runtime.event_loop.large_call_handler import EncodeJob, LargeCallHandler, prepare
from tests.support.largest_calls import LargeCall, all_calls
from tests.support.paths import ROOT

POLICIES = ROOT / "policies"
ADMIN = Principal("https://local", "local", "ann", ("admin", "worker"))
ENCODER = RecordEncoder(Redactor(b"k" * 32))
SIZE = 40_000


class NoUpstream:
    """An upstream that nothing is sent to."""

    async def forward(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        """Fail."""
        raise AssertionError


@pytest.fixture(scope="module")
def router() -> Router:
    """Make the codecs of luigid, and of an XML-RPC server."""
    luigi = load_catalog(POLICIES / "catalogs" / "luigi.toml")
    bench = load_catalog(ROOT / "tests" / "bench" / "conf" / "catalog.toml")
    common = {"max_batch_calls": 100, "body_bytes": 1 << 20, "luigi_batch_key": b"k" * 32}
    options = [
        CodecOptions("luigi", luigi, prefix="/", **common),  # type: ignore[arg-type]  # as named
        CodecOptions("bench", bench, prefix="/bench", **common),  # type: ignore[arg-type]  # as named
    ]
    return Router([make_route(each, NoUpstream()) for each in options])


@pytest.fixture(scope="module")
def policies(router: Router) -> PolicySet:
    """Load the shipped policies for both."""
    return load_policies(POLICIES, {route.name: route.catalog for route in router.routes})


def request_of(call: LargeCall) -> Request:
    """Return the request of a large call."""
    headers = {b"content-type": call.content_type.encode()}
    if call.encoding:
        headers[b"content-encoding"] = call.encoding.encode()
    return Request("R1", "POST", call.path, None, headers, call.body, Peer("::1", 1, None, ""))


def prepared_of(call: LargeCall, router: Router, policies: PolicySet) -> tuple[Prepared, Endpoint]:
    """Return what a large call is prepared to."""
    endpoint = router.resolve(call.path)
    assert endpoint.codec is not None
    request = request_of(call)
    encode = ENCODER.encode_args
    return prepare(request, endpoint, endpoint.codec, ADMIN, policies, encode), endpoint


def cases() -> list[LargeCall]:
    """Return every kind of large call, of a size that the event loop handles too."""
    return list(all_calls("/bench/RPC2", SIZE))


@pytest.mark.parametrize("call", cases(), ids=lambda call: call.name)
def test_a_call_is_decided_recorded_and_encoded_alike(
    call: LargeCall, router: Router, policies: PolicySet
) -> None:
    """The same decision, the same bytes in the record, the same bytes for the upstream."""
    endpoint = router.resolve(call.path)
    codec = endpoint.codec
    assert codec is not None
    try:
        batch = codec.decode(request_of(call), endpoint.path, ADMIN)
    except Rejected as error:
        with pytest.raises(Rejected) as caught:
            prepared_of(call, router, policies)
        assert (caught.value.reason, caught.value.detail) == (error.reason, error.detail)
        assert error.reason.value == call.refused
        return
    prepared, _ = prepared_of(call, router, policies)
    assert replace(prepared.batch, calls=()) == replace(batch, calls=())
    for here, there, decision in zip(
        batch.calls, prepared.batch.calls, prepared.decisions, strict=True
    ):
        assert decision == policies.decide(ADMIN, here)
        assert ENCODER.encode_args(there) == ENCODER.encode_args(here)
        left = replace(there, args=here.args, related_tasks=here.related_tasks, prepared=None)
        assert left == here
        if decision.allowed:
            sent = encode_call(codec, there, ADMIN, request_of(call))
            assert sent == codec.encode(here, ADMIN, request_of(call))
            assert len(repr(there.args)) < 20_000


def test_a_question_to_the_gate_keeps_its_short_arguments(
    router: Router, policies: PolicySet
) -> None:
    """It is answered from what is left of them."""
    text = "<string>task_list</string>"
    params = f"<param><value>{text}</value></param>"
    body = f"<methodCall><methodName>system.methodHelp</methodName><params>{params}</params></methodCall>"
    call = LargeCall("help", "/RPC2", "text/xml", body.encode())
    prepared, _ = prepared_of(call, router, policies)
    [question] = prepared.batch.calls
    assert question.target is Target.GATE
    assert question.args == {"method": "task_list"}
    assert question.prepared is not None
    assert question.prepared.request is None


def test_a_call_that_cannot_be_encoded_fails_where_it_would_be_sent() -> None:
    """After its record, as on the event loop."""
    call = Call("up", "xmlrpc", "m", "work", {})
    failed = with_prepared(call, None, PreparedCall(0, b"{}", None, (Reason.BAD_ARGUMENTS, "no")))
    with pytest.raises(Rejected) as caught:
        encode_call(None, failed, ADMIN, request_of(LargeCall("", "/", "", b"")))  # type: ignore[arg-type]  # not asked
    assert (caught.value.reason, caught.value.detail) == (Reason.BAD_ARGUMENTS, "no")


def test_an_error_of_the_encoder_is_kept_for_later(router: Router, policies: PolicySet) -> None:
    """A codec that rejects while it encodes."""
    codec = router.resolve("/api/ping").codec
    assert codec is not None
    call = LargeCall("", "/api/ping", "application/x-www-form-urlencoded", b'data={"worker":"w"}')
    batch = codec.decode(request_of(call), "/api/ping", ADMIN)

    class Refusing:
        def decode(self, *args: object) -> object:
            return batch

        def encode(self, *args: object) -> object:
            raise Rejected(Reason.BAD_ARGUMENTS, "cannot be written")

    prepared = prepare(
        request_of(call),
        router.resolve("/api/ping"),
        Refusing(),  # type: ignore[arg-type]  # as much of a codec as is used
        ADMIN,
        policies,
        ENCODER.encode_args,
    )
    [made] = prepared.batch.calls
    assert made.prepared == PreparedCall(
        0, b'{"worker":"w"}', None, (Reason.BAD_ARGUMENTS, "cannot be written")
    )
    assert isinstance(prepared.decisions[0], Decision)


def test_a_call_is_encoded_without_what_the_caller_may_not_say(
    router: Router, policies: PolicySet
) -> None:
    """The same bytes as on the event loop, whichever call of the request it is."""
    handler = LargeCallHandler(router, policies, ENCODER.encode_args)
    body = b'data={"task_id":"etl_A","worker":"w","family":"etl","expl":"x","new_deps":[]}'
    call = LargeCall("", "/api/add_task", "application/x-www-form-urlencoded", body)
    encoded = handler.handle(EncodeJob(request_of(call), ADMIN, 0, ("expl", "new_deps")))
    assert isinstance(encoded, UpstreamRequest)
    sent = json.loads(encoded.body.removeprefix(b"data=").replace(b"+", b" "))
    assert sent == {"task_id": "etl_A", "worker": "w [local:ann]", "family": "etl"}


@pytest.mark.parametrize(
    "more",
    [
        {"new_deps": [["m", "f", {}]]},
        {"batch_id": "b"},
        {"expl": "x" * 99_999},
        {"expl": ""},
        {"tracking_url": "http://x"},
        {f"x{n}": n for n in range(50)} | {"new_deps": [["m", "f", {}]]},
    ],
)
def test_what_is_asked_before_a_report_is_asked_of_what_is_left(more: dict[str, Value]) -> None:
    """A report on another's task is no way around because it is large."""
    method = load_catalog(POLICIES / "catalogs" / "luigi.toml").methods["add_task"]
    args: dict[str, Value] = {"task_id": "etl_" + "A" * 1_000, "worker": "w", "status": "DONE"}
    call = Call("luigi", "luigi", "add_task", "work", args | more)
    left = with_prepared(call, method, PreparedCall(0, b"", None))
    asked, expected = (TaskReports().question(each, ADMIN, ()) for each in (left, call))
    assert (asked is None) == (expected is None)
    if asked is not None and expected is not None:
        assert asked.request == expected.request
