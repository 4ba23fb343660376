"""What a refused caller gets: one ASCII line, the same in every protocol.

The line names the principal and the method, never an argument's value or a credential, and ends
with the reason and the reference. It travels as the HTTP reason phrase (all that a luigi worker's
user sees, luigi/rpc.py), as the ``faultString`` of an XML-RPC fault and in JSON bodies.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from proxy.common.text import to_plain_ascii
from proxy.errors import REASONS, Rejected
from proxy.model import Call, Decision, Principal, Reason, Request, Response
from proxy.protocol.xmlrpc.codec import encode_fault

JSON_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Headers of every JSON response, and of every refusal in JSON."""

# Reasons that pass by themselves: the same request may work a moment later.
_TEMPORARY = frozenset(
    {
        Reason.UPSTREAM_CLOSED,
        Reason.UPSTREAM_TIMEOUT,
        Reason.UPSTREAM_UNREACHABLE,
        Reason.DRAINING,
        Reason.AUDIT_UNWRITABLE,
    }
)
# Seconds in Retry-After for a temporary reason that gives none of its own.
_RETRY_SECONDS = 5
# Groups of a caller without a role that the line lists; more would push the reference out of sight.
_MAX_GROUPS = 5
_XML = re.compile(rb"(?:text|application)/xml(?![^ \t;])", re.IGNORECASE)
# Of supervisor/http_client.py; its client of XML-RPC is CPython's with an Accept header.
_LOG_FOLLOWER = b"Supervisor HTTP Client"
# One line each: Chromium reads a line with both as one challenge of a scheme that it does not know,
# and asks for no password.
_BEARER = (b"www-authenticate", b'Bearer realm="callgate"')
_BASIC = (b"www-authenticate", b'Basic realm="callgate"')


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal that every codec can render: the line, the hint, and the HTTP facts.

    `method` is the refused call's, empty where none is known. `prompt` says whether a 401 may make
    a browser ask its user for a password.
    """

    reason: Reason
    status: int
    message: str
    hint: str
    ref: str
    retry_after: int | None = None
    method: str = ""
    prompt: bool = True

    @classmethod
    def from_error(
        cls, error: Rejected, ref: str, method: str = "", *, prompt: bool = True
    ) -> "Refusal":
        """Refuse a request that never became a call, or a call that could not be served."""
        info = REASONS[error.reason]
        text = info.summary
        if error.detail:
            text = f"{text.rstrip('.')}: {to_plain_ascii(error.detail, 200)}"
            if not text.endswith("?"):
                text += "."
        wait = error.retry_after
        if wait is None and error.reason in _TEMPORARY:
            wait = _RETRY_SECONDS
        return cls(
            error.reason,
            info.status,
            f"callgate: {text} [{error.reason}, ref {ref}]",
            info.hint,
            ref,
            wait,
            method,
            prompt,
        )

    @classmethod
    def from_decision(
        cls,
        principal: Principal,
        call: Call,
        decision: Decision,
        ref: str,
        *,
        action: str = "",
        nearest: str | None = None,
        unclassified: bool = False,
    ) -> "Refusal":
        """Refuse a call that policy does not allow.

        `action` says what the call does where its method's name does not; `nearest` is the method
        that a misspelt name may stand for; `unclassified` says that the catalog has the method
        without a permission.
        """
        why = "" if nearest is None else f": there is no such method, did you mean {nearest}?"
        if unclassified:
            why = ": the catalog leaves its permission unclassified"
        return cls._denied(
            principal, action or call.method, call.upstream, why, decision.reason, ref, call.method
        )

    @classmethod
    def without_role(
        cls, principal: Principal, upstream: str, ref: str, *, action: str, method: str
    ) -> "Refusal":
        """Refuse a caller without a role. The line says which groups the token has."""
        why = f": {missing_role(principal.groups)}"
        return cls._denied(principal, action or "use", upstream, why, Reason.NO_ROLE, ref, method)

    @classmethod
    def _denied(
        cls,
        principal: Principal,
        action: str,
        upstream: str,
        why: str,
        reason: Reason,
        ref: str,
        method: str,
    ) -> "Refusal":
        info = REASONS[reason]
        roles = ", ".join(principal.roles) or "no role"
        subject = f"{to_plain_ascii(principal.subject)} ({to_plain_ascii(roles)})"
        what = f"{to_plain_ascii(action, 255)} {upstream}{why}"
        line = f"callgate: {subject} may not {what} [{reason}, ref {ref}]"
        return cls(reason, info.status, line, info.hint, ref, method=method)


def missing_role(groups: Sequence[str]) -> str:
    """Say that a token with these `groups` has no role, as one safe ASCII line."""
    if not groups:
        return "the token names no group"
    listed = ", ".join(to_plain_ascii(group, 48) for group in groups[:_MAX_GROUPS])
    more = len(groups) - _MAX_GROUPS
    tail = f" and {more} more" if more > 0 else ""
    return f"no role for the token's group{'s' if len(groups) > 1 else ''} {listed}{tail}"


def json_refusal(refusal: Refusal) -> Response:
    """Render a refusal as JSON, with the line as the HTTP reason phrase."""
    headers: list[tuple[bytes, bytes]] = [*JSON_HEADERS]
    if refusal.status == 401:
        headers.append(_BEARER)
        if refusal.prompt:
            headers.append(_BASIC)
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    error = {
        "reason": refusal.reason,
        "message": refusal.message,
        "remedy": refusal.hint,
        "ref": refusal.ref,
    }
    return Response(
        refusal.status,
        orjson.dumps({"error": error}),
        headers=tuple(headers),
        phrase=refusal.message.encode("ascii"),
    )


def html_refusal(refusal: Refusal) -> Response:
    """Render a refusal as a small page with the line and the hint.

    The status and the reason phrase are those of JSON.
    """
    response = json_refusal(refusal)
    text = (
        "<!DOCTYPE html><html lang=en><meta charset=utf-8>"
        f"<title>{refusal.status} Callgate</title><h1>{refusal.status}</h1>"
        f"<p>{html.escape(refusal.message)}</p><p>{html.escape(refusal.hint)}</p></html>\n"
    )
    headers = (*response.headers, (b"content-security-policy", b"default-src 'none'"))
    return Response(
        refusal.status,
        text.encode("ascii"),
        b"text/html; charset=utf-8",
        headers,
        response.phrase,
    )


def posts_xml(request: Request) -> bool:
    """Return whether `request` is a POST of XML, as XML-RPC clients send it."""
    kind = request.headers.get(b"content-type", b"")
    return request.http_method == "POST" and _XML.match(kind) is not None


def wrong_path_refusal(refusal: Refusal, request: Request) -> Response:
    """Render the refusal of a path that nothing serves, in the protocol of `request`.

    A POST of XML gets a fault in a 200, as for every other refusal of XML-RPC; a browser that
    opens a page gets a page; everything else, luigi's workers among it, gets JSON.
    """
    if posts_xml(request):
        return Response(
            200,
            encode_fault(refusal.status, refusal.message),
            b"text/xml",
            ((b"cache-control", b"no-store"),),
        )
    headers = request.headers
    if headers.get(b"sec-fetch-mode") == b"navigate" or b"text/html" in headers.get(b"accept", b""):
        return html_refusal(refusal)
    return json_refusal(refusal)


def supervisorctl_refusal(refusal: Refusal, request: Request) -> Response | None:
    """Render a refusal so that ``supervisorctl`` prints its line; None for other clients.

    Of a fault with a code that supervisord does not have it prints the code alone, of a 401 that
    the server requires authentication. Of any other status it prints the reason phrase. The
    client of its own that follows logs prints nothing but the status, or the body of a 200.
    """
    headers = request.headers
    agent = headers.get(b"user-agent", b"")
    if agent == _LOG_FOLLOWER:
        line = refusal.message.encode("ascii") + b"\n"
        return Response(200, line, b"text/plain", JSON_HEADERS)
    if headers.get(b"accept") != b"text/xml" or not agent.startswith(b"Python-xmlrpc"):
        return None
    if refusal.status == 401 and refusal.reason is not Reason.NO_CREDENTIAL:
        refusal = replace(refusal, status=403)
    return json_refusal(refusal)
