"""The worker id, bound to the identity of its caller, in the answers of luigid.

luigid trusts the worker id that a caller states. A caller that states another's id makes that
worker import and run a module. So every worker id gets a suffix on its way to luigid
(`proxy.protocol.catalog_call`).

A worker looks for its own id in some answers. There the suffix is taken off again, and two more
members are rewritten (`rewrite_worker_answer`).
"""

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import orjson

from proxy.errors import Unavailable
from proxy.model import Call, Principal, Reason
from proxy.protocol.catalog_call import bind_worker, worker_suffix
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.strict_json import parse_fast

GivenTasks: TypeAlias = Callable[[str, str], None]
"""Takes a task and the worker that luigid gave it to."""
REWRITTEN_METHODS = frozenset({"get_work", "count_pending"})
"""Methods in whose answers a worker looks for its own id."""


def rewrite_worker_answer(
    call: Call,
    principal: Principal,
    body: bytes,
    batch_ids: BatchIdSigner,
    given: GivenTasks = lambda _task_id, _worker: None,
) -> bytes:
    """Return the answer to one of `REWRITTEN_METHODS`, rewritten in three places; others unchanged.

    The caller's own suffix comes off the worker ids of ``running_tasks``. Left on, the worker's
    summary would say that "other workers" ran its tasks (luigi/execution_summary.py).

    ``task_module`` becomes null, except for an assistant. luigid keeps the first module that a
    caller announced for a task id, and a worker imports it when it gets a batch, or a task that it
    never announced (luigi/worker.py). The first to announce a task would run code in the worker
    that announces it next. A worker that is no assistant has already loaded every family it
    announced, and needs no module.

    ``batch_id`` is signed. `given` is called with each task that luigid gave the worker, and with
    the worker's id as luigid has it.
    """
    if call.method not in REWRITTEN_METHODS:
        return body
    suffix = worker_suffix(principal)
    imports = b'"task_module"' in body and call.args.get("assistant") is not True
    batched = b'"batch_id"' in body
    if not imports and not batched and suffix.encode() not in body:
        return body
    try:
        quick = parse_fast(body)
        document: Any = json.loads(body) if quick is None else quick
        response = document["response"]
        worker = bind_worker(call.args.get("worker"), principal)
        for task in response["running_tasks"]:
            runs = task.get("worker")
            if type(runs) is str:
                own = runs == worker
                task["worker"] = call.args["worker"] if own else runs.removesuffix(suffix)
        if response.get("task_id") is not None:
            given(str(response["task_id"]), worker)
        if imports and "task_module" in response:
            response["task_module"] = None
        if batched and response.get("batch_id") is not None:
            members = [str(task_id) for task_id in response["batch_task_ids"]]
            for task_id in members:
                given(task_id, worker)
            response["batch_id"] = batch_ids.sign(
                principal, str(response["task_family"]), str(response["batch_id"]), members[0]
            )
        return json.dumps(document).encode() if quick is None else orjson.dumps(quick)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise Unavailable(
            Reason.UPSTREAM_INVALID, f"the answer to {call.method} is not luigid's", sent=True
        ) from None
