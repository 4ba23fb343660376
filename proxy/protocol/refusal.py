"""What a refused caller is told: one ASCII line, the same in every protocol, that ends with the
reason and the reference.

The line names who asked and what for, never an argument's value or a credential. It travels as the
HTTP reason phrase (all that a luigi worker's user sees, luigi/rpc.py), as the ``faultString`` of an
XML-RPC fault and in JSON bodies.
"""

from dataclasses import dataclass

from proxy.common.text import to_plain_ascii
from proxy.errors import REASONS, Rejected
from proxy.model import Call, Decision, Principal, Reason

_PASSING = frozenset(
    {
        Reason.UPSTREAM_CLOSED,
        Reason.UPSTREAM_TIMEOUT,
        Reason.UPSTREAM_UNREACHABLE,
        Reason.DRAINING,
        Reason.AUDIT_UNWRITABLE,
    }
)
_RETRY_SECONDS = 5  # what passes by itself is worth another try then


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal, ready to be spoken in any dialect: the line, what to do next, and the HTTP facts."""

    reason: Reason
    status: int
    message: str
    hint: str
    ref: str
    retry_after: int | None = None
    method: str = ""


def of_error(error: Rejected, ref: str) -> Refusal:
    """The refusal of a request that never became a call, or of a call that could not be served."""
    about = REASONS[error.reason]
    detail = f" {to_plain_ascii(error.detail, 200)}." if error.detail else ""
    line = f"callgate: {about.summary}{detail} [{error.reason}, ref {ref}]"
    wait = (
        _RETRY_SECONDS
        if error.retry_after is None and error.reason in _PASSING
        else error.retry_after
    )
    return Refusal(error.reason, about.status, line, about.hint, ref, wait)


def of_decision(principal: Principal, call: Call, decision: Decision, ref: str) -> Refusal:
    """The refusal of a call that policy denies: who may not do what, where."""
    about = REASONS[decision.reason]
    roles = ", ".join(principal.roles) or "no role"
    who = f"{to_plain_ascii(principal.subject)} ({to_plain_ascii(roles)})"
    line = f"callgate: {who} may not {to_plain_ascii(call.method, 255)} {call.upstream} [{decision.reason}, ref {ref}]"
    return Refusal(decision.reason, about.status, line, about.hint, ref, method=call.method)
