"""What the client sends: the six calls of the table, in the bytes that stock clients would send.

The large `add_task` names some 1,300 dependencies, since that is how a Luigi call grows: every element has to be parsed,
checked and encoded again. One long string of the same size would be cheaper for everybody.
"""

import hashlib
import json
import urllib.parse
import xmlrpc.client
from dataclasses import dataclass
from typing import Any

LUIGI_ANSWER = b'{"response": null}'
XMLRPC_ANSWER = b"<?xml version='1.0'?><methodResponse><params><param><value><string>ok</string></value></param></params></methodResponse>"
WORKER = "Worker(salt=8123459876, workers=4, host=etl-node-07, username=etl, pid=41337)"
_MEDIUM, _LARGE = 900, 100_000  # bytes of a body


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of call: where it goes, what stands in it, and what a right answer holds."""

    protocol: str  # "xmlrpc" or "luigi"
    name: str
    path: str
    content_type: str
    body: bytes
    forbidden: tuple[str, bytes]  # path and body of a call that no proxy may let pass


def all_calls() -> list[Call]:
    """The six calls of the table."""
    tasks = {"ping": None, "add_task 900 B": _MEDIUM, "add_task 100 kB": _LARGE}
    return [make(protocol, name, size) for protocol in ("xmlrpc", "luigi") for name, size in tasks.items()]


def make(protocol: str, name: str, size: int | None) -> Call:
    """One call; `size` is that of an add_task's body in bytes, None for a ping."""
    method = "ping" if size is None else "add_task"
    args: dict[str, Any] = {"worker": WORKER} if size is None else task()
    encode = xml_body if protocol == "xmlrpc" else form_body
    if size == _LARGE:
        args["deps"] = []
        step = len(encode(method, task(deps=[_task_id(0), _task_id(1)]))) - len(encode(method, task(deps=[_task_id(0)])))
        args["deps"] = [_task_id(number) for number in range((size - len(encode(method, args))) // step)]
    if size is not None:
        args["params"]["note"] = ""
        args["params"]["note"] = "x" * max(0, size - len(encode(method, args)))
    body = encode(method, args)
    if protocol == "xmlrpc":
        return Call(protocol, name, "/rpc/RPC2", "text/xml", body, ("/rpc/RPC2", xml_body("shutdown", {})))
    return Call(protocol, name, f"/api/{method}", "application/x-www-form-urlencoded", body, ("/api/pause", form_body("pause", {})))


def task(*, deps: list[str] | None = None, number: int = 0, status: str = "PENDING", worker: str = WORKER) -> dict[str, Any]:
    """The arguments of an add_task as luigi's RemoteScheduler fills them in."""
    return {
        "task_id": _task_id(number), "status": status, "runnable": True, "deps": deps, "new_deps": None, "expl": None, "resources": {},
        "priority": 10, "family": "etl.LoadOrders", "module": "etl.orders", "params": {"date": "2024-05-17", "shop": str(number)},
        "param_visibilities": {"date": 0, "shop": 0}, "accepts_messages": False, "assistant": False, "tracking_url": None,
        "worker": worker, "batchable": False, "batch_id": None, "retry_policy_dict": {}, "owners": None,
    }  # fmt: skip


def form_body(method: str, args: dict[str, Any]) -> bytes:
    """The body as a stock Luigi worker sends it."""
    return urllib.parse.urlencode({"data": json.dumps(args)}).encode("ascii")


def xml_body(method: str, args: dict[str, Any]) -> bytes:
    """The body as Python's XML-RPC client sends it: positional arguments, those not given left out."""
    order = ("task_id", "worker", "family", "priority", "runnable", "params", "deps")
    given = tuple(args[name] for name in order if args.get(name) is not None)
    return xmlrpc.client.dumps(given, f"queue.{method}").encode("utf-8")


def _task_id(number: int) -> str:
    # The digest is luigi's own (the end of a task id), not a safeguard.
    return f"etl.LoadOrders_2024_05_17_{number:06d}_{hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:10]}"
