"""What the gate reports of a request: to the audit, the metrics and the log, with one reason.

Below the pipeline (`proxy.gate.pipeline`).
"""

import traceback
from contextvars import ContextVar
from time import monotonic_ns

from proxy.errors import Rejected, Unavailable
from proxy.gate.ports import EventLog, Metrics, Recorder
from proxy.model import Call, Decision, Outcome, Peer, Principal, Reason, Receipt

current_request: ContextVar[tuple[str, str]] = ContextVar("current_request")
"""The id and the path of the request that a task handles, for reports of slow steps."""


class Reporter:
    """The three ports that hear of every end of a request."""

    def __init__(self, recorder: Recorder, metrics: Metrics, log: EventLog) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._log = log

    def rejected(
        self,
        request_id: str,
        peer: Peer,
        reason: Reason,
        detail: str,
        principal: Principal | None,
        upstream: str | None,
    ) -> None:
        """Report a request, or an entry of a batch, that never became a call."""
        self._metrics.request_rejected(reason)
        self._recorder.rejected(
            request_id, peer, reason, detail, principal=principal, upstream=upstream
        )
        self._log.rejected(request_id, peer.address, reason)

    def denied(self, ref: str, principal: Principal, call: Call, decision: Decision) -> None:
        """Log a call that policy denied. It is recorded and counted already."""
        self._log.denied(ref, principal.name, call.upstream, call.method, decision.reason)

    def withheld(self, ref: str, principal: Principal, call: Call) -> None:
        """Log an allowed call of which the upstream did not get all, since it is another's."""
        self._log.denied(ref, principal.name, call.upstream, call.method, Reason.NOT_YOUR_WORKER)

    def completed(self, receipt: Receipt, outcome: Outcome, status: int, sent: int) -> None:
        """Report what became of an allowed call."""
        duration = monotonic_ns() - receipt.decided_at_ns
        self._metrics.call_completed(duration / 1e9, outcome)
        self._recorder.completed(
            receipt, outcome=outcome, status=status, sent=sent, duration_us=duration // 1000
        )

    def asked(self, receipt: Receipt, outcome: Outcome, status: int, sent: int) -> None:
        """Record what became of a question of the gate's own; it is no call of a client."""
        duration = monotonic_ns() - receipt.decided_at_ns
        self._recorder.completed(
            receipt, outcome=outcome, status=status, sent=sent, duration_us=duration // 1000
        )

    def failed(self, ref: str, call: Call, error: Exception) -> Rejected:
        """Log an error raised after the decision, and return it as a rejection."""
        if isinstance(error, Unavailable):
            self._log.upstream_failed(ref, call.upstream, call.method, error.reason)
            return error
        return self.internal_error(ref, error)

    def internal_error(self, ref: str, error: Exception) -> Rejected:
        """Log an unexpected exception, and return it as ``internal-error``.

        Its text may hold caller data and is not logged.
        """
        self._log.internal_error(ref, type(error).__name__, _traceback_lines(error))
        return Rejected(Reason.INTERNAL_ERROR)


def _traceback_lines(error: BaseException) -> list[str]:
    """Return the places an error came through, as function and line.

    Messages and locals may hold caller data; no source file is read.
    """
    return [
        f"{frame.f_code.co_name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)
    ]
