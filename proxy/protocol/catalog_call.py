"""What a catalog says of a call, the same in every protocol: its worker, its tasks, its arguments.

The worker id that a caller states is bound to its identity: every one gets a suffix on its way to
the upstream, ``<its own id> [<issuer>:<subject>]``. The suffix holds no blank and no bracket
inside, hence the last one of an id is always Callgate's, and no two identities can meet in one id.
In its own id brackets, markup and unusual characters are percent-encoded, so that nothing there
looks like a suffix or runs in a page. An id that ends in a suffix is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from urllib.parse import quote

from proxy.catalog.checking import check_arguments
from proxy.catalog.luigi_types import is_suffixed
from proxy.catalog.model import Method
from proxy.catalog.validation_cache import ValidationCache
from proxy.errors import Rejected
from proxy.model import Call, PreparedCall, Principal, Reason, Value

MAX_RELATED_TASKS = 100_000
"""Dependencies that one call may name: each is decided on."""
# Of a large call: characters of a text that are kept, and arguments of a method outside a catalog.
_KEPT_TEXT = 4_096
_KEPT_ARGS = 16


def worker_suffix(principal: Principal) -> str:
    """Return what is appended to the worker ids of `principal`.

    It is a blank and ``[issuer:subject]``, the subject percent-encoded.
    """
    return _suffix(principal.issuer_name, principal.subject)


@lru_cache(maxsize=1024)
def _suffix(issuer_name: str, subject: str) -> str:
    return f" [{issuer_name}:{quote(subject, safe='@')}]"


def bind_worker(worker: Value, principal: Principal) -> str:
    """Return the worker id as the upstream has it: encoded where unusual, with its suffix.

    No two ids of one principal become the same.
    """
    own = str(worker)
    if not _plain_workers.is_valid(own):
        own = _encode_worker(own)
    return own + worker_suffix(principal)


def _is_plain(worker: str) -> bool:
    return worker.strip(" ") == worker and _unusual.search(worker) is None


def _encode_worker(worker: str) -> str:
    inner = worker.lstrip(" ")
    before = "%20" * (len(worker) - len(inner))
    after = "%20" * (len(inner) - len(inner.rstrip(" ")))
    return before + _unusual.sub(_percent_encode, inner.rstrip(" ")) + after


def _percent_encode(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


# A percent sign before two digits, brackets, what a page could read as markup or the visualiser as
# a selector, and beyond ASCII all that is neither letter nor digit: some of it resembles a bracket.
# Blanks at the ends are no part of it: ` +\Z` takes the square of the blanks before.
_unusual = re.compile(r"%(?=[0-9A-Fa-f]{2})|[\x00-\x1f\x7f\[\]<>\"]|[^\x00-\x7f](?<!\w)")
_plain_workers = ValidationCache(_is_plain)


def check_call(method: Method, args: dict[str, Value]) -> str | None:
    """Check the worker and the arguments of a call; return the worker if it is a heartbeat.

    Raises `Rejected` when arguments are missing or mistyped, or when a worker id ends in a suffix.
    """
    heartbeat: str | None = None
    if method.worker_arg is not None:
        worker = args.get(method.worker_arg)
        if type(worker) is not str or not worker:
            raise Rejected(
                Reason.BAD_ARGUMENTS, f"{method.name}: {method.worker_arg} must be given"
            )
        if is_suffixed(worker):
            raise Rejected(Reason.NOT_YOUR_WORKER)
        # With a second argument it says more than that the worker lives.
        if method.heartbeat and len(args) == 1:
            heartbeat = worker
    check_arguments(method, args)
    return heartbeat


def task_of(method: Method, args: Mapping[str, Value]) -> str | None:
    """Return the task that the call is about."""
    for argument in method.task_args:
        if argument in args and type(named := args[argument]) is str and named:
            return named
    return None


def related_tasks(method: Method, args: Mapping[str, Value], task: str | None) -> tuple[str, ...]:
    """Return the tasks that the call acts on besides `task`, each once, in order.

    luigid makes them known and gives them the priority of `task`.
    """
    named: list[str] = []
    for name in method.related_task_args:
        if name in args and type(listed := args[name]) is list:
            named += listed  # type: ignore[arg-type]  # checked: of texts
    if not named:
        return ()
    if len(named) > MAX_RELATED_TASKS:
        arguments = " and ".join(method.related_task_args)
        raise Rejected(
            Reason.BAD_ARGUMENTS,
            f"{method.name}: {arguments} name more than {MAX_RELATED_TASKS} tasks",
        )
    others = dict.fromkeys(named)
    if task in others:
        del others[task]
    return tuple(others)


def with_prepared(call: Call, method: Method | None, prepared: PreparedCall) -> Call:
    """Return a large call with what was made of it, and its arguments cut short.

    What the gate reads of a call that is decided stays: the arguments that `method` has, with their
    types, and whether they are empty. No other argument is read: of a method outside the catalog,
    or of the gate's own, the first few stay.
    """
    names = list(call.args)[:_KEPT_ARGS] if method is None else method.names
    args = {name[:_KEPT_TEXT]: _cut_short(call.args[name]) for name in names if name in call.args}
    return replace(call, args=args, related_tasks=(), prepared=prepared)


def without(call: Call, dropped: Sequence[str]) -> Call:
    """Return a call without the arguments of these names."""
    kept = {name: value for name, value in call.args.items() if name not in dropped}
    return replace(call, args=kept)


def _cut_short(value: Value) -> Value:
    if isinstance(value, (str, bytes)):
        return value[:_KEPT_TEXT]
    if isinstance(value, list):
        return [None] * min(1, len(value))
    if isinstance(value, dict):
        return {"": None} if value else {}
    return value
