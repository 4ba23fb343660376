"""supervisord's pages as methods: the logs that ``supervisorctl tail -f`` follows, and web pages.

The same policy and the same audit hold for pages as for calls, since they show the same data. A
path is read once, here, against the grammar below, and written afresh for supervisord.

==================================  =================  ===========================================
path                                method             served by supervisor/http.py and web.py
==================================  =================  ===========================================
``/logtail/NAME``, ``…/CHANNEL``    page.logtail       a log of a process, followed without end
``/mainlogtail``                    page.mainlogtail   supervisord's own log, followed without end
``/``, ``/index.html``              page.status        the states of all processes
``/tail.html?processname=NAME``     page.tail          the end of a process's standard output
``/ok.html``                        page.ok            two letters
``/stylesheets/…``, ``/images/…``   page.files         files of the package, no secrets
==================================  =================  ===========================================

The web page acts through links (``index.html?action=stopall``), and supervisord acts on a GET. A
browser follows such a link whatever page it stands on, so these are refused, and the refusal says
so. supervisord's own redirect after an action, ``/?message=…``, loses its message.

A log that is followed goes on for as long as its reader stays, and at most for as long as the
reader's credential is valid: a line says so at its end.
"""

import asyncio
import re
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote_to_bytes

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
    Stream,
    Target,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.codec import OneCallCodec, Priority
from proxy.protocol.refusal import Refusal, html_refusal, posts_xml

PATHS = frozenset(("/", "/index.html", "/tail.html", "/ok.html", "/mainlogtail"))
ROOTS = ("/logtail", "/stylesheets", "/images")

_LOGTAIL = re.compile(r"/logtail/([^/]{1,1024})(?:/(stdout|stderr))?")
_FILE = re.compile(r"/(?:stylesheets|images)/(?!\.)[A-Za-z0-9_.-]{1,100}")
_NAME = re.compile(r"[^\x00-\x1f\x7f/?#]{1,255}")  # a process, or group:process
_LIMIT = re.compile(r"[0-9]{1,6}")  # bytes of a log
_MAX_FIELDS = 8
_TYPES = re.compile(rb"(?:text/(?:html|css|plain)|image/(?:png|gif|jpeg))\b[ -~]*", re.IGNORECASE)
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self'; "
        b"form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
)
_FOLLOWED = ("page.logtail", "page.mainlogtail")
_FROM_THE_HEAD = -1  # `max_buffered` of a response without end
_EXPIRED = b"\n==> callgate: the credential has expired; begin again with a new one <==\n"
# What a person does who opens the page of a method, to follow "may not".
_ACTIONS = {
    "page.logtail": "follow the log of a process of",
    "page.mainlogtail": "follow the log of",
    "page.status": "open the status page of",
    "page.tail": "read the log of a process of",
    "page.ok": "open the pages of",
    "page.files": "open the pages of",
}
# What each action of the web page is for supervisorctl.
_COMMANDS = {
    "start": "start",
    "stop": "stop",
    "restart": "restart",
    "clearlog": "clear",
    "stopall": "stop all",
    "restartall": "restart all",
}

PAGES = {
    "/": "page.status",
    "/index.html": "page.status",
    "/tail.html": "page.tail",
    "/mainlogtail": "page.mainlogtail",
}
"""The paths of pages that the refusal of a misspelt one may name, and their methods."""

METHODS = frozenset(_ACTIONS)
"""The methods of a catalog that are these pages."""


