"""A call of luigid, whichever codec it came through: made, encoded, and its answer checked.

The codecs `proxy.protocol.luigi.api` and `proxy.protocol.xmlrpc.luigi_bridge` read arguments in
their own way. From there on both use these functions, so that luigid gets one encoding.
"""

from functools import lru_cache

import orjson

from proxy.catalog.checking import make_harmless
from proxy.catalog.model import Catalog, Method
from proxy.errors import Rejected, Unavailable
from proxy.model import Call, Principal, Reason, UpstreamRequest, UpstreamResponse, Value
from proxy.protocol.catalog_call import bind_worker, check_call, related_tasks, task_of
from proxy.protocol.luigi.batch_ids import BatchIdSigner, luigid_batch_id
from proxy.protocol.luigi.form import FORM, encode_form
from proxy.protocol.luigi.worker_identity import REWRITTEN_METHODS
from proxy.protocol.refusal import Refusal
from proxy.protocol.strict_json import Escaped, encode_arguments, is_valid_json

WORKER_SHUTDOWN: Value = {
    "n_pending_tasks": 0,
    "running_tasks": [],
    "task_id": None,
    "n_unique_pending": 0,
    "worker_state": "disabled",
}
"""luigid's own answer to ``get_work`` of a worker that it has disabled: the worker ends at once."""

# luigi.parameter.ParameterVisibility.HIDDEN, PRIVATE
_HIDDEN_VISIBILITIES = (1, 2)
# What luigid answers to most calls that act.
_NULL_ANSWER = b'{"response": null}'
# Bytes of the answer to a view above which it is not parsed: at this size that takes 40 us.
_MAX_PARSED_BYTES = 16_384
# Bytes of an answer that is rewritten, and therefore buffered: a running task takes some 300.
_MAX_REWRITTEN_BYTES = 16 * 1024 * 1024
# Workers whose encoded heartbeat is cached.
_HEARTBEATS = 4096


def make_call(
    upstream: str,
    catalog: Catalog,
    name: str,
    args: dict[str, Value],
    principal: Principal,
    batch_ids: BatchIdSigner,
) -> Call:
    """Return the call of luigid's method `name` by `principal`.

    What luigid would take and only others suffer from is made harmless. Raises `Rejected` when
    arguments are missing or mistyped, when a worker id ends in a suffix, or when a batch id is not
    this principal's.
    """
    method = catalog.methods.get(name)
    if method is None:
        return Call(upstream, catalog.protocol, name, "admin", args, in_catalog=False)
    changed: tuple[str, ...] = args.names() if type(args) is Escaped else ()
    try:
        heartbeat = check_call(method, args)
    except Rejected as error:
        mended = make_harmless(method, args)
        if mended is args or error.reason is not Reason.BAD_ARGUMENTS:
            raise
        heartbeat = check_call(method, mended)
        changed += tuple(
            name for name in args if mended[name] is not args[name] and name not in changed
        )
        args = mended
    if "batch_id" in args and args["batch_id"] is not None:
        batch_ids.verify(principal, args.get("family"), args["batch_id"])
    task = task_of(method, args)
    return Call(
        upstream,
        catalog.protocol,
        name,
        method.permission,
        args,
        task=task,
        related_tasks=related_tasks(method, args, task) if method.related_task_args else (),
        secret_paths=(
            _secret_paths(method, args) if "param_visibilities" in args else method.secret_args
        ),
        heartbeat=heartbeat,
        changed=changed,
    )


def _secret_paths(method: Method, args: dict[str, Value]) -> tuple[tuple[str, ...], ...]:
    """Return the arguments that the record withholds.

    These are what the catalog marks, and parameters that luigi does not show publicly.
    """
    secret = method.secret_args
    visibilities = args["param_visibilities"]
    if type(visibilities) is dict and any(visibilities.values()):
        secret += tuple(
            ("params", name)
            for name, level in visibilities.items()
            if level in _HIDDEN_VISIBILITIES
        )
    return secret


