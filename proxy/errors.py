"""Why a call was refused: one closed list of reasons.

The same code is in the response, the log line, the metric and the audit record. The class of an
error says which side must act: the caller (`Rejected`), the operator of a running proxy
(`Unavailable`), or the one that starts it (`ConfigError`). The `Reason` says why, and `REASONS`
what to do next. Texts here and in a `detail` hold no credential and no argument's value: they go to
callers and into logs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.model import Reason


@dataclass(frozen=True, slots=True)
class ReasonInfo:
    """One row of the reason table: HTTP status, summary and hint, one ASCII sentence each."""

    status: int
    summary: str
    hint: str


REASONS: dict[Reason, ReasonInfo] = {
    Reason.ALLOWED: ReasonInfo(
        200, "A policy permits the call and none forbids it.", "Nothing to do."
    ),
    Reason.BAD_REQUEST: ReasonInfo(
        400,
        "The bytes are not one strict HTTP request.",
        "Send a plain HTTP/1.1 or HTTP/1.0 request; check proxies in between.",
    ),
    Reason.PLAIN_HTTP: ReasonInfo(
        400,
        "This port speaks TLS, and the request is plain HTTP.",
        "Use the https:// URL of Callgate.",
    ),
    Reason.HEADERS_TOO_LARGE: ReasonInfo(
        431,
        "The request line and headers are over the limit.",
        "Send a smaller token or fewer headers, or raise limits.header_bytes.",
    ),
    Reason.BODY_TOO_LARGE: ReasonInfo(
        413, "The body is over the limit.", "Send less in one call, or raise limits.body_bytes."
    ),
    Reason.REQUEST_TIMEOUT: ReasonInfo(
        408,
        "The request did not arrive in time.",
        "Send the whole request without pausing; check the network.",
    ),
    Reason.EXPECTATION_FAILED: ReasonInfo(
        417,
        "The request expects what is not served.",
        "Send Expect: 100-continue, or no Expect.",
    ),
    Reason.TOO_MANY_CONNECTIONS: ReasonInfo(
        503,
        "Too many connections are open.",
        "Reuse connections, or raise limits.connections_per_address.",
    ),
    Reason.BAD_CLIENT_ADDRESS: ReasonInfo(
        400,
        "The connection does not say whose it is.",
        "Connect through a listed balancer that sends one PROXY header.",
    ),
    Reason.NOT_FOUND: ReasonInfo(
        404,
        "No upstream serves this path.",
        "Check the URL's path against the prefixes in the settings.",
    ),
    Reason.METHOD_NOT_ALLOWED: ReasonInfo(
        405, "This HTTP method is not served on this path.", "Use GET or POST as the protocol asks."
    ),
    Reason.NO_CREDENTIAL: ReasonInfo(
        401,
        "The request has no credential.",
        "Send a token as Bearer, or as the password of Basic (netrc, URL).",
    ),
    Reason.TWO_CREDENTIALS: ReasonInfo(
        400,
        "The request has more than one credential.",
        "Send exactly one.",
    ),
    Reason.BAD_CREDENTIAL: ReasonInfo(
        401,
        "The credential is not a token that Callgate can read.",
        "Get a new token and send it complete and unchanged.",
    ),
    Reason.UNKNOWN_ISSUER: ReasonInfo(
        401,
        "The token's issuer is not in the settings.",
        "Use a token of an issuer named in the settings.",
    ),
    Reason.UNKNOWN_KEY: ReasonInfo(
        401,
        "The token names a key that its issuer does not publish.",
        "Get a new token; the issuer may have rotated its keys.",
    ),
    Reason.BAD_SIGNATURE: ReasonInfo(
        401, "The token's signature does not verify.", "Get a new token; do not edit it."
    ),
    Reason.TOKEN_EXPIRED: ReasonInfo(401, "The token has expired.", "Get a new token."),
    Reason.TOKEN_NOT_YET_VALID: ReasonInfo(
        401,
        "The token is not valid yet.",
        "Wait, or check the clocks of the issuer and of Callgate.",
    ),
    Reason.TOKEN_LIFETIME_TOO_LONG: ReasonInfo(
        401,
        "The token is valid for longer than its issuer may grant.",
        "Get a token with a shorter lifetime, or raise issuers.max_lifetime_seconds.",
    ),
    Reason.WRONG_AUDIENCE: ReasonInfo(
        401,
        "The token is for another audience.",
        "Ask the issuer for a token with Callgate's audience; see issuers.audiences.",
    ),
    Reason.WRONG_TOKEN_TYPE: ReasonInfo(
        401,
        "The token is not an access token.",
        "Send an access token, not an ID token; see issuers.token_types.",
    ),
    Reason.ISSUER_UNAVAILABLE: ReasonInfo(
        503,
        "The issuer's keys could not be fetched yet.",
        "Retry; the operator checks the issuer with callgate check --online.",
    ),
    Reason.MALFORMED_CALL: ReasonInfo(
        400,
        "The call is not encoded as its protocol prescribes.",
        "Fix the client's encoding of the call.",
    ),
    Reason.AMBIGUOUS_CALL: ReasonInfo(
        400, "The call could be read in two ways.", "Send each element, key and argument once."
    ),
    Reason.CALL_TOO_COMPLEX: ReasonInfo(
        400, "The call is nested too deeply or has too many elements.", "Send less in one call."
    ),
    Reason.BAD_ARGUMENTS: ReasonInfo(
        400,
        "An argument is missing or of the wrong type.",
        "Fix the named argument; the catalog has its type.",
    ),
    Reason.CROSS_SITE: ReasonInfo(
        403,
        "A browser may have sent this call without its user's intent.",
        "Use the pages behind the gate; let a program send POST, or its token as Bearer.",
    ),
    Reason.NO_ROLE: ReasonInfo(
        403,
        "The identity holds no role.",
        "Ask the security team for a role in policies/roles.toml.",
    ),
    Reason.UNKNOWN_METHOD: ReasonInfo(
        403,
        "The catalog of this upstream has no such method.",
        "Check the method's name; add it to the catalog if it is new.",
    ),
    Reason.NO_POLICY_ALLOWS: ReasonInfo(
        403, "No policy permits this call.", "Ask the security team for the role or the policy."
    ),
    Reason.POLICY_FORBIDS: ReasonInfo(
        403, "A policy forbids this call.", "Ask the security team; the record names the policy."
    ),
    Reason.POLICY_ERROR: ReasonInfo(
        403,
        "A policy failed while it was evaluated, so the call is denied.",
        "Ask the security team to fix the policy named in the audit record.",
    ),
    Reason.NOT_YOUR_WORKER: ReasonInfo(
        403,
        "The worker, the batch or the running task is not this identity's.",
        "Send the worker's own id without a mark, and batch ids as get_work gave them.",
    ),
    Reason.AUDIT_UNWRITABLE: ReasonInfo(
        503,
        "The audit record could not be made durable; nothing was forwarded.",
        "The operator frees or repairs the audit disk.",
    ),
    Reason.OVERLOADED: ReasonInfo(
        503,
        "The gate has as many calls in hand as it can carry.",
        "Retry after the time in Retry-After.",
    ),
    Reason.DRAINING: ReasonInfo(
        503, "The gate is shutting down.", "Retry; another gate or the restarted one will answer."
    ),
    Reason.UPSTREAM_UNREACHABLE: ReasonInfo(
        502,
        "The scheduler behind the gate refuses connections.",
        "Retry; the operator checks that it runs.",
    ),
    Reason.UPSTREAM_TIMEOUT: ReasonInfo(
        504,
        "The scheduler did not answer in time.",
        "Retry a view; check first whether another call took effect.",
    ),
    Reason.UPSTREAM_CLOSED: ReasonInfo(
        502,
        "The scheduler closed the connection without a whole answer.",
        "Check whether the call took effect before repeating it.",
    ),
    Reason.UPSTREAM_INVALID: ReasonInfo(
        502,
        "The scheduler's answer is not valid in its protocol.",
        "The operator checks the upstream's URL with callgate check --online.",
    ),
    Reason.UPSTREAM_ERROR: ReasonInfo(
        502,
        "The scheduler failed on this call.",
        "Check the call's arguments and the scheduler's own log.",
    ),
    Reason.CLIENT_GONE: ReasonInfo(
        499,
        "The caller left before the answer was complete.",
        "Nothing to do; the record says how far the answer got.",
    ),
    Reason.INTERNAL_ERROR: ReasonInfo(
        500,
        "The gate failed in a way it should not.",
        "Report it with the reference; the record says how far the call got.",
    ),
}


class Rejected(Exception):  # noqa: N818  (it names what happened to the request)
    """The caller's request is refused.

    `detail` is one safe ASCII line that narrows the reason down, or empty.
    """

    def __init__(self, reason: Reason, detail: str = "", *, retry_after: int | None = None) -> None:
        """Refuse for `reason`. `retry_after` is in seconds, for the ``Retry-After`` header."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status of the reason table."""
        return REASONS[self.reason].status


class Unavailable(Rejected):
    """The call is valid, but the gate or the upstream cannot serve it now.

    `sent` says whether the upstream may have acted.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        retry_after: int | None = None,
        sent: bool = False,
    ) -> None:
        """As `Rejected`; `sent` is True once any byte of the call has left for the upstream."""
        super().__init__(reason, detail, retry_after=retry_after)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with settings, policies, roles or files.

    `location` is a file, a line or a key (``callgate.toml: upstreams[0].url``); `hint` says what to
    do. A `warning` does not keep Callgate from serving now.
    """

    location: str
    message: str
    hint: str
    warning: bool = False


class ConfigError(Exception):
    """The gate cannot start, or cannot take new settings: every problem found, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Take at least one problem."""
        super().__init__("; ".join(f"{p.location}: {p.message}" for p in problems))
        self.problems = tuple(problems)