class SupervisorPages(OneCallCodec):
    """The codec of ``supervisorctl tail -f`` and of browsers: a refusal is a page."""

    def __init__(
        self,
        upstream: str,
        catalog: Catalog,
        prefix: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Serve `catalog`. `prefix` is the path under which clients find supervisord here.

        supervisord's own pages are at its root. `clock` gives Unix seconds.
        """
        self._upstream = upstream
        self._catalog = catalog
        self._prefix = prefix.rstrip("/")
        self._clock = clock

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
        """Return the page that `path` names, as one call.

        Raises `Rejected`: NOT_FOUND for a path that supervisord does not serve, CROSS_SITE for a
        link or a form that acts, MALFORMED_CALL and AMBIGUOUS_CALL for one that has no reading or
        two.
        """
        args: dict[str, Value] = {}
        name = _method_of_path(path, args)
        if posts_xml(request):
            raise Rejected(Reason.NOT_FOUND, "this path takes no XML-RPC")
        fields = _fields(request.query)
        action = fields.pop("action", "refresh")
        if action != "refresh" or request.http_method == "POST":
            raise Rejected(Reason.CROSS_SITE, _acting(action))
        if request.http_method != "GET":
            raise Rejected(Reason.METHOD_NOT_ALLOWED, "a page takes GET")
        if request.body:
            raise Rejected(Reason.AMBIGUOUS_CALL, "a GET has no body")
        if name == "page.tail":
            args["name"] = _read_name(fields.pop("processname", ""))
            if "limit" in fields:
                args["length"] = _read_limit(fields.pop("limit"))
        elif name == "page.status":
            fields.pop("message", "")
            fields.pop("processname", "")
        if fields:
            raise Rejected(Reason.AMBIGUOUS_CALL, "the page has no such query")
        method = self._catalog.methods.get(name)
        if method is None:
            call = Call(self._upstream, "xmlrpc", name, "admin", args, in_catalog=False)
        else:
            check_arguments(method, args)
            # For /processes, unlike /processes/, relative links begin one level higher.
            bare = path == "/" and not request.path.endswith("/")
            call = Call(
                self._upstream,
                "xmlrpc",
                name,
                method.permission,
                args,
                secret_paths=method.secret_args,
                target=Target.GATE if bare else Target.UPSTREAM,
            )
        return Batch((call,), True, call.permission == "view")

    def introspect(self, call: Call, may_call: Callable[[str], bool]) -> Response:
        """Return the redirect to the same page with a slash at its end."""
        # Relative, so that it is right behind any further prefix.
        location = self._prefix.rpartition("/")[2].encode("ascii") + b"/"
        return Response(302, b"", b"text/plain", (*_HEADERS, (b"location", location)))

    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """Return the request for supervisord: a path and a query of our own."""
        return UpstreamRequest(
            "GET",
            _path_of(call).encode("ascii"),
            b"",
            b"",
            kind="read",
            cacheable=False,
            shared=self._catalog.methods[call.method].shared and call.method not in _FOLLOWED,
            max_buffered=_FROM_THE_HEAD if call.method in _FOLLOWED else 65_536,
            fairness_key=principal.name,
        )

    def answer(self, call: Call, principal: Principal, response: UpstreamResponse) -> Response:
        """Return supervisord's page, with headers of our own."""
        if response.status not in (200, 404):
            raise Unavailable(
                Reason.UPSTREAM_ERROR if response.status >= 500 else Reason.UPSTREAM_INVALID,
                f"supervisord answered {response.status} to {call.method}",
                sent=True,
            )
        content_type = response.headers.get(b"content-type", b"")
        if _TYPES.fullmatch(content_type) is None:
            content_type = b"application/octet-stream"
        stream = response.stream
        if stream is not None and call.method in _FOLLOWED:
            stream = _Followed(stream, principal.expires, self._clock)
        return Response(
            response.status,
            response.body,
            content_type,
            _HEADERS,
            stream=stream,
            length=response.length,
            endless=isinstance(stream, _Followed),
        )

    def render(self, refusal: Refusal) -> Response:
        """Return a small page with the line and the hint."""
        return html_refusal(refusal)


class _Followed:
    """A log that is followed, until the reader's credential expires."""

    def __init__(self, stream: Stream, expires: float, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._expires = expires
        self._clock = clock
        self._ended = False

    def __aiter__(self) -> "_Followed":
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            # Waits for a line, which may never come.
            return await asyncio.wait_for(
                self._stream.__anext__(), max(0.0, self._expires - self._clock())
            )
        except TimeoutError:
            self._ended = True
        # Not in the handler, where nothing may be awaited (tests/test_compiled.py).
        await self._stream.aclose()
        return _EXPIRED

    async def aclose(self) -> None:
        """Read no further."""
        self._ended = True
        await self._stream.aclose()


def _method_of_path(path: str, args: dict[str, Value]) -> str:
    """Return the method of `path`, and put what it names into `args`."""
    if path in ("/", "/index.html"):
        return "page.status"
    if path == "/tail.html":
        return "page.tail"
    if path == "/ok.html":
        return "page.ok"
    if path == "/mainlogtail":
        return "page.mainlogtail"
    if _FILE.fullmatch(path) is not None:
        args["path"] = path
        return "page.files"
    found = _LOGTAIL.fullmatch(path)
    if found is None:
        raise Rejected(Reason.NOT_FOUND, "supervisord serves no such page")
    try:
        args["name"] = _read_name(unquote_to_bytes(found[1]).decode("utf-8"))
    except UnicodeDecodeError:
        raise Rejected(Reason.MALFORMED_CALL, "the path is not UTF-8") from None
    args["channel"] = found[2] or "stdout"
    return "page.logtail"


def _fields(query: str | None) -> dict[str, str]:
    """Return the fields of `query`. Raises `Rejected` if it has one twice, or no reading."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise Rejected(Reason.MALFORMED_CALL, "the query is no form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Rejected(Reason.AMBIGUOUS_CALL, "the query has a field twice")
    return fields


def _read_name(name: str) -> str:
    if _NAME.fullmatch(name) is None or name in (".", ".."):
        raise Rejected(Reason.BAD_ARGUMENTS, "the page takes the name of a process")
    return name


def _read_limit(limit: str) -> int:
    if _LIMIT.fullmatch(limit) is None:
        raise Rejected(Reason.BAD_ARGUMENTS, "limit takes up to six digits")
    return int(limit)


def _acting(action: str) -> str:
    """Say why what a link or a form of the web page does is refused, and what does it instead."""
    command = _COMMANDS.get(action)
    instead = f"run supervisorctl {command}" if command else "run supervisorctl"
    return f"a link of supervisord's page would act; {instead}"


def _path_of(call: Call) -> str:
    """Return the path and the query of a page."""
    args = {name: str(value) for name, value in call.args.items()}
    if call.method == "page.logtail":
        return f"/logtail/{quote(args['name'], safe=':')}/{args['channel']}"
    if call.method == "page.mainlogtail":
        return "/mainlogtail"
    if call.method == "page.tail":
        limit = f"&limit={args['length']}" if "length" in args else ""
        return f"/tail.html?processname={quote(args['name'], safe=':')}{limit}"
    if call.method == "page.files":
        return args["path"]
    return "/ok.html" if call.method == "page.ok" else "/index.html"
