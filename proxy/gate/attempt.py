"""What the gate knows of one request so far.

Below the pipeline (`proxy.gate.pipeline`), which fills it step by step.
"""

from dataclasses import replace
from functools import partial

from proxy.common.memory_budget import (
    FREE_BYTES,
    WRITE_BYTES,
    MemoryBudget,
    Reservation,
    decoding_bytes,
)
from proxy.errors import Rejected
from proxy.gate.audited_stream import AuditedStream
from proxy.gate.ports import ReadBody
from proxy.gate.routing import Endpoint
from proxy.gate.view_quota import Slot
from proxy.model import Principal, Reason, Request, Response
from proxy.protocol.codec import Codec
from proxy.protocol.refusal import Refusal, json_refusal, supervisorctl_refusal, wrong_path_refusal


class Attempt:
    """A request on its way: enough to refuse it, and to record that, at any step.

    It owns the slot of a read and the memory of an answer until it is released, or hands them over
    with the response; and the memory of the body, which ends with the request.
    """

    __slots__ = ("_answer", "_body", "_budget", "codec", "principal", "request", "slot", "upstream")

    def __init__(self, request: Request, budget: MemoryBudget) -> None:
        self._budget = budget
        self._body: Reservation | None = None
        self._answer: Reservation | None = None
        self.request = request
        self.upstream: str | None = None
        self.codec: Codec | None = None
        self.principal: Principal | None = None
        self.slot: Slot | None = None

    def enter(self, endpoint: Endpoint) -> Codec:
        """Note the upstream and the codec, and return the codec.

        Raises `Rejected` (NOT_FOUND) where no codec serves the path: the record then names the
        upstream.
        """
        self.upstream = endpoint.route.name
        codec = endpoint.codec
        if endpoint.pages is not None and self.request.http_method != "POST":
            codec = endpoint.pages
        if codec is None:
            raise Rejected(Reason.NOT_FOUND)
        self.codec = codec
        return codec

    def render(self, refusal: Refusal) -> Response:
        """Render a refusal in the caller's protocol; as JSON while that is not known.

        A wrong path says little about the protocol, so that of its refusal is the request's.
        """
        response = supervisorctl_refusal(refusal, self.request)
        if response is not None:
            return response
        if refusal.reason is Reason.NOT_FOUND:
            return wrong_path_refusal(refusal, self.request)
        return json_refusal(refusal) if self.codec is None else self.codec.render(refusal)

    @property
    def needs_memory(self) -> bool:
        """Whether the body counts: it is to be read, is large, or may become so when inflated."""
        request = self.request
        return (
            not request.body_complete
            or request.held_bytes > FREE_BYTES
            or b"content-encoding" in request.headers
        )

    async def claim_body(self, principal: Principal, codec: Codec, read_body: ReadBody) -> Request:
        """Return the request with its body, for which the principal is charged from here on.

        What decoding will take is reserved, too. Raises `Rejected` (OVERLOADED, or as the reading
        of the body does).
        """
        self._body = memory = self._budget.for_principal(principal.name)
        request = self.request
        if not request.body_complete:
            self.request = request = replace(request, body=await read_body(memory))
        elif request.on_claimed is not None:
            request.on_claimed()
        memory.resize(request.held_bytes + decoding_bytes(codec.decoded_size(request)))
        return request

    def hold_prepared(self, size: int) -> None:
        """Charge for `size` bytes that were made of the body, and no longer for decoding it."""
        if self._body is not None:
            self._body.resize(min(self._body.size, self.request.held_bytes + size))

    def hold_answer(self, response: Response, *, forced: bool) -> None:
        """Charge the principal for an answer, from now until the client has it.

        One that is `forced` is never refused. Raises `Unavailable` (OVERLOADED).
        """
        if response.stream is not None or len(response.body) > FREE_BYTES:
            self._charge_answer(len(response.body) + WRITE_BYTES, forced=forced)

    def hold_results(self, size: int) -> None:
        """Charge the principal for `size` bytes of answers that are decoded to become one.

        Raises `Unavailable` (OVERLOADED).
        """
        if size > FREE_BYTES:
            self._charge_answer(size + decoding_bytes(size), forced=False)

    def _charge_answer(self, size: int, *, forced: bool) -> None:
        if self._answer is None:
            assert self.principal is not None, "a call has one"
            self._answer = self._budget.for_principal(self.principal.name)
        self._answer.resize(max(size, self._answer.size), forced=forced)

    def hand_over(self, response: Response) -> Response:
        """Hand over with `response` what is held for as long as its client reads it.

        The slot is for as long as a stream; a complete response releases it at once.
        """
        slot, answer = self.slot, self._answer
        if isinstance(response.stream, AuditedStream):
            self.slot = self._answer = None
            response.stream.on_end = partial(_release, slot, answer)
        elif answer is not None:
            self._answer = None
            answer.resize(len(response.body) + WRITE_BYTES, forced=True)
            return replace(response, on_sent=answer.release)
        return response

    def release(self) -> None:
        """Release what was not handed over."""
        _release(self.slot, self._body, self._answer)


def _release(*held: Slot | Reservation | None) -> None:
    for each in held:
        if each is not None:
            each.release()
