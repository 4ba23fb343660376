"""The pipeline. `Gate.handle` tells the story of a request from bytes to reply, one line a step.

``bytes -> Principal -> Call(s) -> Decision(s) -> Receipt -> bytes upstream -> Reply -> completed record -> bytes back``

Nothing here touches a socket, a parser, a key or a file: each step belongs to one part, and the types make the order
(see `proxy.model`). A request ends in exactly one of three ways, each with its record: `rejected` (no call could be made
of it), `decided` and denied, or `decided` and allowed, forwarded, and `completed`.
"""

import asyncio
import contextlib
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from proxy.audit.journal import Journal
from proxy.errors import Rejected, Unavailable
from proxy.identity.verifier import Verifier
from proxy.model import Answer, Call, Decision, Origin, Outbound, Principal, Reason, Receipt, Reply, Request, Stream, Value
from proxy.policy.engine import PolicySet
from proxy.protocol.batches import BatchIds
from proxy.protocol.catalog import Catalog
from proxy.protocol.luigi import LuigiApi, json_refusal
from proxy.protocol.pages import LuigiPages
from proxy.protocol.refusal import Refusal, of_decision, of_error
from proxy.protocol.rpc import Bundle, LuigiOverXmlRpc, Room, RpcDialect, XmlRpc
from proxy.protocol.xmlrpc import Fault


class Leg(Protocol):
    """The way to one upstream (`proxy.edge.upstream`). It takes a receipt: no record, no call."""

    def forward(self, receipt: Receipt, outbound: Outbound) -> Awaitable[Answer]:
        """Send the call; the upstream's answer. Raises `Unavailable`."""


class Meter(Protocol):
    """What counts calls (`proxy.edge.metrics`)."""

    def called(self, upstream: str, permission: str, reason: str) -> None:
        """One decided call."""

    def completed(self, seconds: float, outcome: str) -> None:
        """One allowed call has been answered, `seconds` after it was decided; `outcome` is ok, fault or a reason code."""

    def rejected(self, reason: str) -> None:
        """One request of which no call was made."""


class Log(Protocol):
    """What writes the operator's log (`proxy.edge.logs`), never arguments or credentials."""

    def info(self, event: str, **fields: Any) -> object:
        """Write a line about something that is as it should be."""

    def warning(self, event: str, **fields: Any) -> object:
        """Write a line about something an operator may have to look at."""

    def error(self, event: str, **fields: Any) -> object:
        """Write a line about something that is broken."""

    def rejected(self, ref: str, address: str, reason: str) -> object:
        """Write a line about a request that never became a call; floods of them are thinned out."""


_HEARTBEAT_PATH = "/api/ping"  # turned away last: luigid gives up a worker that misses two, and fails its tasks

Dialect: TypeAlias = LuigiApi | LuigiPages | RpcDialect


@dataclass(frozen=True, slots=True)
class Route:
    """One upstream as clients see it: a path prefix (``/`` or ``/team-a``), a protocol, a catalog, and the leg behind."""

    name: str
    prefix: str
    protocol: str
    catalog: Catalog
    leg: Leg
    dialects: Mapping[str, Dialect]

    def dialect(self, path: str) -> Dialect:
        """How a caller of `path` (without the prefix) speaks. Raises `Rejected` when nobody answers there."""
        if self.protocol == "luigi":
            if path.startswith("/api"):
                return self.dialects["api"]
            return self.dialects["xmlrpc"] if path in ("/RPC2", "/RPC2/") else self.dialects["pages"]
        if path in ("/", "/RPC2", "/RPC2/"):
            return self.dialects["xmlrpc"]
        raise Rejected(Reason.NOT_FOUND)


