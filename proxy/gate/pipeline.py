"""The pipeline. `Gate.handle` tells the story of a request from bytes to response, step by step.

``Request -> Principal -> Batch of Calls -> Decisions -> Receipts -> UpstreamRequest -> Response``

Nothing here touches a socket, a parser, a key or a file: each step belongs to one part
(`proxy.gate.ports`), and the types make the order (see `proxy.model`). A request ends in exactly
one of three ways, each with its record: `rejected` (no call could be made of it), `decided` and
denied, or `decided` and allowed, forwarded, and `completed`.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic_ns
from types import MappingProxyType
from typing import TypeAlias

from proxy.common.memory_budget import MemoryBudget
from proxy.errors import Rejected, Unavailable
from proxy.gate.attempt import Attempt
from proxy.gate.execution import Executor, decide
from proxy.gate.ports import (
    Authenticator,
    Decider,
    EventLog,
    Fulfiller,
    LargeCalls,
    Metrics,
    ReadBody,
    Recorder,
)
from proxy.gate.reporting import Reporter, current_request
from proxy.gate.routing import Endpoint, Route, Router
from proxy.gate.view_quota import PER_PRINCIPAL, ViewQuota
from proxy.model import Batch, Call, Decision, Peer, Principal, Reason, Request, Response
from proxy.protocol.codec import LARGE_BYTES, Codec, Priority
from proxy.protocol.refusal import Refusal, json_refusal, missing_role, posts_xml
from proxy.protocol.same_origin import may_prompt

Decided: TypeAlias = list[tuple[Call, Decision]]
"""The calls of a request, each with its decision."""

# Heartbeats are accepted up to so many times the requests of other kinds: luigid gives up a worker
# that misses two, and fails its tasks.
_HEARTBEAT_FACTOR = 2


class Gate:
    """The decision point: every request of every listener passes through `handle`."""

    def __init__(
        self,
        routes: Sequence[Route],
        authenticator: Authenticator,
        decider: Decider,
        recorder: Recorder,
        metrics: Metrics,
        log: EventLog,
        *,
        max_in_flight: int,
        max_reads_per_principal: int = PER_PRINCIPAL,
        memory: MemoryBudget | None = None,
        large_calls: LargeCalls | None = None,
        fulfillers: Mapping[str, Fulfiller] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Serve `routes` with these parts.

        `max_in_flight` bounds the requests in progress; half of it may be reads, and an eighth, or
        `max_reads_per_principal`, those of one principal. `fulfillers` fulfil the obligations of
        decisions, by their names. `memory` is the budget of the process, one of its own unless
        given. `large_calls` handles large documents; without it the event loop does. `clock` gives
        Unix seconds.
        """
        self._router = Router(routes)
        self._authenticator = authenticator
        self._decider = decider
        self._recorder = recorder
        self._metrics = metrics
        self._reporter = Reporter(recorder, metrics, log)
        self._large_calls = large_calls
        self._executor = Executor(
            routes, decider, recorder, self._reporter, fulfillers, large_calls
        )
        self._max_in_flight = max_in_flight
        self._memory = memory or MemoryBudget()
        self._clock = clock
        self.reads = ViewQuota(
            max(1, max_in_flight // 2), max(1, min(max_reads_per_principal, max_in_flight // 8))
        )
        self.in_flight = 0
        self._idle: asyncio.Event | None = None
        self.draining = False

    async def handle(self, request: Request, read_body: ReadBody) -> Response:
        """Return the response to `request`. Never raises.

        `read_body` reads the body of a request that is not `body_complete`. It is not called before
        the caller is known to have a role.
        """
        current_request.set((request.id, request.path))
        attempt = Attempt(request, self._memory)
        self.in_flight += 1
        try:
            # 1. Which upstream, which codec? (not-found)
            endpoint = self._router.find(request.path)
            if endpoint is None or endpoint.codec is None:
                return await self._refuse_wrong_path(attempt, endpoint)
            codec = attempt.enter(endpoint)
            # 2. Is there room? (overloaded)
            self._admit(codec, endpoint.path)
            # 3. Who is calling? (no-credential, bad-credential, ...)
            credentials, now = request.credentials, self._clock()
            principal = self._authenticator.cached(credentials, now)
            if principal is None:
                principal = await self._authenticator.authenticate(credentials, now)
            attempt.principal = principal
            # 4. A caller without a role goes no further: its body is not inflated or decoded.
            if not principal.roles:
                return self._refuse_without_role(attempt, endpoint, codec, principal)
            # 5. Is there memory for its body? (overloaded) What is it asking for? (malformed-call,
            # bad-arguments, ...)
            if attempt.needs_memory:
                request = await attempt.claim_body(principal, codec, read_body)
            batch = self._decode(attempt, endpoint, codec, principal)
            decided: Decided = []
            if batch is not None:
                # 6. Reads have a quota. (overloaded)
                if batch.counts_as_read:
                    attempt.slot = self.reads.acquire(principal.name)
                # 7. May it?
                if batch.single:
                    call = batch.calls[0]
                    decided = [(call, self._decide(principal, endpoint, call))]
                else:
                    decided = await self._decide_batch(principal, endpoint, batch)
            if batch is None or self._is_complex(decided):
                # Step 5 or 7 would take longer than a step of the event loop may.
                batch, decided = await self._prepare_large(attempt, endpoint, principal)
            # 8. Record, then act. (audit-unwritable)
            heartbeat = batch.calls[0].heartbeat if batch.single else None
            receipts = await self._recorder.decide(
                request.id, principal, request.peer, decided, monotonic_ns(), heartbeat=heartbeat
            )
            for call, decision in decided:
                self._metrics.call_decided(call.upstream, call.permission, decision.reason)
            # 9. Refuse or forward, and complete the record.
            if batch.single:
                call, decision = decided[0]
                response = await self._executor.execute(
                    attempt, codec, principal, call, decision, receipts[0]
                )
            else:
                response = await self._executor.execute_batch(
                    attempt, codec, principal, batch, decided, receipts
                )
            # 10. The response owns the slot of a stream and its own memory from here.
            return attempt.hand_over(response)
        except Rejected as error:
            return self._reject(attempt, error)
        except Exception as error:
            return self._reject(attempt, self._reporter.internal_error(request.id, error))
        finally:
            attempt.release()
            self.in_flight -= 1
            if self._idle is not None and not self.in_flight:
                self._idle.set()

    def _decode(
        self, attempt: Attempt, endpoint: Endpoint, codec: Codec, principal: Principal
    ) -> Batch | None:
        """Return the calls in the request; None if it is too large for the event loop.

        Raises `Rejected` when it cannot be read, or not in one way only.
        """
        request, large_calls = attempt.request, self._large_calls
        if large_calls is not None and codec.decoded_size(request) > LARGE_BYTES:
            return None
        try:
            return codec.decode(request, endpoint.path, principal)
        except Rejected as error:
            if large_calls is None or error.reason is not Reason.CALL_TOO_COMPLEX:
                raise
            return None

    def _is_complex(self, decided: Decided) -> bool:
        """Return whether a decision has to be made away from the event loop."""
        for _, decision in decided:
            if decision.reason is Reason.CALL_TOO_COMPLEX:
                return self._large_calls is not None
        return False

    async def _prepare_large(
        self, attempt: Attempt, endpoint: Endpoint, principal: Principal
    ) -> tuple[Batch, Decided]:
        """Return the calls of a large request with their decisions, made in another process."""
        large_calls = self._large_calls
        assert large_calls is not None, "else nothing is large"
        prepared = await large_calls.prepare(attempt.request, principal)
        batch = prepared.batch
        attempt.hold_prepared(prepared.size)
        if batch.counts_as_read and attempt.slot is None:
            attempt.slot = self.reads.acquire(principal.name)
        decided = [
            (call, self._confirm(endpoint, call, decision))
            for call, decision in zip(batch.calls, prepared.decisions, strict=True)
        ]
        return batch, decided

    async def _decide_batch(
        self, principal: Principal, endpoint: Endpoint, batch: Batch
    ) -> Decided:
        """Decide the calls of a batch. The event loop runs between two decisions."""
        decided: Decided = []
        for call in batch.calls:
            if decided:
                await asyncio.sleep(0)
            decided.append((call, self._decide(principal, endpoint, call)))
        return decided

    def refuse(self, request_id: str, peer: Peer, error: Rejected) -> Response:
        """Return the response to bytes that are no request, and record them."""
        self._reporter.rejected(request_id, peer, error.reason, error.detail, None, None)
        return replace(json_refusal(Refusal.from_error(error, request_id)), close=True)

    async def wait_idle(self, timeout: float) -> None:  # noqa: ASYNC109  (gives up without an error)
        """Wait until no request is in progress, for at most `timeout` seconds.

        Requests whose callers have left count too.
        """
        if self.in_flight:
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout)

    def _admit(self, codec: Codec, path: str) -> None:
        """Raise `Unavailable` (OVERLOADED) when too many requests are in progress."""
        if self.in_flight > self._max_in_flight and (
            self.in_flight > _HEARTBEAT_FACTOR * self._max_in_flight
            or codec.priority(path) is not Priority.HEARTBEAT
        ):
            raise Unavailable(Reason.OVERLOADED, retry_after=1)

    def _decide(self, principal: Principal, endpoint: Endpoint, call: Call) -> Decision:
        return self._confirm(endpoint, call, decide(self._decider, principal, call))

    def _confirm(self, endpoint: Endpoint, call: Call, decision: Decision) -> Decision:
        """Return a decision, or a denial where the gate cannot act on it now."""
        if self.draining:
            method = endpoint.route.catalog.methods.get(call.method)
            if method is not None and method.suspended_while_draining:
                return self._decider.deny(Reason.DRAINING)
        if decision.obligations and not self._executor.fulfils(decision.obligations):
            return self._decider.deny(Reason.POLICY_ERROR)
        return decision

    def _refuse_without_role(
        self, attempt: Attempt, endpoint: Endpoint, codec: Codec, principal: Principal
    ) -> Response:
        """Record one rejection, and refuse with what the path alone says of the call."""
        request, upstream = attempt.request, endpoint.route.name
        detail = missing_role(principal.groups)
        self._reporter.rejected(
            request.id, request.peer, Reason.NO_ROLE, detail, principal, upstream
        )
        method = codec.method_of(endpoint.path)
        action = codec.describe(method)
        return attempt.render(
            Refusal.without_role(principal, upstream, request.id, action=action, method=method)
        )

    async def _refuse_wrong_path(self, attempt: Attempt, endpoint: Endpoint | None) -> Response:
        """Refuse a path that nothing serves. Only a caller with a role gets the nearest one."""
        if endpoint is not None:
            attempt.upstream = endpoint.route.name
        credentials, now = attempt.request.credentials, self._clock()
        try:
            attempt.principal = self._authenticator.cached(credentials, now)
            if attempt.principal is None and self.in_flight <= self._max_in_flight:
                attempt.principal = await self._authenticator.authenticate(credentials, now)
        except Rejected:
            pass  # the path is wrong, whatever the credential
        return self._reject(attempt, Rejected(Reason.NOT_FOUND))

    def _nearest_path(self, request: Request, principal: Principal) -> str | None:
        return self._router.nearest(
            request.path,
            xml=posts_xml(request),
            may_call=partial(self._decider.may_call, principal),
        )

    def _reject(self, attempt: Attempt, error: Rejected) -> Response:
        request, principal = attempt.request, attempt.principal
        if error.reason is Reason.NOT_FOUND and principal is not None and principal.roles:
            nearest = self._nearest_path(request, principal)
            if nearest is not None:
                error = Rejected(Reason.NOT_FOUND, f"did you mean {nearest}?")
        self._reporter.rejected(
            request.id,
            request.peer,
            error.reason,
            error.detail,
            attempt.principal,
            attempt.upstream,
        )
        return attempt.render(
            Refusal.from_error(error, request.id, prompt=may_prompt(request.headers))
        )
