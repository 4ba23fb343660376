"""The target and the host of a request (RFC 9112 section 3.2): read in one way, or refused.

A target is a path, the same path in absolute form, or the asterisk of OPTIONS. The host of an
absolute target is what the Host says, or stands in for one that HTTP/1.0 left out. A Host may be
missing in HTTP/1.0, and in the probes of balancers, which need none.
"""

import re

from proxy.errors import Rejected
from proxy.model import Reason

# Paths of `proxy.edge.health`: balancers probe them without a Host in HTTP/1.1, too.
_PROBES = ("/-/healthz", "/-/readyz")
_PROBED_BY_OPTIONS = ("/", "*")
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_ABSOLUTE = re.compile(rb"(https?)://([^/?#]*)([/?].*)?", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PATH = re.compile(rb"/[!-\"$-~]*")  # printable ASCII without "#"


def read_target(
    target: bytes, headers: dict[bytes, bytes], http_method: str, *, http_1_0: bool
) -> tuple[str, str | None]:
    """Return path and query of `target`; the host of an absolute target goes into `headers`.

    Raises `Rejected` (BAD_REQUEST).
    """
    if http_method == "CONNECT":
        raise Rejected(Reason.BAD_REQUEST, "tunnels are not supported")
    if target[:1] != b"/" and target != b"*":
        target = _read_absolute(target, headers, http_1_0=http_1_0)
    if _PATH.fullmatch(target) is None and (target != b"*" or http_method != "OPTIONS"):
        raise Rejected(Reason.BAD_REQUEST, "the request target must be a plain path")
    path, mark, query = target.decode("ascii").partition("?")
    host = headers.get(b"host", b"")
    if _HOST.fullmatch(host) is None and (
        host
        or not (
            http_1_0 or path in _PROBES or (path in _PROBED_BY_OPTIONS and http_method == "OPTIONS")
        )
    ):
        raise Rejected(Reason.BAD_REQUEST, "expected one valid Host header")
    return path, query if mark else None


def _read_absolute(target: bytes, headers: dict[bytes, bytes], *, http_1_0: bool) -> bytes:
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise Rejected(Reason.BAD_REQUEST, "the request target must be a path or an http URL")
    port = _DEFAULT_PORTS[found[1].lower()]
    authority, rest = found[2], found[3] or b"/"
    if _HOST.fullmatch(authority) is None:
        raise Rejected(Reason.BAD_REQUEST, "the request target has no valid host")
    host = headers.get(b"host")
    if host is None and http_1_0:
        headers[b"host"] = authority
    elif host is None or host.lower().removesuffix(port) != authority.lower().removesuffix(port):
        detail = "the request target and the Host header name different hosts"
        raise Rejected(Reason.BAD_REQUEST, detail)
    return rest if rest[:1] == b"/" else b"/" + rest