def encode(
    call: Call, catalog: Catalog, principal: Principal, base: str, *, gzip: bool = False
) -> UpstreamRequest:
    """Return the call as luigid gets it: a POST with one form field, the worker id suffixed.

    `base` is the path under which luigid itself is served, usually empty. `gzip` says whether the
    caller accepts a compressed answer to a view.
    """
    method = catalog.methods[call.method]
    if call.heartbeat is not None and method.worker_arg is not None:
        return _heartbeat_request(
            f"{base}/api/{call.method}",
            method.worker_arg,
            bind_worker(call.heartbeat, principal),
        )
    changed: dict[str, Value] = {}
    if method.worker_arg is not None:
        changed[method.worker_arg] = bind_worker(call.args[method.worker_arg], principal)
    if "batch_id" in call.args and call.args["batch_id"] is not None:
        changed["batch_id"] = luigid_batch_id(str(call.args["batch_id"]))
    body = encode_form(encode_arguments(call.args, changed))
    path = f"{base}/api/{call.method}".encode("ascii")
    if call.method in REWRITTEN_METHODS:
        return UpstreamRequest("POST", path, FORM, body, max_buffered=_MAX_REWRITTEN_BYTES)
    if method.permission == "view":
        return UpstreamRequest(
            "POST",
            path,
            FORM,
            body,
            accept_gzip=gzip,
            kind="read",
            cacheable=method.shared,
            shared=method.shared,
            fairness_key=principal.name,
        )
    return UpstreamRequest("POST", path, FORM, body)


@lru_cache(maxsize=_HEARTBEATS)
def _heartbeat_request(path: str, argument: str, worker: str) -> UpstreamRequest:
    """Return the heartbeat of one worker, which is the same every second."""
    return UpstreamRequest(
        "POST",
        path.encode("ascii"),
        FORM,
        encode_form(orjson.dumps({argument: worker})),
        kind="heartbeat",
    )


def check_answer(call: Call, response: UpstreamResponse) -> None:
    """Check that luigid answered as it does when a call worked: 200 and JSON (luigi/server.py).

    The answer to a call that acts is parsed to its end. Views of more than 16 kB are not, since
    each of their readers would pay for it, nor is what is compressed or streamed: they are
    recognised by their beginning. Raises `Unavailable`.
    """
    if response.status == 500:
        raise Unavailable(Reason.UPSTREAM_ERROR, f"luigid answered 500 to {call.method}", sent=True)
    if response.status != 200:
        raise _invalid(f"luigid answered {response.status} to {call.method}")
    if response.headers.get(b"content-type", b"")[:16] != b"application/json":
        raise _invalid("luigid answered something other than JSON")
    if b"content-encoding" in response.headers:
        if call.permission != "view":
            raise _invalid("luigid sent a compressed response that was not requested")
    elif (
        response.stream is None
        and response.body != _NULL_ANSWER
        and not _is_luigi_answer(call, response.body)
    ):
        raise _invalid("the JSON is not an answer of luigid")
    if response.stream is not None and call.method in REWRITTEN_METHODS:
        raise _invalid(f"the answer to {call.method} is too large to be read")


def _invalid(detail: str) -> Unavailable:
    return Unavailable(Reason.UPSTREAM_INVALID, detail, sent=True)


def _is_luigi_answer(call: Call, body: bytes) -> bool:
    if body[:12] != b'{"response":':
        return False
    return (call.permission == "view" and len(body) > _MAX_PARSED_BYTES) or is_valid_json(body)


def is_worker_shutdown(refusal: Refusal) -> bool:
    """Return whether `refusal` is best rendered as `WORKER_SHUTDOWN`.

    A worker retries every error for a minute, but ends at once and in order when it is disabled.
    """
    return refusal.method == "get_work" and (
        refusal.status == 403 or refusal.reason is Reason.DRAINING
    )
