"""luigid's pages as methods: the visualiser and its files, task history, durations, metrics.

The same policy and the same audit hold for pages as for calls, since they show the same data. A
path is read once, here, against the grammar below, and written afresh for luigid. The visualiser's
query is dropped: it names versions of files, which luigid does not need.

===============================  ===============  ==============================================
path                             method           served by luigi/server.py
===============================  ===============  ==============================================
``/``                            page.root        a redirect to the visualiser, relative
``/static/…``                    page.visualiser  files of the package, no secrets
``/history``, ``/history/by_…``  page.history     task history, **with parameters**
``/tasklist``, ``/tasklist/…``   page.tasklist    durations, from the complete history
``/metrics``                     page.metrics     what a metrics collector exposes
===============================  ===============  ==============================================
"""

import base64
import hashlib
import json
import re
from typing import Literal
from urllib.parse import quote

from proxy.catalog.checking import check_arguments
from proxy.catalog.model import Catalog
from proxy.errors import Rejected, Unavailable
from proxy.model import (
    Batch,
    Call,
    Principal,
    Reason,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.catalog_call import related_tasks, task_of
from proxy.protocol.codec import OneCallCodec, Priority
from proxy.protocol.luigi.api import accepts_gzip
from proxy.protocol.luigi.form import parse_form, unquote_plus, without_cache_buster
from proxy.protocol.refusal import Refusal, html_refusal, posts_xml
from proxy.protocol.strict_json import parse_arguments

_VISUALISER = "/static/visualiser/index.html"
_STATIC = re.compile(r"/static(?:/(?!\.)[A-Za-z0-9_.@-]+)+")
_HISTORY = re.compile(
    r"/history(?:/(by_name|by_id|by_task_id|by_params)/([A-Za-z0-9_.%-]{1,1024}))?"
)
_TASKLIST = re.compile(r"/tasklist(?:/([A-Za-z0-9_.%-]{1,1024}))?")
# A family, a task id or a number (luigi/task.py task_id_str).
_SEGMENT = re.compile(r"[\w.-]{1,512}")
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_ABSOLUTE_LINK = re.compile(rb' (href|src)="/(static|history|tasklist)/')
# Bytes of a page that is buffered, to hash its scripts or prefix its links. A larger one is relayed
# unchanged.
_MAX_REWRITTEN_BYTES = 4 * 1024 * 1024
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; "
    "style-src 'self' 'unsafe-inline' https://fonts.googleapis.com{styles}; "
    "font-src 'self' data: https://fonts.gstatic.com; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# What luigi/templates/layout.html loads for its charts. The exact files: other files of that server
# help scripts past a policy.
_CDN = "https://cdnjs.cloudflare.com/ajax/libs"
_CHART_SCRIPTS = f" {_CDN}/d3/3.5.5/d3.min.js {_CDN}/nvd3/1.7.0/nv.d3.min.js"
_CHART_STYLES = f" {_CDN}/nvd3/1.7.0/nv.d3.min.css"
PAGES = {
    "/": "page.root",
    _VISUALISER: "page.visualiser",
    "/history": "page.history",
    "/tasklist": "page.tasklist",
    "/metrics": "page.metrics",
}
"""The paths of pages that the refusal of a misspelt one may name, and their methods."""
# What a person does who opens the page of a method, to follow "may not".
_ACTIONS = {
    "page.root": "open the start page of",
    "page.visualiser": "open the visualiser of",
    "page.history": "open the task history of",
    "page.tasklist": "open the task durations of",
    "page.metrics": "read the metrics of",
}


class LuigiPages(OneCallCodec):
    """The codec of browsers that navigate: a response is a page, and so is a refusal."""

    def __init__(self, upstream: str, catalog: Catalog, base: str = "", prefix: str = "") -> None:
        """Serve `catalog`. `base` is the path under which luigid itself is served.

        `prefix` is the path under which clients find it here.
        """
        self._upstream = upstream
        self._catalog = catalog
        self._base = base
        self._prefix = prefix.rstrip("/")

    def method_of(self, path: str) -> str:
        """Return the method that `path` names, or an empty string."""
        try:
            return _method_of_path(path, {})
        except Rejected:
            return ""

    def priority(self, path: str) -> Priority:
        """Return `NORMAL`: a page can wait."""
        return Priority.NORMAL

    def describe(self, method: str) -> str:
        """Return what a person does with the page."""
        return _ACTIONS.get(method, method)

    def decode(self, request: Request, path: str, principal: Principal) -> Batch:
        """Return the page that `path` names, as one call with the argument ``path``.

        A history search has ``data`` too. Raises `Rejected` (NOT_FOUND) for a path that luigid does
        not serve or that has two readings.
        """
        args: dict[str, Value] = {"path": path, "verb": request.http_method}
        name = _method_of_path(path, args)
        if posts_xml(request):
            raise Rejected(Reason.NOT_FOUND, "this path takes no XML-RPC")
        if request.http_method not in ("GET", "HEAD"):
            raise Rejected(Reason.METHOD_NOT_ALLOWED, "a page takes GET and HEAD")
        if request.body:
            raise Rejected(Reason.AMBIGUOUS_CALL, "a GET has no body")
        if name == "page.root" and not request.path.endswith("/"):
            # For /team-a, unlike /team-a/, relative links begin one level higher.
            args["path"] = ""
        if name == "page.history" and request.query:
            text = parse_form(without_cache_buster(request.query).encode("ascii"))
            if text is not None:
                args["data"] = dict(parse_arguments(text))
        method = self._catalog.methods.get(name)
        if method is None:
            call = Call(
                self._upstream, self._catalog.protocol, name, "admin", args, in_catalog=False
            )
        else:
            check_arguments(method, args)
            task = task_of(method, args)
            call = Call(
                self._upstream,
                self._catalog.protocol,
                name,
                method.permission,
                args,
                task=task,
                related_tasks=related_tasks(method, args, task),
                secret_paths=method.secret_args,
            )
        return Batch((call,), True, call.permission == "view")

    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """Return the request for luigid: a path of our own, a query only for a history search."""
        path = self._base + (str(call.args["path"]) or "/")
        data = call.args.get("data")
        if data is not None:
            path += "?data=" + quote(json.dumps(data))
        http_method: Literal["GET", "HEAD"] = "HEAD" if call.args["verb"] == "HEAD" else "GET"
        shared = self._catalog.methods[call.method].shared
        gzip = path.endswith((".js", ".css")) and accepts_gzip(request.headers)
        return UpstreamRequest(
            http_method,
            path.encode("ascii"),
            b"",
            b"",
            accept_gzip=gzip,
            kind="read",
            cacheable=shared,
            shared=shared,
            max_buffered=_MAX_REWRITTEN_BYTES if _needs_rewrite(call) else 65_536,
            fairness_key=principal.name,
        )

    def answer(self, call: Call, principal: Principal, response: UpstreamResponse) -> Response:
        """Return luigid's page, with a content security policy in place of luigid's headers."""
        if response.status >= 500:
            raise Unavailable(
                Reason.UPSTREAM_ERROR,
                f"luigid answered {response.status} to {call.method}; is the page switched on?",
                sent=True,
            )
        headers = list(_HEADERS)
        if b"content-encoding" in response.headers:
            headers.append((b"content-encoding", response.headers[b"content-encoding"]))
        if call.method == "page.root" and response.status in (301, 302):
            # Relative, so that it is right behind any further prefix.
            start = "" if call.args["path"] else self._prefix.rpartition("/")[2] + "/"
            headers.append((b"location", start.encode("ascii") + b"static/visualiser/index.html"))
        policy = _content_policy(call, response.body)
        headers.append((b"content-security-policy", policy.encode("ascii")))
        content_type = response.headers.get(b"content-type", b"application/octet-stream")
        body = self._prefix_links(response.body) if _needs_rewrite(call) else response.body
        return Response(
            response.status,
            body,
            content_type,
            tuple(headers),
            stream=response.stream,
            length=response.length,
        )

    def _prefix_links(self, body: bytes) -> bytes:
        """Put the prefix before the links of history pages.

        luigid links to ``/static``, ``/history`` and ``/tasklist`` as if it had the root.
        """
        if not self._prefix:
            return body
        return _ABSOLUTE_LINK.sub(rb' \1="' + self._prefix.encode("ascii") + rb"/\2/", body)

    def render(self, refusal: Refusal) -> Response:
        """Return a small page with the line and the hint."""
        return html_refusal(refusal)


def _method_of_path(path: str, args: dict[str, Value]) -> str:
    """Return the method of `path`, and put its last segment, encoded afresh, into ``args``."""
    if path == "/":
        return "page.root"
    if _STATIC.fullmatch(path) is not None:
        return "page.visualiser"
    if path == "/metrics":
        return "page.metrics"
    for pattern, name in ((_HISTORY, "page.history"), (_TASKLIST, "page.tasklist")):
        match = pattern.fullmatch(path)
        if match is not None:
            segment = match[match.lastindex] if match.lastindex else None
            if segment is not None:
                args["path"] = path[: -len(segment)] + _read_segment(segment)
            return name
    raise Rejected(Reason.NOT_FOUND, "luigid serves no such page")


def _read_segment(segment: str) -> str:
    """Return the last segment of a path, decoded once, checked, and encoded afresh."""
    try:
        text = unquote_plus(segment.encode("ascii")).decode("utf-8")
    except UnicodeError:
        raise Rejected(Reason.MALFORMED_CALL, "the path is not UTF-8") from None
    if _SEGMENT.fullmatch(text) is None or text in (".", ".."):
        raise Rejected(Reason.MALFORMED_CALL, "the path must name a family or a task id")
    return quote(text)


def _needs_rewrite(call: Call) -> bool:
    """Return whether the page has inline scripts or absolute links, and is therefore buffered."""
    return call.method in ("page.history", "page.tasklist") or call.args["path"] == _VISUALISER


def _content_policy(call: Call, body: bytes) -> str:
    """Return the content security policy: what the page may load and run.

    An inline script runs only where the stock page has one, and only when it is the only one in the
    page as luigid sent it. A second one, an event handler or a link that a task's name smuggles in
    does not run, and then the first does not run either.
    """
    scripts = styles = ""
    if call.method in ("page.history", "page.tasklist"):
        scripts, styles = _CHART_SCRIPTS, _CHART_STYLES
    if call.method == "page.tasklist" or call.args["path"] == _VISUALISER:
        inline = _INLINE_SCRIPT.findall(body)
        if len(inline) == 1:
            scripts += (
                f" 'sha256-{base64.b64encode(hashlib.sha256(inline[0]).digest()).decode('ascii')}'"
            )
    return _CONTENT_POLICY.format(scripts=scripts, styles=styles)
