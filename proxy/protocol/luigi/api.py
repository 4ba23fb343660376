"""luigid's own protocol: ``POST|GET /api/<method>`` with JSON arguments in the form field ``data``.

What luigid could read in two ways is rejected, so that what policy judges is what luigid will do:

* the raw path is ``/api/`` and ``[a-z_]{1,64}``, without a percent sign (luigid decodes it again);
* GET without a body, or POST with a form body of exactly one type; no Content-Encoding, no
  multipart;
* at most one ``data`` over query and body together (luigid takes the last);
* JSON: one object, no duplicate key (luigid takes the last). ``Infinity`` is accepted and sent on:
  stock workers send it for every batchable family (luigi/worker.py).

Worker ids and batch ids are bound to the identity of the caller
(`proxy.protocol.luigi.worker_identity`, `proxy.protocol.luigi.batch_ids`), and a running task is
reported on by its worker alone (`proxy.protocol.luigi.task_reports`).
"""

import re
import secrets
from collections.abc import Mapping, Sequence

import orjson

from proxy.catalog.model import Catalog
from proxy.common.bounded_cache import BoundedCache
from proxy.errors import Rejected
from proxy.model import (
    Batch,
    Call,
    Principal,
    Question,
    Reason,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.protocol.codec import OneCallCodec, Priority
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.luigi.calls import (
    WORKER_SHUTDOWN,
    check_answer,
    encode,
    is_worker_shutdown,
    make_call,
)
from proxy.protocol.luigi.form import is_form, parse_form, without_cache_buster
from proxy.protocol.luigi.task_reports import TaskReports
from proxy.protocol.luigi.worker_identity import REWRITTEN_METHODS, rewrite_worker_answer
from proxy.protocol.refusal import JSON_HEADERS, Refusal, json_refusal, posts_xml
from proxy.protocol.same_origin import require_same_origin
from proxy.protocol.strict_json import MAX_ELEMENTS, parse_arguments

_PATH = re.compile(r"/api/([a-z_]{1,64})")
# Decoded heartbeats in the cache: one for each worker.
_HEARTBEATS = 4096
# Bytes of a body that is looked up in that cache; a stock worker's heartbeat has some 150.
_HEARTBEAT_BYTES = 512


class LuigiApi(OneCallCodec):
    """The codec of stock workers and of the visualiser's scripts."""

    def __init__(
        self,
        upstream: str,
        catalog: Catalog,
        base: str = "",
        *,
        batch_ids: BatchIdSigner | None = None,
        reports: TaskReports | None = None,
        max_elements: int = MAX_ELEMENTS,
        public_origin: bytes = b"",
    ) -> None:
        """Serve `catalog`. `base` is the path under which luigid itself is served.

        Without `batch_ids`, batch ids are valid for this object alone. `reports` is shared by the
        codecs of one luigid. `max_elements` are those of the JSON of one call.
        `public_origin` is Callgate's own as browsers name it.
        """
        self._reports = reports or TaskReports(base)
        self._batch_ids = batch_ids or BatchIdSigner(secrets.token_bytes(32), upstream)
        self._upstream = upstream
        self._catalog = catalog
        self._base = base
        self._max_elements = max_elements
        self._names = {
            f"/api/{name}": name for name in catalog.methods if _PATH.fullmatch(f"/api/{name}")
        }
        self._views = frozenset(
            name for name, method in catalog.methods.items() if method.permission == "view"
        )
        self._public_origin = public_origin
        self._heartbeats: BoundedCache[tuple[str, bytes], Batch] = BoundedCache(_HEARTBEATS)

    def method_of(self, path: str) -> str:
        """Return the method that `path` names, or an empty string."""
        match = _PATH.fullmatch(path)
        return "" if match is None else match[1]

    def priority(self, path: str) -> Priority:
        """Return `HEARTBEAT` for the path of a method that the catalog marks as one.

        luigid gives up a worker that misses two heartbeats, and fails its tasks.
        """
        method = self._catalog.methods.get(self.method_of(path))
        return Priority.HEARTBEAT if method is not None and method.heartbeat else Priority.NORMAL

    def describe(self, method: str) -> str:
        """Return the method's name, which says what it does."""
        return method

    def decode(self, request: Request, path: str, principal: Principal) -> Batch:
        """Return the one call of `request`, whose `path` has lost the upstream's prefix.

        A decoded heartbeat is cached by its bytes, which are the same every second and mean the
        same for every caller. Raises `Rejected`.
        """
        name = self._names.get(path) or self.method_of(path)
        if not name:
            if "%" in path:
                raise Rejected(
                    Reason.MALFORMED_CALL, "the path must be /api/ and a method name, unencoded"
                )
            raise Rejected(Reason.NOT_FOUND, "a call of luigid is /api/ and a method name")
        if request.http_method not in ("GET", "POST"):
            raise Rejected(Reason.METHOD_NOT_ALLOWED, "the API takes GET and POST")
        headers = request.headers
        require_same_origin(
            request, acts=name not in self._views, public_origin=self._public_origin
        )
        if b"content-encoding" in headers:
            raise Rejected(Reason.AMBIGUOUS_CALL, "the API takes no Content-Encoding")
        text = self._parse_query(name, request.query) if request.query else None
        body = request.body
        if body:
            if request.http_method == "GET":
                raise Rejected(Reason.AMBIGUOUS_CALL, "a GET has no body")
            if not is_form(headers.get(b"content-type")):
                if posts_xml(request):
                    raise Rejected(Reason.NOT_FOUND, "this path takes no XML-RPC")
                raise Rejected(
                    Reason.MALFORMED_CALL,
                    "the body's Content-Type is not application/x-www-form-urlencoded",
                )
            if text is not None:
                raise Rejected(Reason.AMBIGUOUS_CALL, "data is in the query and in the body")
            if len(body) <= _HEARTBEAT_BYTES:
                heartbeat = self._heartbeats.get((path, body))
                if heartbeat is not None:
                    return heartbeat
            text = parse_form(body)
        args = {} if text is None else parse_arguments(text, max_elements=self._max_elements)
        call = make_call(self._upstream, self._catalog, name, args, principal, self._batch_ids)
        batch = Batch((call,), True, call.permission == "view")
        if call.heartbeat is not None and 0 < len(body) <= _HEARTBEAT_BYTES:
            self._heartbeats.put((path, body), batch)
        return batch

    def _parse_query(self, name: str, query: str) -> bytes | None:
        """Return the value of ``data`` in the query; one of a view may have a cache buster."""
        method = self._catalog.methods.get(name)
        if method is not None and method.permission == "view":
            query = without_cache_buster(query)
        return parse_form(query.encode("ascii"))

    def question(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Question | None:
        """Return what luigid is asked before a report on a running task, None for nothing."""
        return self._reports.question(call, principal, answers)

    def amend(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Call | UpstreamResponse:
        """Return what the caller may say of the task, or the null that it gets at once."""
        return self._reports.amend(call, principal, answers)

    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """Return the call as luigid gets it.

        A view is answered compressed when the caller accepts that: a task list shrinks twentyfold.
        """
        return encode(
            call,
            self._catalog,
            principal,
            self._base,
            gzip=call.permission == "view" and accepts_gzip(request.headers),
        )

    def reads_answer(self, call: Call) -> bool:
        """Return whether the answer is parsed: a large one to a view is passed on."""
        return call.permission != "view" or call.method in REWRITTEN_METHODS

    def answer(self, call: Call, principal: Principal, response: UpstreamResponse) -> Response:
        """Return luigid's answer for the caller. Raises `Unavailable` when it is none."""
        check_answer(call, response)
        headers: tuple[tuple[bytes, bytes], ...] = JSON_HEADERS
        if b"content-encoding" in response.headers:
            headers = (
                *JSON_HEADERS,
                (b"content-encoding", response.headers[b"content-encoding"]),
                (b"vary", b"accept-encoding"),
            )
        if response.stream is not None:
            return Response(200, headers=headers, stream=response.stream, length=response.length)
        body = response.body
        if call.method in REWRITTEN_METHODS:
            body = rewrite_worker_answer(
                call, principal, body, self._batch_ids, self._reports.remember
            )
        return Response(200, body, headers=headers)

    def render(self, refusal: Refusal) -> Response:
        """Return the status with the line as its reason phrase, and JSON.

        A denied ``get_work`` gets luigid's own answer to a disabled worker.
        """
        if is_worker_shutdown(refusal):
            return Response(200, orjson.dumps({"response": WORKER_SHUTDOWN}), headers=JSON_HEADERS)
        return json_refusal(refusal)


def accepts_gzip(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether the caller accepts gzip.

    A caller that weighs its encodings (``gzip;q=0``) gets none: that is always right.
    """
    accepted = headers.get(b"accept-encoding", b"")
    return b"gzip" in accepted and b"gzip;" not in accepted
