import base64
import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.loading import load_catalog
from proxy.errors import REASONS, Rejected, Unavailable
from proxy.model import Call, Peer, Principal, Reason, Request, Response, UpstreamResponse
from proxy.protocol.codec import Priority
from proxy.protocol.luigi.pages import LuigiPages
from proxy.protocol.refusal import Refusal
from tests.support.paths import ROOT

CATALOG = load_catalog(ROOT / "policies" / "catalogs" / "luigi.toml")
PAGES = LuigiPages("luigi", CATALOG)
ALICE = Principal("https://idp.example", "okta", "alice", ("viewer",))
LUIGI = Path(str(getattr(find_spec("luigi"), "origin", "luigi/__init__.py"))).parent
STATIC = LUIGI / "static"
INDEX = "/static/visualiser/index.html"
HTML = {b"content-type": b"text/html; charset=UTF-8"}


def request(
    path: str, query: str | None = None, verb: str = "GET", body: bytes = b"", **headers: bytes
) -> Request:
    """One request as the edge hands it over."""
    sent = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return Request("ID", verb, path, query, sent, body, Peer("127.0.0.1", 1, "TLSv1.3", ""))


def decode(path: str, query: str | None = None, **more: Any) -> Call:
    """The page at an upstream without a prefix."""
    (call,) = PAGES.decode(request(path, query, **more), path, ALICE).calls
    return call


def sent(path: str, query: str | None = None, pages: LuigiPages = PAGES, **more: Any) -> bytes:
    """The path that luigid is asked for."""
    return pages.encode(decode(path, query), ALICE, request(path, query, **more)).path


def answered(
    path: str, body: bytes, status: int = 200, headers: dict[bytes, bytes] = HTML
) -> Response:
    """What becomes of luigid's answer."""
    return PAGES.answer(decode(path), ALICE, UpstreamResponse(status, headers, body))


def policy(reply: Response) -> dict[str, list[str]]:
    """The content security policy, by directive."""
    rows = dict(reply.headers)[b"content-security-policy"].decode().split(";")
    return {row.split()[0]: row.split()[1:] for row in rows}


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/", "page.root"),
        (INDEX, "page.visualiser"),
        ("/static/visualiser/lib/URI/1.18.2/URI.js", "page.visualiser"),
        ("/history", "page.history"),
        ("/history/by_name/ns.Family", "page.history"),
        ("/history/by_id/12", "page.history"),
        ("/history/by_task_id/Family_a_1_0123456789", "page.history"),
        ("/history/by_params/Family", "page.history"),
        ("/tasklist", "page.tasklist"),
        ("/tasklist/Family", "page.tasklist"),
        ("/metrics", "page.metrics"),
    ],
)
def test_every_page_of_luigid_is_a_method(path: str, method: str) -> None:
    """The same policy and record hold for pages; the path arrives at luigid as it was decided."""
    call = decode(path)
    assert (call.method, call.permission, call.in_catalog) == (method, "view", True)
    assert sent(path) == path.encode()


def test_every_file_of_the_visualiser_has_a_path_that_is_read() -> None:
    """The stock package names its files with the characters that the grammar knows; a Photoshop
    original is not served.
    """
    files = [file for file in STATIC.rglob("*") if file.is_file() and file.suffix != ".psd"]
    assert len(files) > 25
    for file in files:
        assert decode(f"/static/{file.relative_to(STATIC)}").method == "page.visualiser"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/static", Reason.NOT_FOUND),
        ("/static/", Reason.NOT_FOUND),
        ("/static/visualiser/", Reason.NOT_FOUND),
        ("/static/../server.py", Reason.NOT_FOUND),
        ("/static/visualiser/../../server.py", Reason.NOT_FOUND),
        ("/static/..%2fserver.py", Reason.NOT_FOUND),
        ("/static/%2e%2e/server.py", Reason.NOT_FOUND),
        ("/static/visualiser//index.html", Reason.NOT_FOUND),
        ("/static/.hidden", Reason.NOT_FOUND),
        ("/static/visualiser\\index.html", Reason.NOT_FOUND),
        ("//static/visualiser/index.html", Reason.NOT_FOUND),
        ("/Static/visualiser/index.html", Reason.NOT_FOUND),
        ("/history/", Reason.NOT_FOUND),
        ("/history/by_name/", Reason.NOT_FOUND),
        ("/history/by_name/a/b", Reason.NOT_FOUND),
        ("/history/by_name/../../api/pause", Reason.NOT_FOUND),
        ("/history/by_name/a%2Fb", Reason.MALFORMED_CALL),
        ("/history/by_name/..", Reason.MALFORMED_CALL),
        ("/history/by_name/%2e%2e", Reason.MALFORMED_CALL),
        ("/history/by_name/%", Reason.MALFORMED_CALL),
        ("/history/by_name/%ff", Reason.MALFORMED_CALL),
        ("/history/by_name/a%0Ab", Reason.MALFORMED_CALL),
        ("/history/by_name/%3Cscript%3E", Reason.MALFORMED_CALL),
        ("/history/by_magic/a", Reason.NOT_FOUND),
        ("/metrics/", Reason.NOT_FOUND),
        ("/robots.txt", Reason.NOT_FOUND),
        ("/luigi", Reason.NOT_FOUND),
    ],
)
def test_paths_with_two_readings_are_no_pages(path: str, reason: Reason) -> None:
    """Dots, doubled slashes, other spellings, and segments that would be another path once decoded."""
    with pytest.raises(Rejected) as refused:
        decode(path)
    assert refused.value.reason is reason


