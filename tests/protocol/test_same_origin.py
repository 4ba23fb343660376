from itertools import product
from typing import Literal

import pytest

from proxy.errors import Rejected
from proxy.model import Peer, Reason, Request
from proxy.protocol.same_origin import may_prompt, origin_of, require_same_origin

HOST = b"gate.example:8443"
OWN = b"https://gate.example:8443"
BEARER = {b"authorization": b"Bearer e30.e30.e30"}
BASIC = {b"authorization": b"Basic and0OmUzMA=="}
SESSION = {b"cookie": b"__Host-callgate=x"}
CERTIFICATE: dict[bytes, bytes] = {}
FETCH = {
    b"sec-fetch-site": b"same-origin",
    b"sec-fetch-mode": b"cors",
    b"sec-fetch-dest": b"empty",
}
TYPED = {
    b"sec-fetch-site": b"none",
    b"sec-fetch-mode": b"navigate",
    b"sec-fetch-dest": b"document",
    b"sec-fetch-user": b"?1",
}
LINK = {**TYPED, b"sec-fetch-site": b"cross-site"}
XHR = {b"x-requested-with": b"XMLHttpRequest"}

SITES = (None, b"none", b"same-origin", b"same-site", b"cross-site", b"", b"SAME-ORIGIN")
MODES = (None, b"navigate", b"cors", b"no-cors", b"same-origin", b"websocket", b"")
DESTS = (None, b"document", b"empty", b"image", b"iframe", b"script", b"serviceworker", b"")
ORIGINS = (None, OWN, b"https://evil.example", b"null", b"")
VERBS: tuple[Literal["GET", "POST"], ...] = ("GET", "POST")


def passes(
    headers: dict[bytes, bytes],
    *,
    verb: str = "POST",
    acts: bool = True,
    tls: bool = True,
    public_origin: bytes = b"",
) -> bool:
    """Return whether a request with these headers passes."""
    peer = Peer("127.0.0.1", 1, "TLSv1.3" if tls else None, "")
    request = Request("ID", verb, "/api/pause", None, {b"host": HOST, **headers}, b"", peer)
    try:
        require_same_origin(request, acts=acts, public_origin=public_origin)
    except Rejected as error:
        assert error.reason is Reason.CROSS_SITE
        assert error.detail
        return False
    return True


def combine(**values: bytes | None) -> dict[bytes, bytes]:
    """Return the headers that are given."""
    return {
        name.replace("_", "-").encode(): value
        for name, value in values.items()
        if value is not None
    }


