"""Calls that a browser sends without its user meaning them (CSRF): any page can make a browser ask
for ``/api/pause``.

Browsers remember a Basic credential, as they do cookies, and attach it to requests that other sites
cause; luigid acts on a GET as on a POST. A browser tells on its own where a request comes from and
what it is for (Fetch Metadata, ``Sec-Fetch-Site`` and ``Sec-Fetch-Dest``; older ones send
``Origin`` with what is not a plain GET), and no page can set these headers. So a call passes when a
script of the gate's own pages made it, or the user typed it; an image, a frame or a link within a
page is refused too, for a task's name may have put it there. Clients that are no browsers send none
of these headers.
"""

from collections.abc import Mapping

from proxy.errors import Rejected
from proxy.model import Reason


def require_same_origin(headers: Mapping[bytes, bytes], *, tls: bool) -> None:
    """Raise `Rejected` (CROSS_SITE) for a call that a browser sends on behalf of another site, or
    not from a script.

    `tls` says whether the gate itself speaks TLS here: then a page of the same host without TLS is
    another site.
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