def test_a_family_is_decoded_once_and_encoded_afresh() -> None:
    """A family outside ASCII is found; its record and luigid's request have one spelling."""
    assert sent("/history/by_name/%C3%A9t%C3%A9") == b"/history/by_name/%C3%A9t%C3%A9"
    assert sent("/history/by_name/%46amily") == b"/history/by_name/Family"


def test_a_query_is_dropped_but_for_a_search() -> None:
    """Versions of files are nothing to luigid; a search by parameters is decoded, checked and
    encoded afresh.
    """
    assert sent(INDEX, "v=123&data=x") == INDEX.encode()
    assert sent("/tasklist", "data=%7B%7D") == b"/tasklist"
    search = sent("/history/by_params/Family", "data=%7B%22a%22%3A%22b%26c%22%7D").decode()
    path, _, query = search.partition("?data=")
    assert path == "/history/by_params/Family"
    assert re.fullmatch(r"[A-Za-z0-9_.%/-]+", query)
    assert json.loads(unquote(query)) == {"a": "b&c"}


@pytest.mark.parametrize(
    "query",
    [
        "data=%7B%7D&data=%7B%7D",
        "x=1",
        "data=[]",
        'data={"a":{"b":1}}',
        'data={"a":1,"a":2}',
        'data={"<b>":"1"}',
    ],
)
def test_a_search_is_checked_like_the_arguments_of_a_call(query: str) -> None:
    """One field, one object, plain values under names of parameters."""
    with pytest.raises(Rejected):
        decode("/history/by_params/Family", query)


@pytest.mark.parametrize("verb", ["POST", "PUT", "OPTIONS", "DELETE"])
def test_a_page_is_only_looked_at(verb: str) -> None:
    """GET and HEAD, and no body."""
    with pytest.raises(Rejected) as refused:
        decode("/", verb=verb)
    assert refused.value.reason is Reason.METHOD_NOT_ALLOWED
    with pytest.raises(Rejected):
        decode("/", body=b"data=%7B%7D")


@given(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40),
    st.none() | st.text(st.characters(max_codepoint=0x7E), max_size=30),
)
def test_any_path_is_a_page_or_one_rejection(rest: str, query: str | None) -> None:
    """And what goes to luigid is a plain path below a place that luigid serves, without a dot
    segment.
    """
    for path in (
        "/" + rest,
        "/static/" + rest,
        "/history/by_name/" + rest,
        "/history/by_params/" + rest,
        "/tasklist/" + rest,
    ):
        try:
            call = decode(path, query)
        except Rejected:
            continue
        out = PAGES.encode(call, ALICE, request(path, query)).path
        assert re.fullmatch(rb"/[A-Za-z0-9_.@%/~-]*(\?data=[A-Za-z0-9_.%/~-]*)?", out)
        assert not {b".", b".."} & set(out.partition(b"?")[0].split(b"/"))


# -- answers


def test_the_start_page_leads_to_the_visualiser_wherever_it_is() -> None:
    """Relative to what the browser asked for: with a final slash, without one, and under a base
    path of luigid's own.
    """
    pages = LuigiPages("luigi", CATALOG, "/luigi", "/teams/a")
    redirect = UpstreamResponse(302, {b"location": b"static/visualiser/index.html"})
    for path, location in (
        ("/teams/a/", b"static/visualiser/index.html"),
        ("/teams/a", b"a/static/visualiser/index.html"),
    ):
        (call,) = pages.decode(request(path), "/", ALICE).calls
        assert pages.encode(call, ALICE, request(path)).path == b"/luigi/"
        assert dict(pages.answer(call, ALICE, redirect).headers)[b"location"] == location


def test_luigids_own_headers_stay_behind() -> None:
    """A redirect to elsewhere, cookies and CORS headers are not passed on."""
    headers = {
        **HTML,
        b"location": b"https://evil.example",
        b"set-cookie": b"a=b",
        b"access-control-allow-origin": b"*",
        b"etag": b'"x"',
    }
    for path in (INDEX, "/history", "/metrics"):
        names = {name for name, _ in answered(path, b"", headers=headers).headers}
        assert names == {
            b"cache-control",
            b"x-content-type-options",
            b"referrer-policy",
            b"content-security-policy",
        }
    assert (
        dict(answered("/", b"", 302, headers).headers)[b"location"]
        == b"static/visualiser/index.html"
    )


