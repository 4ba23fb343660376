"""Reports on running tasks: only the worker that runs a task may make them.

luigid compares the caller's worker id with the one that runs the task for the status of an
``add_task`` alone, and not even then if the call has ``new_deps`` (luigi/scheduler.py). It takes
everything else of a report from every caller: the ``batch_id`` by which the end of one task ends
others, the error text, the tracking URL, messages, progress, and resources given back early.

So before a call that luigid would not check, luigid is asked which worker runs the task, and what
is another's to say is not sent. Of an ``add_task`` only those arguments are left out: luigid's own
check then holds for the status. A worker whose task was taken over notices nothing, as with luigid
itself: its answer is null, and the record has the outcome ``not-your-worker``.

Four kinds of calls are asked about every time, since a wrong answer would end another's run or give
away its resources: with ``new_deps``, ``decrease_running_task_resources``, with a ``batch_id``, and
the end of a task that took up a batch here. The batch must be one that this worker runs now. luigid
gives equal batches equal ids, so the signature alone (`proxy.protocol.luigi.batch_ids`) would hold
for a later batch of another identity. For texts it is enough that ``get_work`` gave the task to the
caller within the last minute. Stock workers announce tasks and end them well without a question.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import orjson

from proxy.common.bounded_cache import BoundedCache
from proxy.errors import Unavailable
from proxy.model import (
    Call,
    Principal,
    Question,
    Reason,
    UpstreamRequest,
    UpstreamResponse,
    Value,
)
from proxy.protocol.catalog_call import bind_worker, worker_suffix
from proxy.protocol.luigi.batch_ids import batch_member
from proxy.protocol.luigi.form import FORM, encode_form

_DECREASE = "decrease_running_task_resources"
UNCHECKED_METHODS = frozenset(
    {
        "add_scheduler_message_response",
        _DECREASE,
        "report_task_statistics",
        "set_task_progress_percentage",
        "set_task_status_message",
    }
)
"""Methods that report on a running task, and name no worker."""
MAX_ANSWER_BYTES = 262_144
"""Bytes of an answer that is read: a running task takes some 700. Beyond, nothing is known."""
REMEMBERED_SECONDS = 60.0
"""Seconds for which the answer to get_work says which worker runs a task."""

# Tasks in memory: more than luigid's one thread keeps running.
_REMEMBERED_TASKS = 4096
# Arguments of add_task that luigid takes without a check, and that only a report has.
_UNCHECKED_ARGS = ("batch_id", "new_deps", "expl", "tracking_url")
_RUNNING = ("RUNNING", "BATCH_RUNNING")
# What a stock worker says as the error of a task that is done (luigi/worker.py): nothing, as JSON.
_NO_ERROR = (None, "", '""', "null")
# Statuses by which a running task ends.
_ENDS = ("DONE", "FAILED")
# In the place of a worker: luigid's answer does not tell.
_UNKNOWN = "<unknown>"
_IGNORED = UpstreamResponse(200, {b"content-type": b"application/json"}, b'{"response": null}')


class TaskReports:
    """What is asked of luigid before a report, and what is left of the report after the answer."""

    def __init__(self, base: str = "", now: Callable[[], float] = time.monotonic) -> None:
        """Remember nothing yet.

        `base` is the path under which luigid itself is served, `now` a clock in seconds.
        """
        self._base = base
        self._now = now
        self._running: BoundedCache[str, tuple[str, float]] = BoundedCache(_REMEMBERED_TASKS)
        # By the task that runs a batch: its worker, and a task of the batch.
        self._batches: BoundedCache[str, tuple[str, str]] = BoundedCache(_REMEMBERED_TASKS)

    def remember(self, task_id: str, worker: str) -> None:
        """Note that luigid gave the task to the worker, whose id has its suffix."""
        self._running.put(task_id, (worker, self._now() + REMEMBERED_SECONDS))

    def question(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Question | None:
        """Return what has to be asked after these `answers`, None when nothing more."""
        if not answers and not self._is_unchecked(call, principal):
            return None
        me = bind_worker(call.args.get("worker"), principal)
        return self._read(call, me, answers)[1]

    def amend(
        self, call: Call, principal: Principal, answers: Sequence[UpstreamResponse]
    ) -> Call | UpstreamResponse:
        """Return the call as it may be sent, or the answer that it gets without being sent."""
        task = str(call.args.get("task_id"))
        suffix = worker_suffix(principal)
        me = bind_worker(call.args.get("worker"), principal)
        runs = self._read(call, me, answers)[0]
        worker = runs[task]
        if call.method in UNCHECKED_METHODS:
            if worker is None or worker.endswith(suffix):
                return call
            # A worker that reached luigid past the gate has no identity that texts could belong to.
            unmarked = "[" not in worker and worker != _UNKNOWN
            return call if unmarked and call.method != _DECREASE else _IGNORED
        dropped: tuple[str, ...] = ()
        member = self._member(call, me)
        if worker is not None and worker != me:
            dropped = _UNCHECKED_ARGS
        elif call.args.get("batch_id") is not None:
            if member is not None and runs[member] == me:
                self._batches.put(task, (me, member))
            else:
                dropped = ("batch_id",)
        elif member is not None:
            # The end of this task ends the batch, which luigid may have given to another meanwhile.
            if runs[member] is not None and runs[member] != me:
                return _IGNORED
            self._batches.pop(task, None)
        elif worker == me and call.args.get("status") == "RUNNING":
            self.remember(task, me)
        kept = {name: value for name, value in call.args.items() if name not in dropped}
        return call if len(kept) == len(call.args) else replace(call, args=kept)

    def _is_unchecked(self, call: Call, principal: Principal) -> bool:
        """Return whether luigid would take from another what `call` says of a running task."""
        args = call.args
        if call.method == "add_task":
            if args.get("new_deps") or args.get("batch_id") is not None:
                return True
            ends = args.get("status") in _ENDS
            says_more = args.get("tracking_url") is not None or args.get("expl") not in _NO_ERROR
            if not (ends or says_more):
                return False
            mine = bind_worker(args.get("worker"), principal)
            if self._batches and self._member(call, mine) is not None:
                return True
            known = self._worker_of(args.get("task_id"))
            if ends and known == mine:
                self._running.pop(str(args["task_id"]), None)
            return says_more and known != mine
        if call.method not in UNCHECKED_METHODS:
            return False
        if call.method == _DECREASE:
            return True
        known = self._worker_of(args.get("task_id"))
        return known is None or not known.endswith(worker_suffix(principal))

    def _member(self, call: Call, me: str) -> str | None:
        """Return a task of the batch that `call` takes up, or ends with the task that runs it."""
        args = call.args
        if call.method != "add_task":
            return None
        if args.get("batch_id") is not None:
            return batch_member(str(args["batch_id"]))
        batch = self._batches.get(str(args.get("task_id")))
        if batch is None or batch[0] != me:
            return None
        return batch[1] if args.get("status") in _ENDS or args.get("new_deps") else None

    def _worker_of(self, task_id: Value) -> str | None:
        """Return the worker that got the task within the last minute."""
        found = self._running.get(task_id) if type(task_id) is str else None
        return None if found is None or found[1] <= self._now() else found[0]

    def _read(
        self, call: Call, me: str, answers: Sequence[UpstreamResponse]
    ) -> tuple[dict[str, str | None], Question | None]:
        """Return which worker runs each task of the call, and the next question if there is one.

        The first question about a task is its graph, which is as small as the task while it runs.
        There luigid leaves out the worker of a task without a family: then it is searched for.
        """
        runs: dict[str, str | None] = {}
        given: Iterator[UpstreamResponse] = iter(answers)
        tasks, member = [str(call.args["task_id"])], self._member(call, me)
        for task in tasks if member is None else [*tasks, member]:
            graph: dict[str, Value] = {"task_id": task, "include_done": False}
            search: dict[str, Value] = {"task_str": task}
            for method, args in (("dep_graph", graph), ("task_search", search)):
                answer = next(given, None)
                if answer is None:
                    return runs, self._ask(call, method, task, args)
                found = _find(answer, method, task)
                runs[task] = found
                if found != _UNKNOWN:
                    break
        return runs, None

    def _ask(self, call: Call, method: str, task: str, args: dict[str, Value]) -> Question:
        request = UpstreamRequest(
            "POST",
            f"{self._base}/api/{method}".encode("ascii"),
            FORM,
            encode_form(orjson.dumps(args)),
            kind="question",
            max_buffered=MAX_ANSWER_BYTES,
        )
        # A part of the report, and so of the same right: a worker needs none to view.
        asked = Call(call.upstream, call.protocol, method, call.permission, args, task=task)
        return Question(asked, request)


def _find(answer: UpstreamResponse, method: str, task_id: str) -> str | None:
    """Return the worker that runs the task, None for no worker, `_UNKNOWN` if that is not said.

    Raises `Unavailable` when this is no answer of luigid.
    """
    if answer.stream is not None:
        return _UNKNOWN
    try:
        document = json.loads(answer.body)
        found = document["response"] if answer.status == 200 else None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if type(found) is not dict:
        raise Unavailable(Reason.UPSTREAM_INVALID, "luigid did not say which worker runs the task")
    if method == "task_search":
        groups = [group for group in found.values() if type(group) is dict and task_id in group]
        found = groups[0] if groups else {}
    task = found.get(task_id)
    if task is None:
        return None
    if type(task) is not dict or "worker_running" not in task:
        return _UNKNOWN
    if task.get("status") not in _RUNNING:
        return None
    worker = task["worker_running"]
    return worker if type(worker) is str else _UNKNOWN
