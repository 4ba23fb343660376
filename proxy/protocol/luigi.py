"""luigid's own protocol: ``POST|GET /api/<method>`` with the keyword arguments as JSON in the form field ``data``.

What luigid reads in two ways is refused, so that what policy judges is what luigid will do (luigi.md 2b-2d):

* the raw path is ``/api/`` and ``[a-z_]{1,64}``, no percent sign (luigid decodes it once more);
* GET without a body, or POST with a form body of exactly one type; no Content-Encoding, no multipart;
* at most one ``data`` over query and body together (luigid takes the last);
* JSON: one object, no key twice (luigid takes the last), no lone surrogates, no NaN. ``Infinity`` is accepted and sent on:
  stock workers send it for every batchable family (luigi/worker.py).

luigid trusts the worker id that a caller states, and whoever states another's makes that worker import and run a module
(luigi.md 1b.1). So the gate marks it: upstream a worker is called ``<its own id> [<issuer>:<subject>]``. The mark holds no
blank and no bracket, hence the last one of an id is always the gate's, and no two identities can meet in one id. The
answers in which a worker looks for itself get the mark taken off again.
"""

import json
import re
from typing import Any, cast
from urllib.parse import quote

import orjson

from proxy.errors import Rejected, Unavailable
from proxy.model import Answer, Call, Outbound, Principal, Reason, Reply, Request, Value
from proxy.protocol.catalog import Catalog, Method, check_arguments, disarm_markup
from proxy.protocol.form import FORM, is_form, read_field, write_field
from proxy.protocol.refusal import Refusal

MAX_DEPTH = 100  # luigid's own arguments nest three deep
_PATH = re.compile(r"/api/([a-z_]{1,64})")
_MARKED = re.compile(r" \[[a-z0-9-]+:[A-Za-z0-9%._~@-]*\]\Z")
_JSON = (b"cache-control", b"no-store")
DISABLED: Value = {"n_pending_tasks": 0, "running_tasks": [], "task_id": None, "n_unique_pending": 0, "worker_state": "disabled"}
_HIDDEN_FROM_PUBLIC = (1, 2)  # luigi.parameter.ParameterVisibility.HIDDEN, PRIVATE
_REWRITTEN_BYTES = 16 * 1024 * 1024  # a running task takes some 300 bytes in an answer to get_work
_NAMES_OWN_WORKER = frozenset({"get_work", "count_pending"})  # answers in which a worker looks for its own id


def worker_mark(principal: Principal) -> str:
    """What is appended to the worker ids of `principal`: a blank and ``[issuer:subject]``, the subject percent-encoded."""
    return f" [{principal.issuer_name}:{quote(principal.subject, safe='@')}]"


def parse_arguments(text: bytes) -> dict[str, Value]:
    """The JSON object in `text`. Raises `Rejected` for anything else, a key that stands twice, or text that is not UTF-8.

    Fast road: orjson reads it, and if our own encoding of the result is the very text that came, then it held no
    duplicate, no odd number and no surrogate. Anything else (white space, Infinity, integers over 64 bits) is read
    again by the standard library with a hook that sees every key.
    """
    try:
        quick = orjson.loads(text)
        if type(quick) is dict and json.dumps(quick).encode() == text:
            return _shallow(text, cast(dict[str, Value], quick))
    except (orjson.JSONDecodeError, RecursionError):
        pass
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON is nested too deeply") from None
    except UnicodeError:
        raise Rejected(Reason.MALFORMED_CALL, "the text is not UTF-8, or holds half a surrogate pair") from None
    except ValueError:
        raise Rejected(Reason.MALFORMED_CALL, "data must be one JSON object") from None
    if type(value) is not dict:
        raise Rejected(Reason.MALFORMED_CALL, "data must be one JSON object")
    return _shallow(text, cast(dict[str, Value], value))