def test_the_visualisers_own_script_runs_and_no_other() -> None:
    """The one inline script of the stock page is named by its hash; nothing inline is allowed
    otherwise, and no eval.
    """
    page = (STATIC / "visualiser" / "index.html").read_bytes()
    scripts = policy(answered(INDEX, page))["script-src"]
    [inline] = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    assert scripts == [
        "'self'",
        f"'sha256-{base64.b64encode(hashlib.sha256(inline).digest()).decode()}'",
    ]
    assert len(page) < PAGES.encode(decode(INDEX), ALICE, request(INDEX)).max_buffered


@pytest.mark.parametrize("path", [INDEX, "/tasklist/Family"])
def test_a_second_inline_script_stops_all_of_them(path: str) -> None:
    """A page in which a stored name became a script runs nothing inline: not knowing which is
    luigid's, neither.
    """
    scripts = policy(answered(path, b"<script>stock()</script><p><script>stored()</script>"))[
        "script-src"
    ]
    assert not [source for source in scripts if source.startswith("'sha256")]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/history",
        "/history/by_id/1",
        "/metrics",
        "/static/visualiser/test.html",
        "/static/visualiser/js/luigi.js",
    ],
)
def test_no_script_of_other_pages_runs(path: str) -> None:
    """Where the stock page has no inline script, none is allowed, though the page has one."""
    rules = policy(answered(path, b"<script>stored()</script>"))
    assert not [source for source in rules["script-src"] if source.startswith("'sha256")]
    assert rules["default-src"] == ["'none'"]
    assert rules["frame-ancestors"] == ["'none'"]


def test_charts_may_load_their_very_files_only() -> None:
    """The chart pages load two scripts and a style from a public server; a policy for all of that
    server is none.
    """
    layout = (LUIGI / "templates" / "layout.html").read_text()
    outside = set(re.findall(r'"(https://[^"]+)"', layout))
    for path in ("/tasklist", "/tasklist/Family", "/history"):
        rules = policy(answered(path, b""))
        assert {s for s in rules["script-src"] + rules["style-src"] if "cdnjs" in s} == outside
    assert "cdnjs" not in str(policy(answered(INDEX, b"")))


def test_history_pages_find_their_links_under_a_prefix() -> None:
    """Their links are absolute in luigi's templates; in text they are left alone, and without a
    prefix nothing changes.
    """
    page = (
        b'<link href="/static/a.css"><script src="/static/b.js"></script>'
        b'<a href="/history/by_id/1">/history/by_id/1</a><a href="/tasklist/A">'
    )
    pages = LuigiPages("luigi", CATALOG, "", "/team-a/")
    body = pages.answer(decode("/history"), ALICE, UpstreamResponse(200, HTML, page)).body
    assert body == (
        b'<link href="/team-a/static/a.css"><script src="/team-a/static/b.js"></script>'
        b'<a href="/team-a/history/by_id/1">/history/by_id/1</a><a href="/team-a/tasklist/A">'
    )
    assert answered("/history", page).body == page


def test_files_are_compressed_and_rewritten_pages_are_not() -> None:
    """What has to be read here comes plain; scripts and styles shrink to a quarter."""
    for path, gzip in (
        (INDEX, False),
        ("/history", False),
        ("/static/visualiser/js/luigi.js", True),
    ):
        assert (
            PAGES.encode(decode(path), ALICE, request(path, accept_encoding=b"gzip")).accept_gzip
            is gzip
        )
    reply = answered(
        "/static/visualiser/js/luigi.js",
        b"\x1f\x8b",
        headers={**HTML, b"content-encoding": b"gzip"},
    )
    assert dict(reply.headers)[b"content-encoding"] == b"gzip"


def test_a_page_that_luigid_cannot_make_is_the_upstreams_failure() -> None:
    """luigid answers 500 to history pages when no history is kept: the refusal says what to look
    at.
    """
    with pytest.raises(Unavailable) as error:
        answered("/history", b"<html>Traceback", 500)
    assert error.value.reason is Reason.UPSTREAM_ERROR
    assert "switched on" in error.value.detail


def test_a_refused_page_is_a_page_without_scripts() -> None:
    """The person reads the line and the remedy, escaped; status and phrase are those of the API."""
    about = REASONS[Reason.NO_ROLE]
    reply = PAGES.render(
        Refusal(Reason.NO_ROLE, 403, "callgate: <b> may not [no-role, ref X]", about.hint, "X")
    )
    assert (reply.status, reply.content_type) == (403, b"text/html; charset=utf-8")
    assert b"&lt;b&gt; may not" in reply.body
    assert b"<b>" not in reply.body
    assert policy(reply) == {"default-src": ["'none'"]}


def test_a_page_is_named_by_its_path_alone() -> None:
    """For a refusal before the body is read: a path of no page names none; a page can wait."""
    assert PAGES.method_of("/history") == "page.history"
    assert PAGES.method_of("/nowhere") == ""
    assert PAGES.priority("/history") is Priority.NORMAL
    assert PAGES.describe("page.history") != "page.history"
    assert PAGES.describe("task_list") == "task_list"
