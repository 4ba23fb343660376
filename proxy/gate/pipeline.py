"""The pipeline. `Gate.handle` tells the story of a request from bytes to reply, one line a step.

``bytes -> Principal -> Call(s) -> Decision(s) -> Receipt -> bytes upstream -> Reply -> completed
record -> bytes back``

Nothing here touches a socket, a parser, a key or a file: each step belongs to one part, and the
types make the order (see `proxy.model`). A request ends in exactly one of three ways, each with its
record: `rejected` (no call could be made of it), `decided` and denied, or `decided` and allowed,
forwarded, and `completed`.
"""

import asyncio
import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic_ns
from typing import Protocol

from proxy.audit.writing.journal import Journal
from proxy.errors import Rejected, Unavailable
from proxy.gate.audited_stream import AuditedStream
from proxy.gate.routing import Codec, Route, Routes
from proxy.gate.view_quota import PER_PRINCIPAL, ViewQuota
from proxy.identity.verifier import Verifier
from proxy.model import (
    Call,
    Credentials,
    Decision,
    Peer,
    Principal,
    Reason,
    Receipt,
    Request,
    Response,
    Target,
    UpstreamResponse,
    Value,
)
from proxy.policy.engine import PolicySet
from proxy.protocol.luigi.api import json_refusal
from proxy.protocol.refusal import Refusal, of_decision, of_error
from proxy.protocol.xmlrpc.codec import Fault
from proxy.protocol.xmlrpc.server import Bundle, ByteBudget, XmlRpcCodec


class Metrics(Protocol):
    """What counts calls (`proxy.telemetry.metrics`)."""

    def call_decided(self, upstream: str, permission: str, reason: str) -> None:
        """One decided call."""

    def call_completed(self, seconds: float, outcome: str) -> None:
        """One allowed call has been answered, `seconds` after it was decided; `outcome` is ok,
        fault or a reason code.
        """

    def request_rejected(self, reason: str) -> None:
        """One request of which no call was made."""


class Log(Protocol):
    """What writes the operator's log (`proxy.telemetry.logging`), never arguments or credentials."""

    def denied(self, ref: str, principal: str, upstream: str, method: str, reason: str) -> object:
        """Write a line about a call that policy denied."""

    def internal_error(self, ref: str, error: str, at: Sequence[str]) -> object:
        """Write a line about an unexpected exception."""

    def rejected(self, ref: str, address: str, reason: str) -> object:
        """Write a line about a request that never became a call; floods of them are thinned out."""

    def upstream_failed(self, ref: str, upstream: str, method: str, reason: str) -> object:
        """Write a line about an allowed call that its upstream did not answer; thinned out too, or
        a dead one would flood the log.
        """


# turned away last: luigid gives up a worker that misses two, and fails its tasks
_HEARTBEAT_PATH = "/api/ping"


