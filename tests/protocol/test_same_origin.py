import pytest

from proxy.errors import Rejected
from proxy.model import Reason
from proxy.protocol.same_origin import require_same_origin

HOST = {b"host": b"gate.example:8443"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {
            b"sec-fetch-site": b"same-origin",
            b"sec-fetch-dest": b"empty",
            b"sec-fetch-mode": b"cors",
        },
        {b"sec-fetch-site": b"same-origin"},
        {b"sec-fetch-site": b"none", b"sec-fetch-dest": b"document"},
        {b"origin": b"https://gate.example:8443", b"sec-fetch-site": b"same-origin"},
        {b"sec-fetch-mode": b"cors"},
    ],
)
def test_meant_calls_pass(headers: dict[bytes, bytes]) -> None:
    """Clients that are no browser, scripts of the gate's own pages, and what a user typed."""
    require_same_origin({**HOST, **headers}, tls=True)


@pytest.mark.parametrize(
    "headers",
    [
        {b"sec-fetch-site": b"cross-site"},
        {b"sec-fetch-site": b"cross-site", b"sec-fetch-dest": b"image"},
        {b"sec-fetch-site": b"same-site", b"sec-fetch-dest": b"empty"},
        {b"sec-fetch-site": b"same-origin", b"sec-fetch-dest": b"image"},
        {b"sec-fetch-site": b"same-origin", b"sec-fetch-dest": b"script"},
        {b"sec-fetch-site": b"same-origin", b"sec-fetch-dest": b"document"},
        {b"sec-fetch-site": b"same-origin", b"sec-fetch-dest": b"iframe"},
        {b"sec-fetch-site": b""},
        {b"sec-fetch-site": b"SAME-ORIGIN"},
        {b"sec-fetch-site": b"same-origin, none"},
        {b"origin": b"https://evil.example"},
        {b"origin": b"null"},
        {b"origin": b"https://gate.example"},
        {b"origin": b"http://gate.example:8443"},
        {b"origin": b"https://gate.example:8443.evil.example"},
        {b"origin": b""},
    ],
)
def test_calls_that_another_page_causes_are_refused(headers: dict[bytes, bytes]) -> None:
    """Another site, another subdomain, another port, or an image, frame or link even in a page of
    our own.
    """
    with pytest.raises(Rejected) as error:
        require_same_origin({**HOST, **headers}, tls=True)
    assert error.value.reason is Reason.CROSS_SITE


def test_a_plain_listener_takes_its_own_pages() -> None:
    """On a loopback listener without TLS the pages' origin is an http one; behind a TLS terminator
    it is https.
    """
    require_same_origin({**HOST, b"origin": b"http://gate.example:8443"}, tls=False)
    require_same_origin({**HOST, b"origin": b"https://gate.example:8443"}, tls=False)
    with pytest.raises(Rejected):
        require_same_origin({**HOST, b"origin": b"http://evil.example"}, tls=False)
