"""What the gate knows of one request so far.

Below the pipeline (`proxy.gate.pipeline`), which fills it step by step.
"""

from proxy.errors import Rejected
from proxy.gate.audited_stream import AuditedStream
from proxy.gate.routing import Endpoint
from proxy.gate.view_quota import Slot
from proxy.model import Principal, Reason, Request, Response
from proxy.protocol.codec import Codec
from proxy.protocol.refusal import Refusal, json_refusal


class Attempt:
    """A request on its way: enough to refuse it, and to record that, at any step.

    It owns the slot of a read until it is released, or handed over to a stream.
    """

    __slots__ = ("codec", "principal", "request", "slot", "upstream")

    def __init__(self, request: Request) -> None:
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
        if codec is None:
            raise Rejected(Reason.NOT_FOUND)
        self.codec = codec
        return codec

    def render(self, refusal: Refusal) -> Response:
        """Render a refusal in the caller's protocol; as JSON while that is not known."""
        return json_refusal(refusal) if self.codec is None else self.codec.render(refusal)

    def hand_slot_to(self, response: Response) -> Response:
        """Hand the slot over to the response if that is a stream, which releases it at its end."""
        stream = response.stream
        if self.slot is not None and isinstance(stream, AuditedStream):
            stream.on_end = self.slot.release
            self.slot = None
        return response

    def release(self) -> None:
        """Release the slot, unless it was handed over."""
        if self.slot is not None:
            self.slot.release()
