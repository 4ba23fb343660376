"""The seam between the gate and the wire protocols: what a codec is.

A codec stands for one way in which clients speak to one upstream. It decodes a request into a
`Batch` of calls, encodes each call afresh for the upstream, turns the upstream's response into the
caller's, and renders refusals. The gate knows codecs by this protocol only;
`proxy.protocol.codec_table` lists them, by the wire protocol of the upstream and by path.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from proxy.errors import Rejected
from proxy.model import (
    Batch,
    Call,
    Principal,
    Question,
    Reason,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.refusal import Refusal
from proxy.protocol.xmlrpc.codec import Fault

# Bytes of all responses to the calls of one batch. They are buffered to become one document.
MAX_BATCH_ANSWER_BYTES = 16 * 1024 * 1024

# Bytes and elements of a document that are read or written in one step of the event loop. A larger
# one is handled in a process of its own (`proxy.runtime.event_loop`). Elements are counted by the
# commas and opening brackets of JSON, and by pairs of tags; 4,000 of JSON take up to 15 ms.
LARGE_BYTES = 131_072
LARGE_ELEMENTS = 4_000
LARGE_XML_ELEMENTS = 8_000
# Bytes of a response whose elements are not counted.
_SMALL_BYTES = 16_384


def is_large(body: bytes) -> bool:
    """Return whether an upstream's response is too large to be rewritten in one step."""
    size = len(body)
    return size > LARGE_BYTES or (
        size > _SMALL_BYTES and size - len(body.translate(None, b",[{<")) > LARGE_XML_ELEMENTS
    )


@dataclass(frozen=True, slots=True)
class UnreadResult:
    """A large response to one call of a batch: to be read where the batch's response is written.

    `ref` is the request's id, for the refusal if it cannot be read.
    """

    body: bytes
    ref: str


Result: TypeAlias = Value | Fault | UnreadResult
"""What one call of a batch came to, before it is encoded into the batch's response."""


class Priority(Enum):
    """How long an overloaded gate goes on accepting a request."""

    NORMAL = "normal"
    HEARTBEAT = "heartbeat"


class ByteBudget:
    """How many bytes of responses one batch may still buffer."""

    __slots__ = ("_on_spent", "left", "spent")

    def __init__(
        self,
        size: int = MAX_BATCH_ANSWER_BYTES,
        *,
        on_spent: Callable[[int], None] | None = None,
    ) -> None:
        """`on_spent` is called with all bytes spent, before they are; it may raise `Rejected`."""
        self.left = size
        self.spent = 0
        self._on_spent = on_spent

    def spend(self, size: int) -> None:
        """Use up `size` bytes. Raises `Rejected` (CALL_TOO_COMPLEX) when fewer are left."""
        if size > self.left:
            raise Rejected(
                Reason.CALL_TOO_COMPLEX, "the answers are too large for one system.multicall"
            )
        if self._on_spent is not None:
            self._on_spent(self.spent + size)
        self.left -= size
        self.spent += size


class Codec(Protocol):
    """One way to speak to one upstream. Pure: no I/O but reading a response's stream."""

    def method_of(self, path: str, /) -> str:
        """Return the method that `path` names, with the body unread, or an empty string."""

    def priority(self, path: str, /) -> Priority:
        """Return the priority of a request for `path`."""

    def decoded_size(self, request: Request, /) -> int:
        """Return the size of the request once its body is inflated, beyond which none is."""

    def decode(self, request: Request, path: str, principal: Principal, /) -> Batch:
        """Return the calls in `request`, whose `path` has lost the upstream's prefix.

        Raises `Rejected` when the request cannot be read, or not in one way only.
        """

    def describe(self, method: str, /) -> str:
        """Return what `method` does, to follow "may not": ``pause``, ``open the history of``."""

    def question(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse], /
    ) -> Question | None:
        """Return what the upstream is asked before an allowed call is sent, None for nothing.

        Called again with all `answers` so far, until it returns None. Raises `Unavailable` for an
        answer that is none.
        """

    def amend(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse], /
    ) -> Call | UpstreamResponse:
        """Return the call as it may be sent after `answers`, or the answer it gets without that.

        Called only if something was asked. Returns `call` itself when all of it may be sent.
        """

    def encode(self, call: Call, principal: Principal, request: Request, /) -> UpstreamRequest:
        """Return the call as the upstream gets it. A read has the principal as fairness key."""

    def reads_answer(self, call: Call, /) -> bool:
        """Return whether `answer` reads all of the response to `call`, and not its beginning."""

    def answer(self, call: Call, principal: Principal, response: UpstreamResponse, /) -> Response:
        """Return the upstream's response as the caller gets it.

        Raises `Unavailable` when it is no response of the upstream's protocol.
        """

    def introspect(self, call: Call, may_call: Callable[[str], bool], /) -> Response:
        """Return the response to a call that the gate itself answers (`Target.GATE`).

        `may_call` tells for the name of a method whether the caller may call it.
        """

    def render(self, refusal: Refusal, /) -> Response:
        """Return a refusal as the caller's client shows it best."""

    def read_result(self, response: Response, budget: ByteBudget, ref: str, /) -> Awaitable[Result]:
        """Return what one call of a batch came to, from the response that it would get alone.

        It is left unread once the responses of the batch are large together (`LARGE_BYTES`).

        Raises `Rejected` when the budget is spent or the response cannot be read as one value. A
        stream is then not read to its end; closing it is the caller's task.
        """

    def render_batch(self, results: Sequence[Result | Refusal], /) -> Response:
        """Return the response to a batch that is not `single`: one entry for each result."""


class OneCallCodec:
    """A base for codecs with one call a request, all of them for the upstream."""

    def decoded_size(self, request: Request) -> int:
        """Return the size of the request: its body is never compressed."""
        return request.size

    def question(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Question | None:
        """Return None: nothing has to be asked."""
        return None

    def amend(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Call | UpstreamResponse:
        """Return the call itself."""
        return call

    def reads_answer(self, call: Call) -> bool:
        """Return false: a response is passed on."""
        return False

    def introspect(self, call: Call, may_call: Callable[[str], bool]) -> Response:
        """Reject: no call of this codec has the gate as its target."""
        raise Rejected(Reason.INTERNAL_ERROR)

    async def read_result(self, response: Response, budget: ByteBudget, ref: str) -> Result:
        """Reject: no call of this codec is part of a batch."""
        raise Rejected(Reason.INTERNAL_ERROR)

    def render_batch(self, results: Sequence[Result | Refusal]) -> Response:
        """Reject: every batch of this codec is single."""
        raise Rejected(Reason.INTERNAL_ERROR)
