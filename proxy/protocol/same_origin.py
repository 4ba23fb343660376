"""Calls that a browser sends without its user's intent (CSRF).

Any page can make a browser request ``/api/pause``: browsers attach a remembered Basic credential,
as they do cookies, to requests that other sites cause, and luigid acts on a GET as on a POST.

A browser states where a request comes from and what it is for (Fetch Metadata: ``Sec-Fetch-Site``
and ``Sec-Fetch-Dest``; older ones send ``Origin`` with all but a plain GET), and no page can set
these headers. A call passes when a script of Callgate's own pages made it, or when the user typed
its address. An image, a frame or a link inside a page is rejected too, since a task's name may have
put it there. Clients that are no browsers send none of these headers, and pass.
"""

from collections.abc import Mapping

from proxy.errors import Rejected
from proxy.model import Reason


def require_same_origin(headers: Mapping[bytes, bytes], *, tls: bool) -> None:
    """Reject a call that a browser sends for another site, or without a script.

    `tls` says whether the listener speaks TLS: a page of the same host without TLS is then another
    site. Raises `Rejected` (CROSS_SITE).
    """
    site = headers.get(b"sec-fetch-site")
    if (
        site is not None
        and site != b"none"
        and (site != b"same-origin" or headers.get(b"sec-fetch-dest", b"empty") != b"empty")
    ):
        raise Rejected(Reason.CROSS_SITE)
    origin = headers.get(b"origin")
    if origin is not None:
        host = headers.get(b"host", b"")
        if origin != b"https://" + host and (tls or origin != b"http://" + host):
            raise Rejected(Reason.CROSS_SITE)
