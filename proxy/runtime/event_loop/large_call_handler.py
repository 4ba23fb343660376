"""What the process of a large call does: the work of the gate between its sockets.

It has the codecs and the policies of the process that it is a fork of, no connection, and no log.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from proxy.errors import Rejected, Unavailable
from proxy.gate.execution import decide
from proxy.gate.ports import Decider, Prepared
from proxy.gate.routing import Endpoint, Router
from proxy.model import (
    Batch,
    Call,
    PreparedCall,
    Principal,
    Reason,
    Receipt,
    Request,
    Response,
    Target,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.policy.engine import PolicySet
from proxy.protocol.catalog_call import with_prepared, without
from proxy.protocol.codec import Codec, Result
from proxy.protocol.refusal import Refusal


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """A large request of `principal`."""

    request: Request
    principal: Principal


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """The call at `index` in a large request, to be encoded without the arguments `dropped`."""

    request: Request
    principal: Principal
    index: int
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnswerJob:
    """The large response of an upstream to `call`, a call in `request`."""

    request: Request
    call: Call
    principal: Principal
    response: UpstreamResponse


@dataclass(frozen=True, slots=True)
class RenderJob:
    """The results of a batch, which are large together."""

    request: Request
    results: tuple[Result | Refusal, ...]


Job: TypeAlias = PrepareJob | EncodeJob | AnswerJob | RenderJob
Done: TypeAlias = Prepared | UpstreamRequest | Response
"""The result of a job."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A `Rejected` that a job ended in; `sent` is None unless it is `Unavailable`."""

    reason: Reason
    detail: str
    retry_after: int | None
    sent: bool | None

    def raise_it(self) -> None:
        """Raise it again."""
        if self.sent is None:
            raise Rejected(self.reason, self.detail, retry_after=self.retry_after)
        raise Unavailable(self.reason, self.detail, retry_after=self.retry_after, sent=self.sent)


class LargeCallHandler:
    """The handler of jobs, one after the other."""

    def __init__(
        self, router: Router, policies: PolicySet, encode_args: Callable[[Call], bytes]
    ) -> None:
        """`encode_args` returns the arguments of a call as its record has them."""
        self._router = router
        self._policies = policies
        self._encode_args = encode_args

    def handle(self, job: Job) -> Done | Failure:
        """Return the result of a job. Never raises `Rejected`."""
        try:
            return self._handle(job)
        except Rejected as error:
            sent = error.sent if isinstance(error, Unavailable) else None
            return Failure(error.reason, error.detail, error.retry_after, sent)

    def _handle(self, job: Job) -> Done:
        endpoint = self._router.resolve(job.request.path)
        codec: Codec | None = endpoint.codec
        if codec is None:
            raise Rejected(Reason.NOT_FOUND)
        match job:
            case PrepareJob(request, principal):
                return prepare(
                    request, endpoint, codec, principal, self._policies, self._encode_args
                )
            case EncodeJob(request, principal, index, dropped):
                call = codec.decode(request, endpoint.path, principal).calls[index]
                return codec.encode(without(call, dropped), principal, request)
            case AnswerJob(_, call, principal, response):
                return codec.answer(call, principal, response)
            case RenderJob(_, results):
                return codec.render_batch(results)


class NoUpstream:
    """The upstream of a process that forwards nothing."""

    async def forward(self, receipt: Receipt, request: UpstreamRequest) -> UpstreamResponse:
        """Refuse."""
        raise Unavailable(Reason.INTERNAL_ERROR, "this process forwards nothing")


def prepare(
    request: Request,
    endpoint: Endpoint,
    codec: Codec,
    principal: Principal,
    decider: Decider,
    encode_args: Callable[[Call], bytes],
) -> Prepared:
    """Return the calls in `request`, decided.

    `encode_args` returns the arguments of a call as its record has them. Raises `Rejected` as
    decoding does.
    """
    batch = codec.decode(request, endpoint.path, principal)
    decisions = tuple(decide(decider, principal, call) for call in batch.calls)
    calls = []
    for index, (call, decision) in enumerate(zip(batch.calls, decisions, strict=True)):
        encoded: UpstreamRequest | None = None
        failure: tuple[Reason, str] | None = None
        if decision.allowed and call.target is Target.UPSTREAM:
            try:
                encoded = codec.encode(call, principal, request)
            except Rejected as error:
                failure = (error.reason, error.detail)
        prepared = PreparedCall(index, encode_args(call), encoded, failure)
        method = endpoint.route.catalog.methods.get(call.method)
        calls.append(with_prepared(call, method, prepared))
    batch = Batch(tuple(calls), batch.single, batch.counts_as_read, batch.rejected)
    return Prepared(batch, decisions)
