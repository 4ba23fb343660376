"""luigid's own protocol: ``POST|GET /api/<method>`` with the keyword arguments as JSON in the form
field ``data``.

What luigid reads in two ways is refused, so that what policy judges is what luigid will do:

* the raw path is ``/api/`` and ``[a-z_]{1,64}``, no percent sign (luigid decodes it once more);
* GET without a body, or POST with a form body of exactly one type; no Content-Encoding, no
multipart;
* at most one ``data`` over query and body together (luigid takes the last);
* JSON: one object, no key twice (luigid takes the last), no lone surrogates, no NaN. ``Infinity``
is accepted and sent on:
  stock workers send it for every batchable family (luigi/worker.py).

luigid trusts the worker id that a caller states, and whoever states another's makes that worker
import and run a module. So the gate marks it: upstream a worker is called ``<its own id>
[<issuer>:<subject>]``. The mark holds no blank and no bracket, hence the last one of an id is
always the gate's, and no two identities can meet in one id. The answers in which a worker looks for
itself get the mark taken off again, and name it no module to import. The batch ids that it gives
out are bound to the identity too (`proxy.protocol.luigi.batch_ids`).
"""

import json
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from proxy.catalog.checking import check_arguments, disarm_markup
from proxy.catalog.loading import Catalog, Method
from proxy.errors import Rejected, Unavailable
from proxy.model import (
    Call,
    Principal,
    Reason,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.luigi.form import FORM, FORM_TYPES, read_field, write_field
from proxy.protocol.refusal import Refusal
from proxy.protocol.same_origin import require_same_origin
from proxy.protocol.strict_json import is_json, parse_arguments, parse_quickly, write_arguments

_PATH = re.compile(r"/api/([a-z_]{1,64})")
_JSON = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
DISABLED: Value = {
    "n_pending_tasks": 0,
    "running_tasks": [],
    "task_id": None,
    "n_unique_pending": 0,
    "worker_state": "disabled",
}
_HIDDEN_FROM_PUBLIC = (1, 2)  # luigi.parameter.ParameterVisibility.HIDDEN, PRIVATE
_NOTHING = b'{"response": null}'  # what most calls that act are answered
_READ_BYTES = 16_384  # of an answer of this size it takes 40 us to see that it is JSON
_REWRITTEN_BYTES = 16 * 1024 * 1024  # a running task takes some 300 bytes in an answer to get_work
_HEARTBEATS = 4096  # of as many workers what they say every second is remembered
_HEARTBEAT_BYTES = 512  # a stock worker's has some 150
MAX_RELATED_TASKS = 20_000
"""Dependencies that one call may name: each is decided on."""
REWRITTEN_METHODS = frozenset({"get_work", "count_pending"})
"""Methods in whose answers a worker looks for its own id."""


def worker_suffix(principal: Principal) -> str:
    """What is appended to the worker ids of `principal`: a blank and ``[issuer:subject]``, the
    subject percent-encoded.
    """
    return _suffix(principal.issuer_name, principal.subject)


@lru_cache(maxsize=1024)
def _suffix(issuer_name: str, subject: str) -> str:
    return f" [{issuer_name}:{quote(subject, safe='@')}]"


def make_call(
    upstream: str,
    catalog: Catalog,
    name: str,
    args: dict[str, Value],
    principal: Principal,
    batches: BatchIdSigner,
) -> Call:
    """The call of luigid's method `name` by `principal`.

    Raises `Rejected` when arguments are missing or mistyped, a worker id has a bracket, as only
    marked ones do, or a batch id is not this principal's.
    """
    method = catalog.methods.get(name)
    if method is None:
        return Call(upstream, catalog.protocol, name, "admin", args, in_catalog=False)
    if method.disarmed:
        args = disarm_markup(method, args)
    heartbeat: str | None = None
    if method.worker_arg is not None:
        worker = args.get(method.worker_arg)
        if type(worker) is not str or not worker:
            raise Rejected(Reason.BAD_ARGUMENTS, f"{name}: {method.worker_arg} must be given")
        if "[" in worker:
            raise Rejected(Reason.NOT_YOUR_WORKER)
        # with anything beside it, it says more than that the worker lives
        if method.heartbeat and len(args) == 1:
            heartbeat = worker
    check_arguments(method, args)
    if "batch_id" in args and args["batch_id"] is not None and method.permission == "work":
        args = {**args, "batch_id": batches.verify(principal, args.get("family"), args["batch_id"])}
    task: str | None = None
    for argument in method.task_args:
        if argument in args and type(named := args[argument]) is str and named:
            task = named
            break
    return Call(
        upstream,
        catalog.protocol,
        name,
        method.permission,
        args,
        task=task,
        related_tasks=_related_tasks(method, args, task) if method.tasks_args else (),
        secret_paths=_secret_paths(method, args)
        if "param_visibilities" in args
        else method.secret_args,
        heartbeat=heartbeat,
    )


def _related_tasks(method: Method, args: Mapping[str, Value], task: str | None) -> tuple[str, ...]:
    """The tasks that the call acts on beside its own: luigid makes them known, and gives them its
    priority. Each once, in order.
    """
    named: list[str] = []
    for name in method.tasks_args:
        if name in args and type(listed := args[name]) is list:
            named += listed  # type: ignore[arg-type]  # checked: of texts
    if not named:
        return ()
    if len(named) > MAX_RELATED_TASKS:
        raise Rejected(
            Reason.BAD_ARGUMENTS,
            f"{method.name}: {' and '.join(method.tasks_args)} name more than {MAX_RELATED_TASKS} tasks",
        )
    others = dict.fromkeys(named)
    if task in others:
        del others[task]
    return tuple(others)


def _secret_paths(method: Method, args: dict[str, Value]) -> tuple[tuple[str, ...], ...]:
    """Arguments to withhold from the record: what the catalog marks, and parameters luigi does not
    show publicly.
    """
    secret = method.secret_args
    visibilities = args["param_visibilities"]
    if type(visibilities) is dict and any(visibilities.values()):
        secret += tuple(
            ("params", name) for name, level in visibilities.items() if level in _HIDDEN_FROM_PUBLIC
        )
    return secret


def encode(
    call: Call, catalog: Catalog, principal: Principal, base: str, *, gzip: bool = False
) -> UpstreamRequest:
    """The call as luigid will get it: always a POST with one form field, the worker id marked with
    the principal.

    `base` is the path under which luigid itself is served, usually none.
    """
    method = catalog.methods[call.method]
    if call.heartbeat is not None and method.worker_arg is not None:
        return _heartbeat_request(
            f"{base}/api/{call.method}",
            method.worker_arg,
            call.heartbeat + worker_suffix(principal),
        )
    marked: dict[str, Value] = {}
    if method.worker_arg is not None:
        marked[method.worker_arg] = str(call.args[method.worker_arg]) + _suffix(
            principal.issuer_name, principal.subject
        )
    body = write_field(write_arguments(call.args, marked))
    path = f"{base}/api/{call.method}".encode("ascii")
    if call.method in REWRITTEN_METHODS:  # its answer has to be rewritten, hence held whole
        return UpstreamRequest("POST", path, FORM, body, max_buffered=_REWRITTEN_BYTES)
    if method.permission == "view":
        return UpstreamRequest(
            "POST", path, FORM, body, accept_gzip=gzip, kind="read", cacheable=not method.fresh
        )
    return UpstreamRequest("POST", path, FORM, body)


@lru_cache(maxsize=_HEARTBEATS)
def _heartbeat_request(path: str, argument: str, marked: str) -> UpstreamRequest:
    """The heartbeat of one worker, which says the same every second."""
    return UpstreamRequest(
        "POST",
        path.encode("ascii"),
        FORM,
        write_field(orjson.dumps({argument: marked})),
        kind="heartbeat",
    )


def check_answer(call: Call, answer: UpstreamResponse) -> None:
    """Raise `Unavailable` unless luigid answered as it answers a call that worked: 200 and JSON
    (luigi/server.py).

    Whether it is JSON to its end is looked at for every call but views of more than 16 kB, of which
    each reader would pay for it, and what is compressed or comes as a stream: these are known by
    how they begin.
    """
    if answer.status == 500:
        raise Unavailable(Reason.UPSTREAM_ERROR, f"luigid answered 500 to {call.method}", sent=True)
    if answer.status != 200:
        raise Unavailable(
            Reason.UPSTREAM_INVALID, f"the upstream answered {answer.status}", sent=True
        )
    if answer.headers.get(b"content-type", b"")[:16] != b"application/json":
        raise Unavailable(
            Reason.UPSTREAM_INVALID, "the upstream answered something other than JSON", sent=True
        )
    if b"content-encoding" in answer.headers and call.permission != "view":
        raise Unavailable(
            Reason.UPSTREAM_INVALID,
            "the upstream's answer is encoded, which nobody asked for",
            sent=True,
        )
    if (
        answer.stream is None
        and answer.body != _NOTHING
        and b"content-encoding" not in answer.headers
        and not _is_luigi_answer(call, answer.body)
    ):
        raise Unavailable(
            Reason.UPSTREAM_INVALID, "the upstream's JSON is not an answer of luigid", sent=True
        )
    if answer.stream is not None and call.method in REWRITTEN_METHODS:
        raise Unavailable(
            Reason.UPSTREAM_INVALID,
            f"the answer to {call.method} is too large to be read",
            sent=True,
        )


def _is_luigi_answer(call: Call, body: bytes) -> bool:
    if body[:12] != b'{"response":':
        return False
    return (call.permission == "view" and len(body) > _READ_BYTES) or is_json(body)


def rewrite_worker_answer(
    call: Call, principal: Principal, body: bytes, batches: BatchIdSigner
) -> bytes:
    """The answer to a call in which a worker looks for itself, mended in three places; any other as
    it is.

    The caller's own mark comes off the worker ids of ``running_tasks``: left on, the worker's
    summary would say that "other workers" ran its tasks (luigi/execution_summary.py).

    Its ``task_module`` becomes null, but for an assistant. luigid keeps the first module that
    anybody announced for a task id, and the worker imports it when it gets a batch, or a task that
    it never announced (luigi/worker.py): whoever announces a task first runs code in the worker
    that announces it next. A worker that is no assistant has already loaded every family it
    announced, and needs no module to be named.

    Its ``batch_id`` is sealed.
    """
    if call.method not in REWRITTEN_METHODS:
        return body
    mark = worker_suffix(principal)
    imports = b'"task_module"' in body and call.args.get("assistant") is not True
    batched = b'"batch_id"' in body
    if not imports and not batched and mark.encode() not in body:
        return body
    try:
        quick = parse_quickly(body)
        document: Any = json.loads(body) if quick is None else quick
        response = document["response"]
        for task in response["running_tasks"]:
            if type(task.get("worker")) is str:
                task["worker"] = task["worker"].removesuffix(mark)
        if imports and "task_module" in response:
            response["task_module"] = None
        if batched and response.get("batch_id") is not None:
            response["batch_id"] = batches.sign(
                principal, str(response["task_family"]), str(response["batch_id"])
            )
        return json.dumps(document).encode() if quick is None else orjson.dumps(quick)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unavailable(
            Reason.UPSTREAM_INVALID, f"the answer to {call.method} is not luigid's", sent=True
        ) from None


class LuigiApi:
    """The dialect of stock workers and of the visualiser's scripts."""

    def __init__(
        self,
        upstream: str,
        catalog: Catalog,
        base: str = "",
        *,
        batches: BatchIdSigner | None = None,
    ) -> None:
        """`base` is the path under which luigid itself is served; without `batches`, batch ids hold
        for this object alone.
        """
        self._batches = batches or BatchIdSigner(secrets.token_bytes(32), upstream)
        self._upstream = upstream
        self._catalog = catalog
        self._base = base
        self._names = {
            f"/api/{name}": name for name in catalog.methods if _PATH.fullmatch(f"/api/{name}")
        }
        self._heartbeats: dict[tuple[str, bytes], Call] = {}

    def decode(self, request: Request, path: str, principal: Principal) -> Call:
        """The one call of `request`, whose `path` has lost the upstream's prefix. Raises
        `Rejected`.

        What the bytes of a heartbeat mean is remembered, since a worker sends the same ones every
        second.
        """
        name = self._names.get(path)
        if name is None:
            match = _PATH.fullmatch(path)
            if match is None:
                raise Rejected(
                    Reason.MALFORMED_CALL, "the path must be /api/ and a method name, unencoded"
                )
            name = match[1]
        if request.http_method not in ("GET", "POST"):
            raise Rejected(Reason.METHOD_NOT_ALLOWED, "the API takes GET and POST")
        headers = request.headers
        require_same_origin(headers, tls=request.peer.tls is not None)
        if b"content-encoding" in headers:
            raise Rejected(Reason.AMBIGUOUS_CALL, "the API takes no Content-Encoding")
        text = read_field(request.query.encode("ascii")) if request.query else None
        if request.body:
            if request.http_method == "GET":
                raise Rejected(Reason.AMBIGUOUS_CALL, "a GET has no body")
            if headers.get(b"content-type") not in FORM_TYPES:
                raise Rejected(
                    Reason.AMBIGUOUS_CALL, "the body must be application/x-www-form-urlencoded"
                )
            if text is not None:
                raise Rejected(Reason.AMBIGUOUS_CALL, "data stands in the query and in the body")
            heartbeat = (
                self._heartbeats.get((path, request.body))
                if len(request.body) <= _HEARTBEAT_BYTES
                else None
            )
            if heartbeat is not None:
                return heartbeat
            text = read_field(request.body)
        args = {} if text is None else parse_arguments(text)
        call = make_call(self._upstream, self._catalog, name, args, principal, self._batches)
        # a call that is the same whoever makes it
        if call.heartbeat is not None and 0 < len(request.body) <= _HEARTBEAT_BYTES:
            if len(self._heartbeats) >= _HEARTBEATS:
                self._heartbeats.clear()
            self._heartbeats[path, request.body] = call
        return call

    def encode(self, call: Call, principal: Principal, request: Request) -> UpstreamRequest:
        """As `encode`; a view may be answered compressed when the caller accepts that (a task list
        shrinks twentyfold).
        """
        return encode(
            call,
            self._catalog,
            principal,
            self._base,
            gzip=call.permission == "view" and accepts_gzip(request.headers),
        )

    def answer(self, call: Call, principal: Principal, answer: UpstreamResponse) -> Response:
        """luigid's answer, for the caller. Raises `Unavailable` when it is none."""
        check_answer(call, answer)
        headers: tuple[tuple[bytes, bytes], ...] = _JSON
        if b"content-encoding" in answer.headers:
            headers = (
                *_JSON,
                (b"content-encoding", answer.headers[b"content-encoding"]),
                (b"vary", b"accept-encoding"),
            )
        if answer.stream is not None:
            return Response(200, headers=headers, stream=answer.stream, length=answer.length)
        body = (
            rewrite_worker_answer(call, principal, answer.body, self._batches)
            if call.method in REWRITTEN_METHODS
            else answer.body
        )
        return Response(200, body, headers=headers)

    def render(self, refusal: Refusal) -> Response:
        """The status with the line as its reason phrase, and JSON; a denied ``get_work`` is
        luigid's own "disabled".

        A worker retries every error for a minute, but ends at once and in order when it is
        disabled.
        """
        if is_worker_shutdown(refusal):
            return Response(200, orjson.dumps({"response": DISABLED}), headers=_JSON)
        return json_refusal(refusal)


def accepts_gzip(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the caller accepts gzip. One that weighs its encodings (``gzip;q=0``) gets none: that
    is always right.
    """
    accepted = headers.get(b"accept-encoding", b"")
    return b"gzip" in accepted and b"gzip;" not in accepted


def is_worker_shutdown(refusal: Refusal) -> bool:
    """Whether `refusal` is best told as luigid's own answer to a worker it has disabled."""
    return refusal.method == "get_work" and (
        refusal.status == 403 or refusal.reason is Reason.DRAINING
    )


def json_refusal(refusal: Refusal) -> Response:
    """A refusal as JSON: reason, message, remedy and reference, with the line as the reason phrase."""
    headers: list[tuple[bytes, bytes]] = [*_JSON]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="callgate", Basic realm="callgate"'))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    error = {
        "reason": refusal.reason,
        "message": refusal.message,
        "remedy": refusal.hint,
        "ref": refusal.ref,
    }
    return Response(
        refusal.status,
        orjson.dumps({"error": error}),
        headers=tuple(headers),
        phrase=refusal.message.encode("ascii"),
    )
