import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.catalog.loading import load_catalog
from proxy.errors import Rejected, Unavailable
from proxy.model import (
    Batch,
    Call,
    Peer,
    Principal,
    Reason,
    Request,
    Response,
    Target,
    UpstreamResponse,
)
from proxy.protocol.codec import Priority
from proxy.protocol.codec_table import CodecOptions, make_mounts
from proxy.protocol.refusal import Refusal
from proxy.protocol.xmlrpc.supervisor_pages import METHODS, SupervisorPages

CATALOG = load_catalog(Path("policies/catalogs/supervisor.toml"))
ALICE = Principal("https://i", "i", "alice", ("viewer",), expires=1000.0)
PAGES = SupervisorPages("processes", CATALOG, "/team/processes", clock=lambda: 990.0)


def read(path: str, *, verb: str = "GET", body: bytes = b"", full: str | None = None) -> Batch:
    """Return what a request for `path`, with its query, is read as."""
    path, mark, query = path.partition("?")
    peer = Peer("127.0.0.1", 1, None, "")
    request = Request("ID", verb, full or path, query if mark else None, {}, body, peer)
    return PAGES.decode(request, path, ALICE)


def sent(call: Call) -> bytes:
    """Return the target that supervisord gets."""
    request = Request("ID", "GET", "/", None, {}, b"", Peer("127.0.0.1", 1, None, ""))
    return PAGES.encode(call, ALICE, request).path


@pytest.mark.parametrize(
    ("path", "method", "args", "target"),
    [
        ("/", "page.status", {}, b"/index.html"),
        ("/?message=a%20b", "page.status", {}, b"/index.html"),
        ("/index.html?action=refresh", "page.status", {}, b"/index.html"),
        ("/ok.html", "page.ok", {}, b"/ok.html"),
        ("/mainlogtail", "page.mainlogtail", {}, b"/mainlogtail"),
        (
            "/logtail/a",
            "page.logtail",
            {"name": "a", "channel": "stdout"},
            b"/logtail/a/stdout",
        ),
        (
            "/logtail/g%3A%C3%A9%20x/stderr",
            "page.logtail",
            {"name": "g:é x", "channel": "stderr"},
            b"/logtail/g:%C3%A9%20x/stderr",
        ),
        ("/tail.html?processname=g:a", "page.tail", {"name": "g:a"}, None),
        (
            "/tail.html?limit=4096&processname=a%26action%3Dstop",
            "page.tail",
            {"name": "a&action=stop", "length": 4096},
            b"/tail.html?processname=a%26action%3Dstop&limit=4096",
        ),
        ("/images/icon.png", "page.files", {"path": "/images/icon.png"}, b"/images/icon.png"),
    ],
)
def test_a_page_is_one_call(
    path: str, method: str, args: dict[str, object], target: bytes | None
) -> None:
    """Its path and query are read once, and written afresh."""
    batch = read(path)
    assert batch.single
    assert batch.counts_as_read
    (call,) = batch.calls
    assert (call.method, call.args, call.permission) == (method, args, "view")
    assert PAGES.method_of(path.partition("?")[0]) == method
    assert PAGES.describe(method).endswith("of")
    assert sent(call) == (target or b"/tail.html?processname=g:a")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/index.html?action=stopall", Reason.CROSS_SITE),
        ("/?processname=a&action=start", Reason.CROSS_SITE),
        ("/?action=", Reason.CROSS_SITE),
        ("/?action=refresh&action=stopall", Reason.AMBIGUOUS_CALL),
        ("/?amp;action=stopall", Reason.AMBIGUOUS_CALL),
        ("/?x=1", Reason.AMBIGUOUS_CALL),
        ("/?x", Reason.MALFORMED_CALL),
        ("/?message=%ff", Reason.MALFORMED_CALL),
        ("/?" + "&".join(f"a{n}=1" for n in range(9)), Reason.MALFORMED_CALL),
        ("/mainlogtail?x=1", Reason.AMBIGUOUS_CALL),
        ("/logtail", Reason.NOT_FOUND),
        ("/logtail/a/b/c", Reason.NOT_FOUND),
        ("/logtail/a/syslog", Reason.NOT_FOUND),
        ("/logtail/%2e%2e/stdout", Reason.BAD_ARGUMENTS),
        ("/logtail/a%2Fb/stdout", Reason.BAD_ARGUMENTS),
        ("/logtail/a%0Ab/stdout", Reason.BAD_ARGUMENTS),
        ("/logtail/%ff/stdout", Reason.MALFORMED_CALL),
        ("/tail.html", Reason.BAD_ARGUMENTS),
        ("/tail.html?processname=a&limit=x", Reason.BAD_ARGUMENTS),
        ("/tail.html?processname=a&limit=1234567", Reason.BAD_ARGUMENTS),
        ("/images/../web.py", Reason.NOT_FOUND),
        ("/images/.hidden", Reason.NOT_FOUND),
        ("/stylesheets", Reason.NOT_FOUND),
    ],
)
def test_what_is_no_page(path: str, reason: Reason) -> None:
    """A link that acts, a path that supervisord does not serve, a query with two readings."""
    with pytest.raises(Rejected) as caught:
        read(path)
    assert caught.value.reason is reason


def test_other_methods_than_get() -> None:
    """A form of the page would act; supervisord serves no HEAD; a GET has no body."""
    for verb, body, reason in (
        ("POST", b"", Reason.CROSS_SITE),
        ("HEAD", b"", Reason.METHOD_NOT_ALLOWED),
        ("GET", b"x", Reason.AMBIGUOUS_CALL),
    ):
        with pytest.raises(Rejected) as caught:
            read("/index.html", verb=verb, body=body)
        assert caught.value.reason is reason
    assert PAGES.method_of("/nothing") == ""
    assert PAGES.priority("/") is Priority.NORMAL


