"""Before anything is timed, every peer has to do the work that its column claims.

A proxy that answers 200 with an error, or checks nothing, would look fast.
"""

import ssl
import urllib.error
import urllib.request

from tests.bench.calls import LUIGI_ANSWER, Call
from tests.bench.credentials import Credentials
from tests.bench.peers import INTERPRETED, Peer

CUT = 0  # no answer: the connection ended while the call was being sent
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname = False
UNVERIFIED.verify_mode = ssl.CERT_NONE  # the run's own certificate, on loopback


def post(url: str, body: bytes, content_type: str, token: str) -> tuple[int, bytes]:
    """Send one call; status and body of the answer."""
    request = urllib.request.Request(
        url, body, {"Content-Type": content_type, "Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30, context=UNVERIFIED) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, ConnectionError) as error:
        return CUT, str(error).encode()


def good(call: Call, status: int, body: bytes) -> bool:
    """Whether this is the upstream's answer to `call`."""
    right = (
        LUIGI_ANSWER in body or b'"rpc_messages"' in body
        if call.protocol == "luigi"
        else b"<string>ok</string>" in body
    )
    return status == 200 and right


def check(peer: Peer, calls: list[Call], credentials: Credentials, *, prefix: str = "") -> None:
    """Raises AssertionError, naming peer and call, unless every call is answered and every wrong
    one is refused.
    """
    for tls in (False, True):
        for call in calls:
            what = f"{peer.name}, {call.protocol} {call.name}, {'TLS' if tls else 'plain'}"
            answer = post(
                peer.url(prefix + call.path, tls=tls),
                call.body,
                call.content_type,
                credentials.token,
            )
            assert good(call, *answer), f"{what}: {answer[0]} {answer[1][:300]!r}"
            if peer.checks:
                status, body = post(
                    peer.url(prefix + call.path, tls=tls),
                    call.body,
                    call.content_type,
                    credentials.forged,
                )
                # A peer may cut a stranger's large body off so that its answer is lost; Callgate
                # listens on until it is heard.
                cut = (
                    peer.name not in ("Callgate", INTERPRETED)
                    and len(call.body) > 65_536
                    and status == CUT
                )
                assert status == 401 or cut, (
                    f"{what}: a forged token is answered {status} {body[:300]!r}"
                )
                path, forbidden = call.forbidden
                status, body = post(
                    peer.url(prefix + path, tls=tls),
                    forbidden,
                    call.content_type,
                    credentials.token,
                )
                refused = status in (401, 403) or (status == 200 and b"<fault>" in body)
                assert refused, f"{what}: a forbidden method is answered {status} {body[:300]!r}"
