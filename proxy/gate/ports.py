"""The ports of the gate: what it needs of its parts, as protocols.

The gate knows its parts by these protocols only; `proxy.runtime` puts the parts in. What comes
later has its place here, and the pipeline stays as it is:

* Browser session: an `Authenticator` that reads `Credentials.cookie`. Sign-in pages are
  `proxy.web`'s, in front of the gate. A page's `Codec.render` sends a 401 on to them.
* Client certificate: a field of `Credentials`, filled by `Request.credentials` from the peer, and
  an `Authenticator` that reads it.
* Second decider for shadowing: a `Decider` that holds two, returns the decision of the first and
  reports where the second differs.
* Response redaction: an obligation in `Decision.obligations`, and a `Fulfiller` of its name.
* JSON-RPC or MCP: a `Codec` and a row in `proxy.protocol.codec_table`.
* Approvals: a `Decider` that returns the effect ``pending`` until the approval is there.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from proxy.common.memory_budget import Reservation
from proxy.model import (
    Batch,
    Call,
    Credentials,
    Decision,
    Outcome,
    Peer,
    Principal,
    Reason,
    Receipt,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.protocol.codec import Codec, Result
from proxy.protocol.refusal import Refusal

__all__ = [
    "Authenticator",
    "Codec",
    "Decider",
    "EventLog",
    "Fulfiller",
    "LargeCalls",
    "Metrics",
    "Prepared",
    "ReadBody",
    "Recorder",
    "Upstream",
]

Fulfiller: TypeAlias = Callable[[Call, Response], Response]
"""Fulfils one obligation of a decision: takes the response to an allowed call, returns it changed.
"""


class ReadBody(Protocol):
    """Reads the body of a request that came without it."""

    def __call__(self, memory: Reservation | None = None, /) -> Awaitable[bytes]:
        """Return the body, whose bytes are charged to `memory` from here on.

        Raises `Rejected` when the body is too large, malformed or late, when its client is gone, or
        when there is no memory for it.
        """


class Authenticator(Protocol):
    """What identifies callers (`proxy.identity.verifier`). Times are Unix seconds."""

    def cached(self, credentials: Credentials, now: float, /) -> Principal | None:
        """Return the principal of credentials verified before, None when they must be verified."""

    def authenticate(self, credentials: Credentials, now: float, /) -> Awaitable[Principal]:
        """Return the principal of exactly one credential. Raises `Rejected`."""


class Decider(Protocol):
    """What decides calls (`proxy.policy.engine`). Never raises: what fails, denies."""

    def decide(self, principal: Principal, call: Call, /) -> Decision:
        """Decide a call for the upstream."""

    def decide_introspection(self, principal: Principal, /) -> Decision:
        """Decide a call that the gate answers from the catalog, filtered by `may_call`."""

    def may_call(self, principal: Principal, upstream: str, method: str, /) -> bool:
        """Return whether some arguments could make this an allowed call; for lists only."""

    def deny(self, reason: Reason, /) -> Decision:
        """Deny for a reason that is no policy's."""


class Recorder(Protocol):
    """What makes calls durable (`proxy.audit.writing.journal`)."""

    def decide(
        self,
        request_id: str,
        principal: Principal,
        peer: Peer,
        decided: Sequence[tuple[Call, Decision]],
        now_ns: int,
        /,
        heartbeat: str | None = None,
    ) -> Awaitable[list[Receipt | None]]:
        """Record decisions durably: a receipt for each allowed call, None for each other one.

        `heartbeat` is the worker id of a single call that the catalog marks as a heartbeat. Returns
        at once when nothing was decided. Raises `Unavailable` (AUDIT_UNWRITABLE) when the records
        are not durable: then nothing may be sent.
        """

    def completed(
        self, receipt: Receipt, *, outcome: Outcome, status: int, sent: int, duration_us: int
    ) -> None:
        """Record what became of an allowed call, once."""

    def rejected(
        self,
        request_id: str,
        peer: Peer,
        reason: Reason,
        detail: str = "",
        /,
        *,
        principal: Principal | None = None,
        upstream: str | None = None,
    ) -> None:
        """Record a request that never became a call. Never waits."""


class Upstream(Protocol):
    """The way to one upstream (`proxy.edge.upstream`). It takes a receipt: no record, no call."""

    def forward(self, receipt: Receipt, request: UpstreamRequest, /) -> Awaitable[UpstreamResponse]:
        """Send the call and return the response. Raises `Unavailable`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A large request, decoded and decided: its calls are prepared, with a decision for each."""

    batch: Batch
    decisions: tuple[Decision, ...]

    @property
    def size(self) -> int:
        """The bytes of the requests that were made of it."""
        prepared = (call.prepared for call in self.batch.calls)
        requests = (each.request for each in prepared if each is not None)
        return sum(len(request.body) for request in requests if request is not None)


class LargeCalls(Protocol):
    """What handles large documents away from the event loop (`proxy.runtime.event_loop`).

    Every method raises `Unavailable` (OVERLOADED) when it cannot be done now.
    """

    def prepare(self, request: Request, principal: Principal, /) -> Awaitable[Prepared]:
        """Return the calls in a large request, decided. Raises `Rejected` as decoding does."""

    def encode_without(
        self, request: Request, principal: Principal, index: int, dropped: Sequence[str], /
    ) -> Awaitable[UpstreamRequest]:
        """Return the call at `index` in a large request for the upstream.

        The arguments of the names in `dropped` are left out.
        """

    def answer(
        self, request: Request, call: Call, principal: Principal, response: UpstreamResponse, /
    ) -> Awaitable[Response]:
        """Return the upstream's large response to `call` as `Codec.answer` does."""

    def render_batch(
        self, request: Request, principal: Principal, results: Sequence[Result | Refusal], /
    ) -> Awaitable[Response]:
        """Return the large response to a batch as `Codec.render_batch` does."""


class Metrics(Protocol):
    """What counts calls (`proxy.telemetry.metrics`)."""

    def call_decided(self, upstream: str, permission: str, reason: str, /) -> None:
        """Count one decided call."""

    def call_completed(self, seconds: float, outcome: Outcome, /) -> None:
        """Count one allowed call that was answered, `seconds` after it was decided."""

    def request_rejected(self, reason: str, /) -> None:
        """Count one request that never became a call."""


class EventLog(Protocol):
    """What writes the operator's log (`proxy.telemetry.event_log`), with bounded lines a second.

    It gets no arguments and no credentials.
    """

    def denied(
        self, ref: str, principal: str, upstream: str, method: str, reason: str, /
    ) -> object:
        """Write a line about a call that policy denied."""

    def rejected(self, ref: str, address: str, reason: str, /) -> object:
        """Write a line about a request that never became a call."""

    def upstream_failed(self, ref: str, upstream: str, method: str, reason: str, /) -> object:
        """Write a line about an allowed call that its upstream did not answer."""

    def internal_error(self, ref: str, error: str, at: Sequence[str], /) -> object:
        """Write a line about an unexpected exception: its class and the places it came through."""