def test_without_a_slash_the_page_is_one_level_higher() -> None:
    """A relative redirect, so that the links of the page lead to supervisord."""
    (call,) = read("/", full="/team/processes").calls
    assert call.target is Target.GATE
    response = PAGES.introspect(call, lambda _: True)
    assert (response.status, dict(response.headers)[b"location"]) == (302, b"processes/")
    (call,) = read("/", full="/team/processes/").calls
    assert call.target is Target.UPSTREAM


class Lines:
    """A log: some lines, then silence."""

    def __init__(self, *lines: bytes) -> None:
        self.lines = list(lines)
        self.closed = False

    def __aiter__(self) -> "Lines":
        return self

    async def __anext__(self) -> bytes:
        if not self.lines:
            await asyncio.get_running_loop().create_future()
        return self.lines.pop(0)

    async def aclose(self) -> None:
        self.closed = True


def followed(lines: Lines, *, now: float) -> Response:
    """Return the response to a log that is followed."""
    codec = SupervisorPages("processes", CATALOG, clock=lambda: now)
    (call,) = read("/mainlogtail").calls
    headers = {b"content-type": b"text/plain;charset=utf-8"}
    return codec.answer(call, ALICE, UpstreamResponse(200, headers, b"", lines))


async def test_a_log_is_followed_until_the_credential_expires() -> None:
    """Then a line says so, and supervisord is left."""
    lines = Lines(b"a\n", b"b\n")
    response = followed(lines, now=999.9)
    assert response.endless
    assert response.stream is not None
    parts = [part async for part in response.stream]
    assert parts[:2] == [b"a\n", b"b\n"]
    assert b"the credential has expired" in parts[2]
    assert (len(parts), lines.closed) == (3, True)


async def test_a_reader_that_leaves_ends_a_log() -> None:
    """Nothing more is read."""
    lines = Lines(b"a\n", b"b\n")
    stream = followed(lines, now=0.0).stream
    assert stream is not None
    assert await stream.__anext__() == b"a\n"
    await stream.aclose()
    assert lines.closed
    assert [part async for part in stream] == []


@pytest.mark.parametrize(
    ("status", "given", "content_type"),
    [
        (200, b"text/html;charset=utf-8", b"text/html;charset=utf-8"),
        (404, b"text/html", b"text/html"),
        (200, b"image/png", b"image/png"),
        (200, b"application/javascript", b"application/octet-stream"),
        (200, b"", b"application/octet-stream"),
    ],
)
def test_the_answer_has_headers_of_our_own(status: int, given: bytes, content_type: bytes) -> None:
    """No script runs, whatever a process's name or description holds."""
    (call,) = read("/").calls
    response = PAGES.answer(call, ALICE, UpstreamResponse(status, {b"content-type": given}, b"x"))
    assert (response.status, response.content_type, response.body) == (status, content_type, b"x")
    headers = dict(response.headers)
    assert b"default-src 'none'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert not response.endless


@pytest.mark.parametrize(
    ("status", "reason"),
    [(500, Reason.UPSTREAM_ERROR), (401, Reason.UPSTREAM_INVALID), (301, Reason.UPSTREAM_INVALID)],
)
def test_another_status_is_no_page(status: int, reason: Reason) -> None:
    """supervisord's challenge for its own password is not the caller's."""
    (call,) = read("/").calls
    with pytest.raises(Unavailable) as caught:
        PAGES.answer(call, ALICE, UpstreamResponse(status, {}, b""))
    assert caught.value.reason is reason


def test_a_refusal_is_a_page() -> None:
    """With the line and the hint, escaped."""
    response = PAGES.render(Refusal(Reason.NO_ROLE, 403, "a <line>", "a hint", "R"))
    assert (response.status, response.content_type) == (403, b"text/html; charset=utf-8")
    assert b"a &lt;line&gt;" in response.body


def served(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the codecs of some paths, for POST and for GET, with these methods in the catalog."""
    catalog = replace(CATALOG, methods={name: CATALOG.methods[name] for name in methods})
    mounts = make_mounts(CodecOptions("s", catalog, 10, 1000))
    found = {}
    for path in ("/", "/RPC2", "/index.html", "/logtail/a", "/images/x"):
        for mount in mounts:
            if mount.serves(path):
                pages = mount.pages or mount.codec
                found[path] = (type(mount.codec).__name__, type(pages).__name__)
                break
    return found


def test_pages_are_served_if_the_catalog_has_them() -> None:
    """At the root, POST is XML-RPC. A catalog without pages is served as before."""
    server, pages = "XmlRpcServer", "SupervisorPages"
    assert served(["supervisor.getState"]) == {"/": (server, server), "/RPC2": (server, server)}
    assert served(["supervisor.getState", "page.ok"]) == {
        "/": (server, pages),
        "/RPC2": (server, server),
        "/index.html": (pages, pages),
        "/logtail/a": (pages, pages),
        "/images/x": (pages, pages),
    }
    assert set(CATALOG.methods) > METHODS


def test_a_page_that_the_catalog_lacks_is_refused() -> None:
    """As a call of a method that does not exist."""
    codec = SupervisorPages("processes", replace(CATALOG, methods={}))
    request = Request("ID", "GET", "/ok.html", None, {}, b"", Peer("127.0.0.1", 1, None, ""))
    (call,) = codec.decode(request, "/ok.html", ALICE).calls
    assert (call.in_catalog, call.permission) == (False, "admin")