def _shallow(text: bytes, args: dict[str, Value]) -> dict[str, Value]:
    """`args`, unless they nest deeper than `MAX_DEPTH`. Few brackets in the text settle it without a walk."""
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        level: list[Value] = [args]
        for _ in range(MAX_DEPTH):
            level = [x for v in level if isinstance(v, (dict, list)) for x in (v.values() if isinstance(v, dict) else v)]
            if not level:
                break
        else:
            raise Rejected(Reason.CALL_TOO_COMPLEX, "the JSON is nested too deeply")
    return args


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Rejected(Reason.AMBIGUOUS_CALL, "a JSON key stands twice")
    return result


def _constant(name: str) -> float:
    if name == "Infinity":
        return float("inf")
    raise ValueError(name)


def make_call(upstream: str, catalog: Catalog, name: str, args: dict[str, Value]) -> Call:
    """The call of luigid's method `name`. Raises `Rejected` when arguments are missing, mistyped or carry a worker mark."""
    method = catalog.methods.get(name)
    if method is None:
        return Call(upstream, catalog.protocol, name, "admin", args, known=False)
    args = disarm_markup(method, args)
    check_arguments(method, args)
    if method.worker_arg is not None:
        worker = args.get(method.worker_arg)
        if type(worker) is not str or not worker:
            raise Rejected(Reason.BAD_ARGUMENTS, f"{name}: {method.worker_arg} must be given")
        if _MARKED.search(worker) is not None:
            raise Rejected(Reason.NOT_YOUR_WORKER)
    return Call(upstream, catalog.protocol, name, method.permission, args, True, _task(method, args), _secret(method, args))


def _task(method: Method, args: dict[str, Value]) -> str | None:
    for name in method.task_args:
        task = args.get(name)
        if type(task) is str and task:
            return task
    return None


def _secret(method: Method, args: dict[str, Value]) -> tuple[tuple[str, ...], ...]:
    """Arguments to withhold from the record: what the catalog marks, and parameters luigi does not show publicly."""
    secret = method.secret_args
    visibilities = args.get("param_visibilities")
    if type(visibilities) is dict:
        secret += tuple(("params", name) for name, level in visibilities.items() if level in _HIDDEN_FROM_PUBLIC)
    return secret


def encode(call: Call, catalog: Catalog, principal: Principal, base: str, *, gzip: bool = False) -> Outbound:
    """The call as luigid will get it: always a POST with one form field, the worker id marked with the principal.

    `base` is the path under which luigid itself is served, usually none.
    """
    method = catalog.methods[call.method]
    args = call.args
    if method.worker_arg is not None:
        args = {**args, method.worker_arg: f"{args[method.worker_arg]}{worker_mark(principal)}"}
    body = write_field(json.dumps(args))
    view = method.permission == "view"
    path = f"{base}/api/{call.method}".encode("ascii")
    if call.method in _NAMES_OWN_WORKER:  # its answer has to be rewritten, hence held whole
        return Outbound("POST", path, FORM, body, whole=_REWRITTEN_BYTES)
    return Outbound("POST", path, FORM, body, accept_gzip=gzip and view, retry_safe=view)


def check_answer(call: Call, answer: Answer) -> None:
    """Raise `Unavailable` unless luigid answered as it answers a call that worked: 200 and JSON (luigi/server.py)."""
    if answer.status == 500:
        raise Unavailable(Reason.UPSTREAM_ERROR, f"luigid answered 500 to {call.method}", sent=True)
    if answer.status != 200:
        raise Unavailable(Reason.UPSTREAM_INVALID, f"the upstream answered {answer.status}", sent=True)
    if not answer.headers.get(b"content-type", b"").startswith(b"application/json"):
        raise Unavailable(Reason.UPSTREAM_INVALID, "the upstream answered something other than JSON", sent=True)


def unmark(call: Call, principal: Principal, body: bytes) -> bytes:
    """Take the caller's own mark off the worker ids of ``running_tasks``: the worker compares them with its own id.

    Left on, its summary would say that "other workers" ran its tasks (luigi/execution_summary.py).
    """
    if call.method not in _NAMES_OWN_WORKER:
        return body
    mark = worker_mark(principal)
    if mark.encode() not in body:
        return body
    try:
        document = json.loads(body)
        for task in document["response"]["running_tasks"]:
            if type(task.get("worker")) is str:
                task["worker"] = task["worker"].removesuffix(mark)
        return json.dumps(document).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unavailable(Reason.UPSTREAM_INVALID, f"the answer to {call.method} is not luigid's", sent=True) from None


