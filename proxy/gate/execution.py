"""What happens to a decided call: it is refused, answered by the gate, or forwarded.

Below the pipeline (`proxy.gate.pipeline`), which decides and records.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic_ns

from proxy.common.nearest import nearest_names
from proxy.errors import Rejected, Unavailable
from proxy.gate.attempt import Attempt
from proxy.gate.audited_stream import AuditedStream
from proxy.gate.ports import Decider, Fulfiller, LargeCalls, Recorder, Upstream
from proxy.gate.reporting import Reporter
from proxy.gate.routing import Route
from proxy.model import (
    Batch,
    Call,
    Decision,
    Outcome,
    Principal,
    Question,
    Reason,
    Receipt,
    Request,
    Response,
    Target,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.protocol.codec import ByteBudget, Codec, Result, UnreadResult, is_large
from proxy.protocol.refusal import Refusal
from proxy.protocol.xmlrpc.introspection import INTROSPECTION


class Executor:
    """What carries out decided calls. A call without a receipt is refused."""

    def __init__(
        self,
        routes: Iterable[Route],
        decider: Decider,
        recorder: Recorder,
        reporter: Reporter,
        fulfillers: Mapping[str, Fulfiller],
        large_calls: LargeCalls | None = None,
    ) -> None:
        self._routes = {route.name: route for route in routes}
        self._decider = decider
        self._recorder = recorder
        self._reporter = reporter
        self._fulfillers = fulfillers
        self._large_calls = large_calls

    def fulfils(self, obligations: Iterable[str]) -> bool:
        """Return whether each of `obligations` can be fulfilled."""
        return all(name in self._fulfillers for name in obligations)

    async def execute(
        self,
        attempt: Attempt,
        codec: Codec,
        principal: Principal,
        call: Call,
        decision: Decision,
        receipt: Receipt | None,
    ) -> Response:
        """Return the response to one call, whose record is completed with what became of it."""
        if receipt is None:
            return attempt.render(self._deny(attempt, codec, principal, call, decision))
        request = attempt.request
        upstream_response: UpstreamResponse | None = None
        refusal: Refusal | None = None
        try:
            if call.target is Target.GATE:
                may_call = partial(self._decider.may_call, principal, call.upstream)
                # Under many policies the answer to one takes milliseconds, and is remembered.
                for name in self._routes[call.upstream].catalog.methods:
                    may_call(name)
                    await asyncio.sleep(0)
                response = codec.introspect(call, may_call)
            else:
                upstream = self._routes[call.upstream].upstream
                question = codec.question(call, principal, ())
                sent: Call | UpstreamResponse = call
                if question is not None:
                    sent = await self._ask(
                        request, upstream, receipt, codec, principal, call, decision, question
                    )
                if isinstance(sent, UpstreamResponse):
                    upstream_response = sent
                else:
                    if sent is call:
                        encoded = encode_call(codec, call, principal, request)
                    else:
                        encoded = await self._encode_amended(codec, call, sent, principal, request)
                    upstream_response = await upstream.forward(receipt, encoded)
                large_calls = self._large_calls
                body = upstream_response.body
                if large_calls is not None and codec.reads_answer(call) and is_large(body):
                    response = await large_calls.answer(request, call, principal, upstream_response)
                else:
                    response = codec.answer(call, principal, upstream_response)
                # What is not a view may have had its effect: its answer is not refused.
                attempt.hold_answer(response, forced=call.permission != "view")
                if sent is not call:
                    self._reporter.withheld(request.id, principal, call)
                    response = replace(response, outcome=Reason.NOT_YOUR_WORKER)
            for name in decision.obligations:
                response = self._fulfillers[name](call, response)
        except Exception as error:
            failure = self._reporter.failed(request.id, call, error)
            refusal = Refusal.from_error(failure, request.id, call.method)
            response = replace(attempt.render(refusal), outcome=refusal.reason)
        except BaseException:  # cancelled: no caller is left to hear of it, the record says so
            self._reporter.completed(receipt, Reason.CLIENT_GONE, 0, 0)
            raise
        if (
            refusal is not None
            and upstream_response is not None
            and upstream_response.stream is not None
        ):
            # Not in the handler, where nothing may be awaited (tests/test_compiled.py).
            await upstream_response.stream.aclose()
        if response.stream is not None:
            status = response.status
            stream = AuditedStream(
                response.stream,
                lambda outcome, sent: self._reporter.completed(receipt, outcome, status, sent),
            )
            return replace(response, stream=stream)
        self._reporter.completed(receipt, response.outcome, response.status, len(response.body))
        return response

    async def execute_batch(
        self,
        attempt: Attempt,
        codec: Codec,
        principal: Principal,
        batch: Batch,
        decided: Sequence[tuple[Call, Decision]],
        receipts: Sequence[Receipt | None],
    ) -> Response:
        """Return the response to a batch: its calls are carried out one by one, in order."""
        request = attempt.request
        budget = ByteBudget(on_spent=attempt.hold_results)
        results: list[Result | Refusal] = []
        for (call, decision), receipt in zip(decided, receipts, strict=True):
            if receipt is None:
                results.append(self._deny(attempt, codec, principal, call, decision))
                continue
            response = await self.execute(attempt, codec, principal, call, decision, receipt)
            results.append(await self._read_result(request.id, codec, response, budget))
        for entry in batch.rejected:  # in order, so that each insertion finds its place
            self._reporter.rejected(
                request.id, request.peer, entry.reason, entry.detail, principal, attempt.upstream
            )
            error = Rejected(entry.reason, entry.detail)
            results.insert(entry.index, Refusal.from_error(error, request.id))
        large_calls = self._large_calls
        if large_calls is not None and any(isinstance(each, UnreadResult) for each in results):
            response = await large_calls.render_batch(request, principal, results)
        else:
            response = codec.render_batch(results)
        attempt.hold_answer(response, forced=True)
        return response

    async def _encode_amended(
        self, codec: Codec, call: Call, amended: Call, principal: Principal, request: Request
    ) -> UpstreamRequest:
        """Return `call` as the upstream gets it without the arguments that `amended` lacks."""
        large_calls = self._large_calls
        if call.prepared is None or large_calls is None:
            return codec.encode(amended, principal, request)
        dropped = tuple(name for name in call.args if name not in amended.args)
        return await large_calls.encode_without(request, principal, call.prepared.index, dropped)

    async def _ask(
        self,
        request: Request,
        upstream: Upstream,
        receipt: Receipt,
        codec: Codec,
        principal: Principal,
        call: Call,
        decision: Decision,
        first: Question,
    ) -> Call | UpstreamResponse:
        """Ask the upstream what the codec has to know before `call` is sent; return what is left.

        Each question is recorded before it is sent, with the decision on `call`, which it is a part
        of: what the upstream sees is on record.
        """
        question: Question | None = first
        answers: list[UpstreamResponse] = []
        while question is not None:
            [asked] = await self._recorder.decide(
                f"{receipt.call_id}.q{len(answers)}",
                principal,
                request.peer,
                [(question.call, decision)],
                monotonic_ns(),
            )
            if asked is None:
                raise Rejected(Reason.INTERNAL_ERROR)
            outcome: Outcome = Reason.CLIENT_GONE
            status = sent = 0
            try:
                answer = await upstream.forward(asked, question.request)
                outcome, status, sent = "ok", answer.status, len(answer.body)
            except Unavailable as error:
                outcome = error.reason
                raise
            finally:
                self._reporter.asked(asked, outcome, status, sent)
            if answer.stream is not None:
                await answer.stream.aclose()
            answers.append(answer)
            question = codec.question(call, principal, answers)
        return codec.amend(call, principal, answers)

    async def _read_result(
        self, ref: str, codec: Codec, response: Response, budget: ByteBudget
    ) -> Result | Refusal:
        """Return what one allowed call of a batch came to, from the response it would get alone."""
        try:
            return await codec.read_result(response, budget, ref)
        except Rejected as error:
            reason, refusal = error.reason, Refusal.from_error(error, ref)
        if isinstance(response.stream, AuditedStream):
            await response.stream.abort(reason)
        return refusal

    def _deny(
        self,
        attempt: Attempt,
        codec: Codec,
        principal: Principal,
        call: Call,
        decision: Decision,
    ) -> Refusal:
        """Return the refusal of a call that is not allowed, and log it."""
        ref = attempt.request.id
        self._reporter.denied(ref, principal, call, decision)
        nearest, unclassified = None, False
        if decision.reason is Reason.UNKNOWN_METHOD:
            unclassified = call.method in self._routes[call.upstream].catalog.unclassified
            if not unclassified:
                nearest = self._nearest_method(principal, call)
        return Refusal.from_decision(
            principal,
            call,
            decision,
            ref,
            action=codec.describe(call.method),
            nearest=nearest,
            unclassified=unclassified,
        )

    def _nearest_method(self, principal: Principal, call: Call) -> str | None:
        """Return the method that a misspelt name may stand for, of those that may be called.

        The name of a method that the caller may not call is not revealed.
        """
        methods = self._routes[call.upstream].catalog.methods
        for name in nearest_names(call.method, [*methods, *INTROSPECTION]):
            if name in INTROSPECTION or self._decider.may_call(principal, call.upstream, name):
                return name
        return None


def decide(decider: Decider, principal: Principal, call: Call) -> Decision:
    """Return the decision on a call, for the upstream or for the gate itself."""
    if call.target is Target.GATE:
        return decider.decide_introspection(principal)
    return decider.decide(principal, call)


def encode_call(
    codec: Codec, call: Call, principal: Principal, request: Request
) -> UpstreamRequest:
    """Return a call as the upstream gets it.

    Raises `Rejected` when it cannot be encoded.
    """
    prepared = call.prepared
    if prepared is None:
        return codec.encode(call, principal, request)
    if prepared.request is None:
        assert prepared.failure is not None, "an allowed call is encoded, or has failed"
        raise Rejected(*prepared.failure)
    return prepared.request