def make_route(
    name: str, prefix: str, catalog: Catalog, leg: Leg, *, batch_calls: int, body_bytes: int, path: str = "", batch_key: bytes | None = None
) -> Route:
    """The route to one upstream, with the dialects of its protocol. `path` is where the upstream itself listens.

    `batch_key` binds luigid's batch ids to identities, in all processes alike; without one they hold for this route alone.
    """
    dialects: dict[str, Dialect]
    if catalog.protocol == "luigi":
        batches = BatchIds(batch_key or secrets.token_bytes(32), name)
        dialects = {
            "api": LuigiApi(name, catalog, path, batches=batches),
            "pages": LuigiPages(name, catalog, path, prefix),
            "xmlrpc": LuigiOverXmlRpc(name, catalog, path, batch_calls=batch_calls, body_bytes=body_bytes, batches=batches),
        }
    else:
        dialects = {"xmlrpc": XmlRpc(name, catalog, path or "/RPC2", batch_calls=batch_calls, body_bytes=body_bytes)}
    return Route(name, prefix.rstrip("/"), catalog.protocol, catalog, leg, dialects)


class Views:
    """How many views may be in hand: half of all requests, and a bound for each principal.

    A view waits its turn at the upstream (`proxy.edge.sharing`), which can take seconds, and a bundle can hold many. Whoever
    asks for many at once keeps others from looking, never workers from working.
    """

    def __init__(self, total: int, each: int) -> None:
        """`total` views at once, and `each` of one principal."""
        self._total = total
        self._each = each
        self._held: dict[str, int] = {}
        self._sum = 0

    def take(self, principal: str) -> None:
        """Count a view in. Raises `Unavailable`."""
        held = self._held.get(principal, 0)
        if self._sum >= self._total or held >= self._each:
            raise Unavailable(Reason.OVERLOADED, "too many views at once", retry_after=1)
        self._held[principal] = held + 1
        self._sum += 1

    def give_back(self, principal: str) -> None:
        """Count it out."""
        self._sum -= 1
        held = self._held[principal] - 1
        if held:
            self._held[principal] = held
        else:
            del self._held[principal]