class Gate:
    """The decision point: every request of every listener passes through `handle`."""

    def __init__(
        self,
        routes: Sequence[Route],
        verifier: Verifier,
        policy: PolicySet,
        journal: Journal,
        meter: Metrics,
        log: Log,
        *,
        in_flight: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`in_flight` bounds the requests in hand; `clock` gives Unix seconds (tests set it)."""
        self._routes = Routes(routes)
        self._verifier = verifier
        self._policy = policy
        self._journal = journal
        self._meter = meter
        self._log = log
        self._limit = in_flight
        self._clock = clock
        self._views = ViewQuota(max(1, in_flight // 2), max(1, min(PER_PRINCIPAL, in_flight // 8)))
        self.in_flight = 0
        self._settled: asyncio.Event | None = None
        self.draining = False

    async def handle(self, request: Request, read_body: Callable[[], Awaitable[bytes]]) -> Response:
        """The reply to `request`. Never raises.

        `read_body` gives the body of a request that is not `whole`; it is not called before the
        caller is identified.
        """
        speak: Callable[[Refusal], Response] = json_refusal
        principal: Principal | None = None
        upstream: str | None = None
        viewer: str | None = None
        self.in_flight += 1
        try:
            if self.in_flight > self._limit:
                self._turn_away(request.path)
            route, path, dialect = self._routes.find(request.path)
            upstream = route.name
            if dialect is None:
                raise Rejected(Reason.NOT_FOUND)
            principal = self._remembered(request) or await self._identify(request)
            if not request.body_complete:
                if not principal.roles:
                    # whatever it asks is denied: not worth reading 16 MiB for
                    raise Rejected(Reason.NO_ROLE)
                request = replace(request, body=await read_body())
            speak = dialect.render
            call = dialect.decode(request, path, principal)
            if isinstance(call, Bundle) or call.permission == "view":
                self._views.take(principal.name)
                viewer = principal.name
            if isinstance(call, Bundle):
                assert isinstance(dialect, XmlRpcCodec)
                return await self._bundle(request, route, dialect, principal, call)
            decision = self._decide(principal, call)
            [receipt] = await self._journal.decide(
                request.id,
                principal,
                request.peer,
                [(call, decision)],
                monotonic_ns(),
                heartbeat=call.heartbeat,
            )
            self._meter.call_decided(call.upstream, call.permission, decision.reason)
            if receipt is None:
                self._log_denied(request, principal, call, decision)
                return speak(of_decision(principal, call, decision, request.id))
            reply = await self._forward(request, route, dialect, principal, call, receipt)
            if viewer is not None and isinstance(reply.stream, AuditedStream):
                reply.stream.last = partial(self._views.give_back, viewer)
                viewer = None  # it looks for as long as it reads
            return reply
        except Rejected as error:
            return self._rejected(request, error, principal, upstream, speak)
        except Exception as error:
            return self._rejected(
                request, self._surprise(error, request), principal, upstream, speak
            )
        finally:
            if viewer is not None:
                self._views.give_back(viewer)
            self.in_flight -= 1
            if self._settled is not None and not self.in_flight:
                self._settled.set()

    def refuse(self, request_id: str, origin: Peer, error: Rejected) -> Response:
        """The reply to bytes of which the edge could make no request."""
        self._note(request_id, origin, error, None, None)
        return replace(json_refusal(of_error(error, request_id)), close=True)

    async def wait_idle(self, seconds: float) -> None:
        """Wait until no request is in hand, for at most `seconds`: also those whose callers have
        left.
        """
        if self.in_flight:
            self._settled = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), seconds)

    # -- the steps

    def _turn_away(self, path: str) -> None:
        """Refuse a request beyond what may be in hand; a heartbeat only when there are twice as
        many. Raises `Unavailable`.
        """
        if not path.endswith(_HEARTBEAT_PATH) or self.in_flight > 2 * self._limit:
            raise Unavailable(Reason.OVERLOADED, retry_after=1)

    def _remembered(self, request: Request) -> Principal | None:
        """The caller, if the request has one credential and it was verified before. Two are
        `_identify`'s to refuse.
        """
        headers = request.headers
        credentials = Credentials(headers.get(b"authorization"), headers.get(b"cookie"))
        return self._verifier.cached(credentials, self._clock())

    async def _identify(self, request: Request) -> Principal:
        """Who is calling, by exactly one credential. Raises `Rejected`."""
        headers = request.headers
        credentials = Credentials(headers.get(b"authorization"), headers.get(b"cookie"))
        return await self._verifier.authenticate(credentials, self._clock())

    def _decide(self, principal: Principal, call: Call) -> Decision:
        if self.draining and call.method == "get_work":
            return self._policy.deny(Reason.DRAINING)
        if call.target is Target.GATE:
            return self._policy.decide_introspection(principal)
        return self._policy.decide(principal, call)

    async def _forward(
        self,
        request: Request,
        route: Route,
        dialect: Codec,
        principal: Principal,
        call: Call,
        receipt: Receipt,
    ) -> Response:
        """Send the call on, and close its record with what became of it."""
        answer: UpstreamResponse | None = None
        refusal: Refusal | None = None
        try:
            if call.target is Target.GATE:
                assert isinstance(dialect, XmlRpcCodec)
                reply = dialect.introspect(
                    call, lambda method: self._policy.may_call(principal, route.name, method.name)
                )
            else:
                outbound = dialect.encode(call, principal, request)
                if outbound.kind == "read":
                    outbound = replace(outbound, fairness_key=principal.name)
                answer = await route.leg.forward(receipt, outbound)
                reply = dialect.answer(call, principal, answer)
        except Exception as error:
            refusal = replace(
                of_error(self._explained(error, request, call), request.id), method=call.method
            )
            reply = replace(dialect.render(refusal), outcome=refusal.reason)
        except BaseException:  # cancelled: the caller will hear nothing, the record says so
            self._complete(receipt, Reason.CLIENT_GONE, 0, 0)
            raise
        if refusal is not None and answer is not None and answer.stream is not None:
            # here, since nothing may wait in a handler (tests/test_compiled.py)
            await answer.stream.aclose()
        if reply.stream is not None:
            status = reply.status
            return replace(
                reply,
                stream=AuditedStream(
                    reply.stream,
                    lambda outcome, sent: self._complete(receipt, outcome, status, sent),
                ),
            )
        self._complete(receipt, reply.outcome, reply.status, len(reply.body))
        return reply

    def _explained(self, error: Exception, request: Request, call: Call) -> Rejected:
        """What went wrong after a call was allowed, logged, as a refusal. A surprise is ours, and
        its text stays here.
        """
        if isinstance(error, Unavailable):
            self._log.upstream_failed(request.id, call.upstream, call.method, error.reason)
            return error
        return self._surprise(error, request)

    def _surprise(self, error: Exception, request: Request) -> Rejected:
        self._log.internal_error(request.id, type(error).__name__, _where(error))
        return Rejected(Reason.INTERNAL_ERROR)

    async def _bundle(
        self,
        request: Request,
        route: Route,
        dialect: XmlRpcCodec,
        principal: Principal,
        bundle: Bundle,
    ) -> Response:
        """A ``system.multicall``: every inner call is decided, recorded and answered on its own, in
        order.
        """
        if not principal.roles:
            # one record, not one for each of a hundred calls that are denied anyway
            raise Rejected(Reason.NO_ROLE)
        decided = [
            (item, self._decide(principal, item)) for item in bundle.items if isinstance(item, Call)
        ]
        receipts = (
            await self._journal.decide(request.id, principal, request.peer, decided, monotonic_ns())
            if decided
            else []
        )
        rows = iter(zip(decided, receipts, strict=True))
        results: list[Value | Fault | Refusal] = []
        for item in bundle.items:
            if isinstance(item, Rejected):
                self._note(request.id, request.peer, item, principal, route.name)
                results.append(of_error(item, request.id))
                continue
            (call, decision), receipt = next(rows)
            self._meter.call_decided(call.upstream, call.permission, decision.reason)
            if receipt is None:
                self._log_denied(request, principal, call, decision)
                results.append(of_decision(principal, call, decision, request.id))
            else:
                results.append(
                    await self._inner(
                        request, route, dialect, principal, call, receipt, bundle.room
                    )
                )
        return dialect.render_batch(results)

    async def _inner(
        self,
        request: Request,
        route: Route,
        dialect: XmlRpcCodec,
        principal: Principal,
        call: Call,
        receipt: Receipt,
        room: ByteBudget,
    ) -> Value | Fault | Refusal:
        """One allowed call of a bundle: as `_forward`, but the answer becomes a value in the
        bundle's array.
        """
        reply = await self._forward(request, route, dialect, principal, call, receipt)
        try:
            return await dialect.read_result(reply, room)
        except Rejected as error:
            reason, refusal = error.reason, of_error(error, request.id)
        if isinstance(reply.stream, AuditedStream):
            await reply.stream.abort(reason)
        return refusal

    # -- records

    def _complete(self, receipt: Receipt, outcome: str, status: int, sent: int) -> None:
        duration = monotonic_ns() - receipt.decided_at_ns
        self._meter.call_completed(duration / 1e9, outcome)
        self._journal.completed(
            receipt, outcome=outcome, status=status, sent=sent, duration_us=duration // 1000
        )

    def _rejected(
        self,
        request: Request,
        error: Rejected,
        principal: Principal | None,
        upstream: str | None,
        speak: Callable[[Refusal], Response],
    ) -> Response:
        self._note(request.id, request.peer, error, principal, upstream)
        return speak(of_error(error, request.id))

    def _note(
        self,
        request_id: str,
        origin: Peer,
        error: Rejected,
        principal: Principal | None,
        upstream: str | None,
    ) -> None:
        self._meter.request_rejected(error.reason)
        self._journal.rejected(
            request_id, origin, error.reason, error.detail, principal=principal, upstream=upstream
        )
        self._log.rejected(request_id, origin.address, error.reason)

    def _log_denied(
        self, request: Request, principal: Principal, call: Call, decision: Decision
    ) -> None:
        self._log.denied(request.id, principal.name, call.upstream, call.method, decision.reason)


def _where(error: BaseException) -> list[str]:
    """The places an error came through, without any value: messages and locals may hold what
    callers sent. Reads no source file.
    """
    return [
        f"{frame.f_code.co_name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)
    ]
