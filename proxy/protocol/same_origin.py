"""Calls that a browser sends without its user's intent (CSRF).

Any page can make a browser request ``/api/pause``, and a link in a mail does: browsers attach a
remembered Basic credential to requests that other sites cause, as they do cookies and client
certificates, and luigid acts on a GET as on a POST.

A browser states where a request comes from and what it is for (Fetch Metadata: ``Sec-Fetch-Site``,
``-Mode`` and ``-Dest``; older ones send ``Origin`` with all but a plain GET), and no page can set
these headers. Neither can a page of another origin set ``X-Requested-With`` without being asked
about it first, and Callgate answers no preflight.

===================  ===============================================================================
a call that acts     passes when a script of Callgate's own pages sent it: ``same-origin``,
                     ``empty``, and a mode in which neither a navigation nor markup fetches. Without
                     Fetch Metadata: ``Origin`` is Callgate's own, or a GET has
                     ``X-Requested-With``. Nothing that is fetched ahead of its use passes.
from no browser      A call with none of a browser's headers passes if it has a Bearer token, which
                     no browser sends by itself, or is a POST: an old browser sends ``Origin`` with
                     that. Stock workers and supervisorctl send such calls.
a view               may also be opened, by address or from any link. No other site may embed or
                     post it.
===================  ===============================================================================

Headers that contradict each other are rejected.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from proxy.errors import Rejected
from proxy.model import Reason, Request

# What a request of a browser has at least one of, unless it is an old one's plain GET.
_BROWSER = frozenset(
    {
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"sec-fetch-dest",
        b"sec-fetch-user",
        b"sec-purpose",
        b"purpose",
        b"x-moz",
        b"origin",
        b"referer",
        b"cookie",
    }
)
# Prefetched or prerendered: markup can cause both, with "same-origin" and "empty".
_AHEAD = frozenset({b"sec-purpose", b"purpose", b"x-moz"})
# The modes of fetch() and XMLHttpRequest. Markup such as <a ping> has the mode no-cors.
_SCRIPT_MODES = frozenset({b"cors", b"same-origin"})

_OPENED = "it acts, and a browser opened it like a page; only views are opened by their address"
_AHEAD_OF_USE = "it acts, and a browser fetched it ahead of its use"
_MARKUP = "a page's markup or another site caused it, not a script of Callgate's own pages"
_OTHER_ORIGIN = "its Origin or Referer is not Callgate's own (see public_url)"
_UNPROVEN = "it acts, and nothing proves that Callgate's own pages sent it"
_UNPROVEN_GET = f"{_UNPROVEN}; a program sends POST, or its token as Bearer"


def require_same_origin(request: Request, *, acts: bool, public_origin: bytes = b"") -> None:
    """Reject a call that a browser may have sent without its user's intent.

    `acts` is False for a view. `public_origin` is accepted as Callgate's own, like the one that the
    Host header gives: a balancer may rewrite that header. Raises `Rejected` (CROSS_SITE).
    """
    headers = request.headers
    if _BROWSER.isdisjoint(headers):
        if (
            acts
            and request.http_method != "POST"
            and not _has_bearer(headers)
            and not headers.get(b"x-requested-with")
        ):
            raise Rejected(Reason.CROSS_SITE, _UNPROVEN_GET)
        return
    origin = headers.get(b"origin")
    if origin is not None and not _is_own(origin, request, public_origin):
        raise Rejected(Reason.CROSS_SITE, _OTHER_ORIGIN)
    if acts:
        _require_script(request, public_origin)
    else:
        _require_reader(headers)


def may_prompt(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a refusal may make a browser ask its user for a password.

    Only a page may: a prompt in the middle of a script's call, or for an image or a frame, does not
    say what it is for. What is no browser gets the challenge too.
    """
    return (
        headers.get(b"sec-fetch-mode", b"navigate") == b"navigate"
        and headers.get(b"sec-fetch-dest", b"document") == b"document"
        and b"x-requested-with" not in headers
    )


def origin_of(url: str) -> bytes:
    """Return the origin of an absolute URL as browsers write it (RFC 6454 section 6.1)."""
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}".encode("ascii")


def _require_script(request: Request, public_origin: bytes) -> None:
    """Reject a call that acts and has a browser's headers, unless our own script sent it."""
    headers = request.headers
    if not _AHEAD.isdisjoint(headers):
        raise Rejected(Reason.CROSS_SITE, _AHEAD_OF_USE)
    mode = headers.get(b"sec-fetch-mode")
    if mode == b"navigate":
        raise Rejected(Reason.CROSS_SITE, _OPENED)
    bearer = _has_bearer(headers)
    site, dest = headers.get(b"sec-fetch-site"), headers.get(b"sec-fetch-dest")
    if site is not None or mode is not None or dest is not None:
        ours = site == b"same-origin" and dest == b"empty" and mode in _SCRIPT_MODES
        # Node's fetch sends this mode and nothing else, which no browser does.
        node = bearer and mode == b"cors" and site is None and dest is None
        if not ours and not node:
            raise Rejected(Reason.CROSS_SITE, _MARKUP)
    elif (
        not bearer
        and b"origin" not in headers
        and (request.http_method == "POST" or not headers.get(b"x-requested-with"))
    ):
        raise Rejected(Reason.CROSS_SITE, _UNPROVEN)
    referer = headers.get(b"referer")
    if referer is not None and not bearer:
        scheme, _, rest = referer.partition(b"://")
        if not _is_own(scheme + b"://" + rest.partition(b"/")[0], request, public_origin):
            raise Rejected(Reason.CROSS_SITE, _OTHER_ORIGIN)


def _require_reader(headers: Mapping[bytes, bytes]) -> None:
    """Reject a view that a browser neither opens as a page nor reads in a script of our own."""
    site = headers.get(b"sec-fetch-site")
    dest = headers.get(b"sec-fetch-dest")
    if site is None or (site == b"same-origin" and dest in (None, b"empty")):
        return
    opened = headers.get(b"sec-fetch-mode") == b"navigate" and dest == b"document"
    if not opened and site != b"none":
        raise Rejected(Reason.CROSS_SITE, _MARKUP)


def _has_bearer(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"authorization", b"")[:7].lower() == b"bearer "


def _is_own(origin: bytes, request: Request, public_origin: bytes) -> bool:
    """Return whether `origin` is Callgate's own.

    On a listener that speaks TLS, a page of the same host without TLS is another site.
    """
    host = request.headers.get(b"host", b"")
    return (
        origin == b"https://" + host
        or (request.peer.tls is None and origin == b"http://" + host)
        or (public_origin != b"" and origin == public_origin)
    )