class Gate:
    """The decision point: every request of every listener passes through `handle`."""

    def __init__(
        self,
        routes: Sequence[Route],
        verifier: Verifier,
        policy: PolicySet,
        journal: Journal,
        meter: Meter,
        log: Log,
        *,
        in_flight: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`in_flight` bounds the requests in hand; `clock` gives Unix seconds (tests set it)."""
        self._routes = sorted(routes, key=lambda route: len(route.prefix), reverse=True)
        self._verifier = verifier
        self._policy = policy
        self._journal = journal
        self._meter = meter
        self._log = log
        self._limit = in_flight
        self._clock = clock
        self._views = Views(max(1, in_flight // 2), max(1, in_flight // 8))
        self.in_flight = 0
        self._settled: asyncio.Event | None = None
        self.draining = False

    async def handle(self, request: Request, read_body: Callable[[], Awaitable[bytes]]) -> Reply:
        """The reply to `request`. Never raises.

        `read_body` gives the body of a request that is not `whole`; it is not called before the caller is identified.
        """
        speak: Callable[[Refusal], Reply] = json_refusal
        principal: Principal | None = None
        upstream: str | None = None
        self.in_flight += 1
        try:
            if self.in_flight > (2 * self._limit if request.path.endswith(_HEARTBEAT_PATH) else self._limit):
                raise Unavailable(Reason.OVERLOADED, retry_after=1)
            route, path = self._route(request.path)
            upstream = route.name
            dialect = route.dialect(path)
            principal = await self._identify(request)
            if not request.whole:
                if not principal.roles:
                    raise Rejected(Reason.NO_ROLE)  # whatever it asks is denied: not worth reading 16 MiB for
                request = replace(request, body=await read_body())
            speak = dialect.refuse
            asked = dialect.decode(request, path, principal)
            if isinstance(asked, Call) and asked.permission != "view":
                return await self._call(request, route, dialect, principal, asked)
            self._views.take(principal.name)
            try:
                if isinstance(asked, Call):
                    return await self._call(request, route, dialect, principal, asked)
                assert isinstance(dialect, RpcDialect)
                return await self._bundle(request, route, dialect, principal, asked)
            finally:
                self._views.give_back(principal.name)
        except Rejected as error:
            return self._rejected(request, error, principal, upstream, speak)
        except Exception as error:
            return self._rejected(request, self._surprise(error, request), principal, upstream, speak)
        finally:
            self.in_flight -= 1
            if self._settled is not None and not self.in_flight:
                self._settled.set()

    def refuse(self, request_id: str, origin: Origin, error: Rejected) -> Reply:
        """The reply to bytes of which the edge could make no request."""
        self._note(request_id, origin, error, None, None)
        return replace(json_refusal(of_error(error, request_id)), close=True)

    async def settle(self, seconds: float) -> None:
        """Wait until no request is in hand, for at most `seconds`: also those whose callers have left."""
        if self.in_flight:
            self._settled = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), seconds)

    # -- the steps

    def _route(self, path: str) -> tuple[Route, str]:
        """The upstream that `path` names, and the rest of the path: the raw path, read once (threats: two readings)."""
        for route in self._routes:
            prefix = route.prefix
            if path.startswith(prefix):
                rest = path[len(prefix) :]
                if not rest or rest[0] == "/":
                    return route, rest or "/"
        raise Rejected(Reason.NOT_FOUND)

    async def _identify(self, request: Request) -> Principal:
        """Who is calling, by exactly one credential."""
        headers = request.headers
        authorization = headers.get(b"authorization")
        cookie = headers.get(b"cookie")
        now = self._clock()
        if authorization is not None and cookie is None:
            principal = self._verifier.remembered(authorization, now)
            if principal is not None:
                return principal
        return await self._verifier.verify(authorization, cookie, now)

    async def _call(self, request: Request, route: Route, dialect: Dialect, principal: Principal, call: Call) -> Reply:
        """One call: decide, record, forward, answer."""
        decision = self._decide(principal, call)
        [receipt] = await self._journal.decide(
            request.id, principal, request.origin, [(call, decision)], time.monotonic_ns(), heartbeat=call.heartbeat
        )
        self._meter.called(call.upstream, call.permission, decision.reason)
        if receipt is None:
            self._log_denied(request, principal, call, decision)
            return dialect.refuse(of_decision(principal, call, decision, request.id))
        return await self._forward(request, route, dialect, principal, call, receipt)

    def _decide(self, principal: Principal, call: Call) -> Decision:
        if self.draining and call.method == "get_work":
            return self._policy.refuse(Reason.DRAINING)
        if call.protocol == "callgate":
            return self._policy.introspect(principal)
        return self._policy.decide(principal, call)

    async def _forward(self, request: Request, route: Route, dialect: Dialect, principal: Principal, call: Call, receipt: Receipt) -> Reply:
        """Send the call on, and close its record with what became of it."""
        answer: Answer | None = None
        try:
            if call.protocol == "callgate":
                assert isinstance(dialect, RpcDialect)
                reply = dialect.introspect(call, lambda method: self._policy.may_call(principal, route.name, method.name))
            else:
                answer = await route.leg.forward(receipt, dialect.encode(call, principal, request))
                reply = dialect.answer(call, principal, answer)
        except Exception as error:
            if answer is not None and answer.stream is not None:
                await answer.stream.aclose()
            refusal = replace(of_error(self._explained(error, request, call), request.id), method=call.method)
            reply = replace(dialect.refuse(refusal), outcome=refusal.reason)
        except BaseException:  # cancelled: the caller will hear nothing, the record says so
            self._complete(receipt, Reason.CLIENT_GONE, 0, 0)
            raise
        if reply.stream is not None:
            status = reply.status
            return replace(reply, stream=_Recorded(reply.stream, lambda outcome, sent: self._complete(receipt, outcome, status, sent)))
        self._complete(receipt, reply.outcome, reply.status, len(reply.body))
        return reply

    def _explained(self, error: Exception, request: Request, call: Call) -> Rejected:
        """What went wrong after a call was allowed, logged, as a refusal. A surprise is ours, and its text stays here."""
        if isinstance(error, Unavailable):
            self._log.warning("upstream failed", ref=request.id, upstream=call.upstream, method=call.method, reason=error.reason)
            return error
        return self._surprise(error, request)

    def _surprise(self, error: Exception, request: Request) -> Rejected:
        self._log.error("internal error", ref=request.id, error=type(error).__name__, at=_where(error))
        return Rejected(Reason.INTERNAL_ERROR)

    async def _bundle(self, request: Request, route: Route, dialect: RpcDialect, principal: Principal, bundle: Bundle) -> Reply:
        """A ``system.multicall``: every inner call is decided, recorded and answered on its own, in order."""
        if not principal.roles:
            raise Rejected(Reason.NO_ROLE)  # one record, not one for each of a hundred calls that are denied anyway
        decided = [(item, self._decide(principal, item)) for item in bundle.items if isinstance(item, Call)]
        receipts = await self._journal.decide(request.id, principal, request.origin, decided, time.monotonic_ns()) if decided else []
        rows = iter(zip(decided, receipts, strict=True))
        results: list[Value | Fault | Refusal] = []
        for item in bundle.items:
            if isinstance(item, Rejected):
                self._note(request.id, request.origin, item, principal, route.name)
                results.append(of_error(item, request.id))
                continue
            (call, decision), receipt = next(rows)
            self._meter.called(call.upstream, call.permission, decision.reason)
            if receipt is None:
                self._log_denied(request, principal, call, decision)
                results.append(of_decision(principal, call, decision, request.id))
            else:
                results.append(await self._inner(request, route, dialect, principal, call, receipt, bundle.room))
        return dialect.bundle(results)

    async def _inner(
        self, request: Request, route: Route, dialect: RpcDialect, principal: Principal, call: Call, receipt: Receipt, room: Room
    ) -> Value | Fault | Refusal:
        """One allowed call of a bundle: as `_forward`, but the answer becomes a value in the bundle's array."""
        reply = await self._forward(request, route, dialect, principal, call, receipt)
        try:
            return await dialect.value(reply, room)
        except Rejected as error:
            if isinstance(reply.stream, _Recorded):
                await reply.stream.give_up(error.reason)
            return of_error(error, request.id)

    # -- records

    def _complete(self, receipt: Receipt, outcome: str, status: int, sent: int) -> None:
        duration = time.monotonic_ns() - receipt.started
        self._meter.completed(duration / 1e9, outcome)
        self._journal.completed(receipt, outcome=outcome, status=status, sent=sent, duration_us=duration // 1000)

    def _rejected(
        self, request: Request, error: Rejected, principal: Principal | None, upstream: str | None, speak: Callable[[Refusal], Reply]
    ) -> Reply:
        self._note(request.id, request.origin, error, principal, upstream)
        return speak(of_error(error, request.id))

    def _note(self, request_id: str, origin: Origin, error: Rejected, principal: Principal | None, upstream: str | None) -> None:
        self._meter.rejected(error.reason)
        self._journal.rejected(request_id, origin, error.reason, error.detail, principal=principal, upstream=upstream)
        self._log.rejected(request_id, origin.address, error.reason)

    def _log_denied(self, request: Request, principal: Principal, call: Call, decision: Decision) -> None:
        self._log.info(
            "denied", ref=request.id, principal=principal.name, upstream=call.upstream, method=call.method, reason=decision.reason
        )


class _Recorded:
    """A streamed body that closes its call's record when it ends: whole, cut short by the upstream, or left by the caller."""

    def __init__(self, stream: Stream, close: Callable[[str, int], None]) -> None:
        self._stream = stream
        self._close: Callable[[str, int], None] | None = close
        self._sent = 0

    def __aiter__(self) -> "_Recorded":
        return self

    async def __anext__(self) -> bytes:
        try:
            part = await self._stream.__anext__()
        except StopAsyncIteration:
            self._end("ok")
            raise
        except Unavailable as error:
            self._end(error.reason)
            raise
        self._sent += len(part)
        return part

    async def aclose(self) -> None:
        await self.give_up(Reason.CLIENT_GONE)

    async def give_up(self, reason: Reason) -> None:
        """Read no further, for `reason`."""
        self._end(reason)
        await self._stream.aclose()

    def _end(self, outcome: str) -> None:
        if self._close is not None:
            close, self._close = self._close, None
            close(outcome, self._sent)


def _where(error: BaseException) -> list[str]:
    """The places an error came through, without any value: messages and locals may hold what callers sent."""
    return [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