@pytest.mark.parametrize(
    "credential", [BASIC, SESSION, CERTIFICATE], ids=["basic", "session", "certificate"]
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_browsers_own_credential_needs_proof(
    credential: dict[bytes, bytes], verb: Literal["GET", "POST"]
) -> None:
    """Every combination of headers: what acts passes with proof of a script of our own pages, and
    as a POST that has nothing of a browser.
    """
    wrong = []
    for site, mode, dest, origin, requested in product(
        SITES, MODES, DESTS, ORIGINS, (None, b"XMLHttpRequest")
    ):
        headers = combine(
            sec_fetch_site=site,
            sec_fetch_mode=mode,
            sec_fetch_dest=dest,
            origin=origin,
            x_requested_with=requested,
        )
        if site is mode is dest is None:
            proven = origin == OWN or (
                origin is None
                and (
                    requested is not None
                    if verb == "GET"
                    else credential is not SESSION  # a cookie is a browser's
                )
            )
        else:
            proven = (
                site == b"same-origin"
                and dest == b"empty"
                and mode in (b"cors", b"same-origin")
                and origin in (None, OWN)
            )
        if passes({**credential, **headers}, verb=verb) is not proven:
            wrong.append(headers)
    assert wrong == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_bearer_token_needs_none_but_no_browser_opens_what_acts(
    verb: Literal["GET", "POST"],
) -> None:
    """Every combination with a header that no browser sends by itself: with nothing of a browser it
    passes, and what a browser sends must be a script's of our own pages.
    """
    wrong = []
    for site, mode, dest, origin in product(SITES, MODES, DESTS, ORIGINS):
        headers = combine(
            sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest, origin=origin
        )
        ours = site == b"same-origin" and dest == b"empty" and mode in (b"cors", b"same-origin")
        node = site is None and dest is None and mode in (None, b"cors")
        proven = (ours or node) and origin in (None, OWN)
        if passes({**BEARER, **headers}, verb=verb) is not proven:
            wrong.append(headers)
    assert wrong == []


@pytest.mark.parametrize("credential", [BASIC, BEARER, SESSION], ids=["basic", "bearer", "session"])
def test_a_view_may_be_opened_and_not_embedded(credential: dict[bytes, bytes]) -> None:
    """Every combination: an address, a link from anywhere and a script of our own pages see it;
    frames, images and scripts of other sites do not.
    """
    wrong = []
    for site, mode, dest, origin in product(SITES, MODES, DESTS, ORIGINS):
        headers = combine(
            sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest, origin=origin
        )
        seen = origin in (None, OWN) and (
            site in (None, b"none")
            or (site == b"same-origin" and dest in (None, b"empty"))
            or (mode == b"navigate" and dest == b"document")
        )
        if passes({**credential, **headers}, verb="GET", acts=False) is not seen:
            wrong.append(headers)
    assert wrong == []


@pytest.mark.parametrize("credential", [BASIC, BEARER], ids=["basic", "bearer"])
@pytest.mark.parametrize(
    "ahead",
    [
        {b"sec-purpose": b"prefetch"},
        {b"sec-purpose": b"prefetch;prerender"},
        {b"purpose": b"prefetch"},
        {b"x-moz": b"prefetch"},
    ],
)
def test_nothing_that_acts_is_fetched_ahead(
    credential: dict[bytes, bytes], ahead: dict[bytes, bytes]
) -> None:
    """``<link rel=prefetch>`` in a page of our own has the site and the destination of a script."""
    for verb in VERBS:
        assert passes({**credential, **FETCH}, verb=verb)
        assert not passes({**credential, **FETCH, **ahead}, verb=verb)
        assert not passes({**credential, **ahead}, verb=verb)
    assert passes({**credential, **FETCH, **ahead}, verb="GET", acts=False)


@pytest.mark.parametrize(
    "referer",
    [b"https://evil.example/", b"http://gate.example:8443/", b"https://gate.example/", b""],
)
def test_headers_that_contradict_each_other_are_rejected(referer: bytes) -> None:
    """A Referer of another origin, or in no form that a browser sends, contradicts every proof."""
    own = {b"referer": OWN + b"/static/visualiser/index.html"}
    for proof in (FETCH, {b"origin": OWN}):
        assert passes({**BASIC, **proof, **own})
        assert not passes({**BASIC, **proof, b"referer": referer})
    assert passes({**BASIC, **XHR, **own}, verb="GET")
    assert not passes({**BASIC, **XHR, b"referer": referer}, verb="GET")


@pytest.mark.parametrize(
    "marker",
    [
        {b"referer": OWN + b"/"},
        {b"cookie": b"theme=dark"},
        {b"sec-fetch-user": b"?1"},
    ],
)
def test_a_post_with_any_header_of_a_browser_is_a_browsers(marker: dict[bytes, bytes]) -> None:
    """An old browser's form sends a Referer or a cookie where it sends no Origin."""
    assert passes(BASIC)
    assert not passes({**BASIC, **marker})
    assert passes({**BASIC, **marker, b"origin": OWN})
    assert passes({**BEARER, **marker})


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER "])
def test_a_bearer_token_is_known_in_any_case(scheme: bytes) -> None:
    """A scheme has no case (RFC 9110 section 11.1)."""
    assert passes({b"authorization": scheme + b"x"}, verb="GET")
    assert not passes({b"authorization": b"Bearerish x"}, verb="GET")


def test_every_browsers_way_to_open_an_address() -> None:
    """Typed, a bookmark, a link in a mail, a link on another site, a form of our own page."""
    form = {**TYPED, b"sec-fetch-site": b"same-origin", b"origin": OWN}
    for credential in (BASIC, BEARER, SESSION, CERTIFICATE):
        for opened in (TYPED, LINK, {**LINK, b"sec-fetch-site": b"same-site"}):
            assert not passes({**credential, **opened}, verb="GET")
            assert passes({**credential, **opened}, verb="GET", acts=False)
        assert not passes({**credential, **form})


@pytest.mark.parametrize(
    ("origin", "tls", "own"),
    [
        (OWN, True, True),
        (OWN, False, True),  # behind a TLS terminator
        (b"http://gate.example:8443", False, True),
        (b"http://gate.example:8443", True, False),
        (b"https://gate.example", True, False),
        (b"https://gate.example:8443.evil.example", True, False),
        (b"https://gate.example:8443, https://evil.example", True, False),
        (b"http://evil.example", False, False),
        (b"https://public.example", True, False),
    ],
)
def test_which_origin_is_our_own(origin: bytes, tls: bool, own: bool) -> None:
    """The one of the Host header, with TLS where the listener speaks it."""
    assert passes({**BASIC, b"origin": origin}, tls=tls) is own
    assert passes({**BASIC, **FETCH, b"origin": origin}, tls=tls) is own
    assert passes({**BASIC, b"origin": origin}, verb="GET", acts=False, tls=tls) is own


def test_the_public_url_is_our_own_behind_a_balancer_that_rewrites_host() -> None:
    """And nothing else becomes so by it."""
    public = origin_of("https://public.example")
    assert passes({**BASIC, b"origin": b"https://public.example"}, public_origin=public)
    assert passes({**BASIC, b"origin": OWN}, public_origin=public)
    assert not passes({**BASIC, b"origin": b"https://public.example:1"}, public_origin=public)
    assert not passes({**BASIC, b"origin": b""}, public_origin=b"")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://gate.example.org", b"https://gate.example.org"),
        ("https://Gate.Example.org:443/", b"https://gate.example.org"),
        ("https://gate.example.org:8443", b"https://gate.example.org:8443"),
        ("https://[2001:DB8::1]:8443", b"https://[2001:db8::1]:8443"),
        ("http://localhost:80", b"http://localhost"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(url: str, origin: bytes) -> None:
    """Lower case, without the scheme's own port."""
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    ("headers", "prompt"),
    [
        ({}, True),
        (TYPED, True),
        (LINK, True),
        ({b"sec-fetch-mode": b"navigate"}, True),
        (FETCH, False),
        ({b"sec-fetch-mode": b"cors"}, False),
        ({b"sec-fetch-mode": b"no-cors", b"sec-fetch-dest": b"image"}, False),
        ({**TYPED, b"sec-fetch-dest": b"iframe"}, False),
        ({b"sec-fetch-mode": b""}, False),
        (XHR, False),
    ],
)
def test_only_a_page_asks_for_a_password(headers: dict[bytes, bytes], prompt: bool) -> None:
    """A script, an image or a frame does not; what is no browser gets the challenge."""
    assert may_prompt(headers) is prompt