class LuigiApi:
    """The dialect of stock workers and of the visualiser's scripts."""

    def __init__(self, upstream: str, catalog: Catalog, base: str = "") -> None:
        """`base` is the path under which luigid itself is served."""
        self._upstream = upstream
        self._catalog = catalog
        self._base = base

    def decode(self, request: Request, path: str) -> Call:
        """The one call of `request`, whose `path` has lost the upstream's prefix. Raises `Rejected`."""
        match = _PATH.fullmatch(path)
        if match is None:
            raise Rejected(Reason.MALFORMED_CALL, "the path must be /api/ and a method name, unencoded")
        if request.verb not in ("GET", "POST"):
            raise Rejected(Reason.VERB_NOT_ALLOWED, "the API takes GET and POST")
        headers = request.headers
        if b"content-encoding" in headers:
            raise Rejected(Reason.AMBIGUOUS_CALL, "the API takes no Content-Encoding")
        text = read_field(request.query.encode("ascii")) if request.query else None
        if request.body:
            if request.verb == "GET":
                raise Rejected(Reason.AMBIGUOUS_CALL, "a GET has no body")
            if not is_form(headers.get(b"content-type", b"")):
                raise Rejected(Reason.AMBIGUOUS_CALL, "the body must be application/x-www-form-urlencoded")
            if text is not None:
                raise Rejected(Reason.AMBIGUOUS_CALL, "data stands in the query and in the body")
            text = read_field(request.body)
        return make_call(self._upstream, self._catalog, match[1], {} if text is None else parse_arguments(text))

    def encode(self, call: Call, principal: Principal, request: Request) -> Outbound:
        """As `encode`; a view may be answered compressed when the caller accepts that (a task list shrinks twentyfold)."""
        return encode(call, self._catalog, principal, self._base, gzip=b"gzip" in request.headers.get(b"accept-encoding", b""))

    def answer(self, call: Call, principal: Principal, answer: Answer) -> Reply:
        """luigid's answer, for the caller. Raises `Unavailable` when it is none."""
        check_answer(call, answer)
        headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)
        if b"content-encoding" in answer.headers:
            headers = (_JSON, (b"content-encoding", answer.headers[b"content-encoding"]), (b"vary", b"accept-encoding"))
        if answer.stream is not None:
            return Reply(200, headers=headers, stream=answer.stream, length=answer.length)
        return Reply(200, unmark(call, principal, answer.body), headers=headers)

    def refuse(self, refusal: Refusal) -> Reply:
        """The status with the line as its reason phrase, and JSON; a denied ``get_work`` is luigid's own "disabled".

        A worker retries every error for a minute, but ends at once and in order when it is disabled (luigi.md 3b).
        """
        if is_disabled_answer(refusal):
            return Reply(200, orjson.dumps({"response": DISABLED}), headers=(_JSON,))
        return json_refusal(refusal)


def is_disabled_answer(refusal: Refusal) -> bool:
    """Whether `refusal` is best told as luigid's own answer to a worker it has disabled."""
    return refusal.method == "get_work" and (refusal.status == 403 or refusal.reason is Reason.DRAINING)


def json_refusal(refusal: Refusal) -> Reply:
    """A refusal as JSON: reason, message, remedy and reference, with the line as the reason phrase."""
    headers: list[tuple[bytes, bytes]] = [_JSON]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="callgate", Basic realm="callgate"'))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    error = {"reason": refusal.reason, "message": refusal.line, "remedy": refusal.remedy, "ref": refusal.ref}
    return Reply(refusal.status, orjson.dumps({"error": error}), headers=tuple(headers), phrase=refusal.line.encode("ascii"))
