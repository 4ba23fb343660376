"""What is large is handled away from the event loop: which documents are, and what becomes of them.

The double here does that work in place, by the handler of the processes, and notes each job.
"""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.audit.format.record import RecordEncoder
from proxy.audit.redaction.redactor import Redactor
from proxy.audit.writing.journal import Journal
from proxy.audit.writing.keys import load_hmac_key
from proxy.gate.pipeline import Gate
from proxy.gate.ports import Prepared
from proxy.gate.routing import Router, make_route
from proxy.model import (
    Call,
    Principal,
    Reason,
    Receipt,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.policy.load import load_policies
from proxy.policy.reachability import may_be_allowed
from proxy.protocol.codec import LARGE_BYTES, LARGE_ELEMENTS, LARGE_XML_ELEMENTS, Result, is_large
from proxy.protocol.refusal import Refusal
from proxy.protocol.xmlrpc.codec import decode_response, encode_call, encode_response
from proxy.runtime.event_loop.large_call_handler import (
    AnswerJob,
    Done,
    EncodeJob,
    Failure,
    Job,
    LargeCallHandler,
    NoUpstream,
    PrepareJob,
    RenderJob,
)
from proxy.telemetry.metrics import Metrics
from tests.gate.test_pipeline import NOW, POLICIES, Bench, calls_of

JSON = {b"content-type": b"application/json"}


class InPlace:
    """Does the jobs at once, and notes them."""

    def __init__(self, handler: LargeCallHandler) -> None:
        self._handler = handler
        self.jobs: list[Job] = []

    async def prepare(self, request: Request, principal: Principal) -> Prepared:
        result = self._do(PrepareJob(request, principal))
        assert isinstance(result, Prepared)
        return result

    async def encode_without(
        self, request: Request, principal: Principal, index: int, dropped: Sequence[str]
    ) -> UpstreamRequest:
        result = self._do(EncodeJob(request, principal, index, tuple(dropped)))
        assert isinstance(result, UpstreamRequest)
        return result

    async def answer(
        self, request: Request, call: Call, principal: Principal, response: UpstreamResponse
    ) -> Response:
        result = self._do(AnswerJob(request, call, principal, response))
        assert isinstance(result, Response)
        return result

    async def render_batch(
        self, request: Request, principal: Principal, results: Sequence[Result | Refusal]
    ) -> Response:
        result = self._do(RenderJob(request, tuple(results)))
        assert isinstance(result, Response)
        return result

    def _do(self, job: Job) -> Done:
        self.jobs.append(job)
        result = self._handler.handle(job)
        if isinstance(result, Failure):
            result.raise_it()
        assert not isinstance(result, Failure)
        return result


class LargeBench(Bench):
    """A gate with large calls; the codecs of the event loop have its limits of elements."""

    large: InPlace

    def use_large_calls(self) -> None:
        """Make the gate anew, with policies that remember nothing of another test."""
        self.policy = load_policies(
            POLICIES, {each.upstream: each.catalog for each in self.options}
        )
        key = load_hmac_key(self.audit)
        options = [replace(each, body_bytes=16 << 20, luigi_batch_key=key) for each in self.options]
        redactor = Redactor(key)
        self.large = InPlace(
            LargeCallHandler(
                Router([make_route(each, NoUpstream()) for each in options]),
                self.policy,
                RecordEncoder(redactor).encode_args,
            )
        )
        limits = {"max_elements": LARGE_ELEMENTS, "max_xml_elements": LARGE_XML_ELEMENTS}
        self.gate = Gate(
            [make_route(replace(each, **limits), self.upstream) for each in options],  # type: ignore[arg-type]  # as named
            self.verifier,
            self.policy,
            self.journal,
            Metrics(),
            self.log,
            max_in_flight=8,
            large_calls=self.large,
            clock=lambda: NOW,
        )


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[LargeBench]:
    """A gate over a fresh journal."""
    journal = Journal.open(tmp_path / "audit", name="gate")
    bench = LargeBench(tmp_path, journal)
    bench.use_large_calls()
    await bench.verifier.start()
    yield bench
    await bench.verifier.close()
    await journal.close()


def add_task(**more: object) -> bytes:
    """Return the form of an ``add_task``."""
    args = {"task_id": "etl_A", "worker": "w", "family": "etl"} | more
    return b"data=" + json.dumps(args, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("more", "large"),
    [
        ({}, False),
        ({"x": "x" * 100_000}, False),
        ({"x": "x" * LARGE_BYTES}, True),
        ({"deps": ["a"] * (LARGE_ELEMENTS - 20)}, False),
        ({"deps": ["a"] * (LARGE_ELEMENTS + 20)}, True),
        ({"params": {f"p{n}": n for n in range(LARGE_ELEMENTS + 20)}}, True),
        ({"x": [[]] * LARGE_ELEMENTS}, True),
    ],
    ids=["small", "bytes", "many bytes", "items", "many items", "members", "brackets"],
)
async def test_large_documents_are_not_decoded_on_the_loop(
    bench: LargeBench, more: dict[str, object], large: bool
) -> None:
    """By their bytes or their elements; the same call reaches luigid, with the same record."""
    reply = await bench.ask("/api/add_task", "worker", add_task(**more))
    assert reply.status == 200
    assert [type(job) for job in bench.large.jobs] == [PrepareJob] * large
    [sent] = bench.upstream.sent
    args = json.loads(sent.body.removeprefix(b"data=").replace(b"+", b" "))
    assert args == {"task_id": "etl_A", "family": "etl", "worker": "w [local:worker-1]"} | more
    assert bench.upstream.recorded == [True]
    await bench.journal.close()
    decided, completed = calls_of(bench.audit)
    assert (decided["method"], decided["task"]) == ("add_task", "etl_A")
    assert decided["args"]["task_id"] == "etl_A"
    assert completed["outcome"] == "ok"


async def test_without_the_guard_the_loop_decodes_it(bench: LargeBench) -> None:
    """The old behaviour: a gate that has no processes for large calls."""
    bench.use(bench.upstream)
    assert (await bench.ask("/api/add_task", "worker", add_task(x="x" * 500_000))).status == 200
    assert not bench.large.jobs


async def test_a_large_call_without_a_role_is_refused_before_any_of_this(bench: LargeBench) -> None:
    """Role before work: neither a job nor a byte decoded."""
    reply = await bench.ask("/api/add_task", "stranger", add_task(x="x" * 500_000))
    assert reply.status == 403
    assert not bench.large.jobs


async def test_a_large_call_is_denied_and_refused_as_any_other(bench: LargeBench) -> None:
    """By policy, by its arguments, and while the gate drains."""
    body = add_task(x="x" * 500_000)
    assert (await bench.ask("/api/add_task", "viewer", body)).status == 403
    reply = await bench.ask("/api/add_task", "worker", add_task(priority="x" * 500_000))
    assert json.loads(reply.body)["error"]["reason"] == Reason.BAD_ARGUMENTS
    bench.gate.draining = True
    work = b'data={"worker":"w","host":"h","x":"' + b"y" * 500_000 + b'"}'
    reply = await bench.ask("/api/get_work", "worker", work)
    assert json.loads(reply.body)["response"]["worker_state"] == "disabled"
    assert len(bench.large.jobs) == 3
    assert not bench.upstream.sent
    await bench.journal.close()
    reasons = [record["reason"] for record in calls_of(bench.audit)]
    assert reasons == ["no-policy-allows", "bad-arguments", "draining"]


async def test_a_large_report_on_the_task_of_another_is_amended_there(bench: LargeBench) -> None:
    """What is another's to say is left out of it, as of a small one; the record says so."""
    upstream = bench.upstream
    forward = upstream.forward
    runs = {"etl_A": {"status": "RUNNING", "worker_running": "v [local:other]"}}

    async def answer(receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        document = {"response": runs if request.kind == "question" else None}
        upstream.answer = UpstreamResponse(200, JSON, json.dumps(document).encode())
        return await forward(receipt, request)

    upstream.forward = answer  # type: ignore[method-assign,assignment]  # a double
    reply = await bench.ask("/api/add_task", "worker", add_task(expl="boo", x="y" * 500_000))
    assert reply.status == 200
    assert [type(job) for job in bench.large.jobs] == [PrepareJob, EncodeJob]
    question, sent = bench.upstream.sent
    assert question.path == b"/api/dep_graph"
    args = json.loads(sent.body.removeprefix(b"data=").replace(b"+", b" "))
    assert args.keys() == {"task_id", "family", "worker", "x"}
    await bench.journal.close()
    outcome = calls_of(bench.audit)[-1]
    assert (outcome["outcome"], outcome["reason"]) == ("failed", "not-your-worker")


async def test_the_memory_of_decoding_is_given_back_before_the_call_is_sent(
    bench: LargeBench,
) -> None:
    """Elsewhere the arguments are gone by then: what is left are the body and the request."""
    held: list[int] = []
    forward = bench.upstream.forward

    async def note(receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        held.append(bench.gate._memory.in_use)
        return await forward(receipt, request)

    bench.upstream.forward = note  # type: ignore[method-assign,assignment]  # a double
    assert (await bench.ask("/api/add_task", "worker", add_task(x="x" * 1_000_000))).status == 200
    assert 2_000_000 <= held[0] < 2_100_000
    assert bench.gate._memory.in_use == 0


async def test_what_is_too_complex_is_refused_there(bench: LargeBench) -> None:
    """The limits of a call are the same as before."""
    deep = b'data={"worker":"w","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    reply = await bench.ask("/api/ping", "worker", deep)
    assert json.loads(reply.body)["error"]["reason"] == Reason.CALL_TOO_COMPLEX
    assert len(bench.large.jobs) == 1


@pytest.mark.interpreted
async def test_a_decision_that_takes_long_is_made_there(
    bench: LargeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where policies read more of a call than a step of the loop has time for."""
    decide, decided = bench.policy.decide, []

    def decide_once(principal: Principal, call: Call) -> object:
        decided.append(call)
        if len(decided) == 1:
            return bench.policy.deny(Reason.CALL_TOO_COMPLEX)
        return decide(principal, call)

    monkeypatch.setattr(bench.policy, "decide", decide_once)
    reply = await bench.ask("/api/add_task", "worker", add_task())
    assert reply.status == 200
    assert [type(job) for job in bench.large.jobs] == [PrepareJob]
    assert len(bench.upstream.sent) == 1


def gzipped(body: bytes) -> bytes:
    """Return `body` as one member of gzip."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(body) + packer.flush()


async def test_a_gzip_body_is_large_by_what_it_becomes(bench: LargeBench) -> None:
    """It says so in its last bytes; nothing is inflated on the loop to find out."""
    for size, jobs in ((50_000, 0), (200_000, 1)):
        args: dict[str, object] = {"worker": "w", "x": "y" * size}
        body = gzipped(encode_call("ping", [args]))  # type: ignore[list-item]  # of texts
        assert len(body) < 2_000
        reply = await bench.ask("/RPC2", "worker", body, b"text/xml", content_encoding=b"gzip")
        assert decode_response(reply.body) is None
        assert len(bench.large.jobs) == jobs


async def test_a_large_answer_is_rewritten_there(bench: LargeBench) -> None:
    """What a worker gets has its own suffix taken off, whatever its size."""
    tasks = [{"worker": "w [local:worker-1]", "task_id": f"t{n}"} for n in range(5_000)]
    body = json.dumps({"response": {"running_tasks": tasks, "task_id": None}}).encode()
    bench.upstream.answer = UpstreamResponse(200, JSON, body)
    reply = await bench.ask("/api/get_work", "worker", b'data={"worker":"w","host":"h"}')
    running = json.loads(reply.body)["response"]["running_tasks"]
    assert {task["worker"] for task in running} == {"w"}
    assert [type(job) for job in bench.large.jobs] == [AnswerJob]


async def test_a_large_answer_that_is_passed_on_is_not_handled_at_all(bench: LargeBench) -> None:
    """Of a view only the beginning is read, as XML-RPC it becomes another document."""
    body = json.dumps({"response": ["x" * 200_000]}).encode()
    bench.upstream.answer = UpstreamResponse(200, JSON, body)
    assert (await bench.ask("/api/task_list", "viewer")).body == body
    assert not bench.large.jobs
    reply = await bench.xmlrpc("/RPC2", "viewer", "task_list", "", "")
    assert decode_response(reply.body) == ["x" * 200_000]
    assert [type(job) for job in bench.large.jobs] == [AnswerJob]


async def test_a_large_answer_that_is_none_fails_the_call(bench: LargeBench) -> None:
    """With the reason that it has on the loop."""
    bench.upstream.answer = UpstreamResponse(200, JSON, b'{"response":' + b"[" * 200_000)
    reply = await bench.ask("/api/get_work", "worker", b'data={"worker":"w","host":"h"}')
    assert json.loads(reply.body)["error"]["reason"] == Reason.UPSTREAM_INVALID
    assert len(bench.large.jobs) == 1


async def test_the_answers_of_a_batch_are_read_there_once_they_are_large(bench: LargeBench) -> None:
    """Together; one that cannot be read is a fault in its place."""
    documents = [encode_response("x" * 60_000), encode_response("y" * 90_000), b"<odd>" + b"z" * 9]
    answers = iter(documents)
    upstream = bench.upstream
    forward = upstream.forward

    async def next_answer(receipt: object, request: object) -> UpstreamResponse:
        upstream.answer = UpstreamResponse(200, {b"content-type": b"text/xml"}, next(answers))
        return await forward(receipt, request)  # type: ignore[arg-type]  # passed on

    upstream.forward = next_answer  # type: ignore[method-assign,assignment]  # a double
    calls = [{"methodName": "supervisor.getState", "params": []}] * 3
    reply = await bench.xmlrpc("/processes/RPC2", "viewer", "system.multicall", calls)
    results: Any = decode_response(reply.body)
    first, second, third = results
    assert (first, second) == (["x" * 60_000], ["y" * 90_000])
    assert third["faultCode"] == 502
    assert "ref " in third["faultString"]
    assert [type(job) for job in bench.large.jobs] == [RenderJob]


def test_which_answers_are_large() -> None:
    """By bytes, and by elements unless they are few bytes."""
    assert not is_large(b"x" * LARGE_BYTES)
    assert is_large(b"x" * (LARGE_BYTES + 1))
    assert not is_large(b"[" * 16_384)
    assert is_large(b"[" * 16_385)
    assert not is_large(b'"text" ' * 10_000)


@pytest.mark.interpreted
async def test_a_batch_is_decided_one_call_a_step(
    bench: LargeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop runs between two decisions of a batch."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    seen: list[int] = []
    decide = bench.policy.decide

    def decide_and_note(principal: Principal, call: Call) -> object:
        seen.append(turns)
        return decide(principal, call)

    monkeypatch.setattr(bench.policy, "decide", decide_and_note)
    counting = asyncio.create_task(count())
    calls = [{"methodName": "supervisor.getState", "params": []}] * 10
    await bench.xmlrpc("/processes/RPC2", "viewer", "system.multicall", calls)
    counting.cancel()
    assert len(set(seen)) == 10


@pytest.mark.interpreted
async def test_a_list_of_methods_is_made_one_method_a_step(
    bench: LargeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a thousand policies all of it took 40 to 110 ms, for everybody."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    seen: list[int] = []

    def note(*args: object) -> bool:
        seen.append(turns)
        return may_be_allowed(*args)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr("proxy.policy.engine.may_be_allowed", note)
    counting = asyncio.create_task(count())
    reply = await bench.xmlrpc("/RPC2", "viewer", "system.listMethods")
    assert "task_list" in str(decode_response(reply.body))
    assert len(seen) > 20
    assert len(set(seen)) == len(seen)
    again = await bench.xmlrpc("/RPC2", "viewer", "system.listMethods")
    counting.cancel()
    assert again.body == reply.body
    assert len(set(seen)) == len(seen), "and is remembered"


def test_the_handler_knows_the_paths_that_have_a_codec(tmp_path: Path) -> None:
    """A job for another path is a failure, not an error."""
    handler = LargeCallHandler(Router([]), None, lambda call: b"")  # type: ignore[arg-type]  # not asked
    request = Request("R", "POST", "/x", None, {}, b"", None)  # type: ignore[arg-type]  # not asked
    result = handler.handle(RenderJob(request, ()))
    assert isinstance(result, Failure)
    assert result.reason is Reason.NOT_FOUND
