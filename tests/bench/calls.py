"""What the client sends: the calls of the table, in the bytes that stock clients would send.

A call of 100 kB comes in two shapes. One has a long parameter (luigi writes a list parameter as one
JSON text); the other has some thousand dependencies, each of which has to be parsed, checked and
encoded again by who reads what it forwards.
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


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of call: where it goes, what stands in it, and what a right answer holds."""

    protocol: str  # "xmlrpc" or "luigi"
    name: str
    path: str
    content_type: str
    body: bytes
    forbidden: tuple[str, bytes]  # path and body of a call that no proxy may let pass


PING, MEDIUM, LARGE, PARTS = (
    "ping",
    "add_task 900 B",
    "add_task 100 kB",
    "add_task 100 kB in 1,000 parts",
)
_SIZES = {MEDIUM: 900, LARGE: 100_000, PARTS: 100_000}  # bytes of a body


def all_calls() -> list[Call]:
    """The calls of the table."""
    return [
        make(protocol, name)
        for protocol in ("xmlrpc", "luigi")
        for name in (PING, MEDIUM, LARGE, PARTS)
    ]


def make(protocol: str, name: str) -> Call:
    """One call by its name."""
    method = "ping" if name == PING else "add_task"
    args: dict[str, Any] = {"worker": WORKER} if name == PING else task()
    encode = xml_body if protocol == "xmlrpc" else form_body
    size = _SIZES.get(name, 0)
    if name == PARTS:
        one, two = (
            len(encode(method, task(deps=[_task_id(number) for number in range(count)])))
            for count in (1, 2)
        )
        args["deps"] = [_task_id(number) for number in range((size - one) // (two - one))]
    if name == LARGE:
        one, two = (len(encode(method, _with_files(count))) for count in (1, 2))
        args = _with_files((size - one) // (two - one))
    if size:
        args["params"]["note"] = ""
        args["params"]["note"] = "x" * max(0, size - len(encode(method, args)))
    body = encode(method, args)
    if protocol == "xmlrpc":
        return Call(
            protocol, name, "/rpc/RPC2", "text/xml", body, ("/rpc/RPC2", xml_body("shutdown", {}))
        )
    return Call(
        protocol,
        name,
        f"/api/{method}",
        "application/x-www-form-urlencoded",
        body,
        ("/api/pause", form_body("pause", {})),
    )


def _with_files(count: int) -> dict[str, Any]:
    args = task()
    args["params"]["files"] = json.dumps(
        [
            f"s3://warehouse/raw/orders/2024/05/17/part-{number:05d}.parquet"
            for number in range(count)
        ]
    )
    return args


def task(
    *, deps: list[str] | None = None, number: int = 0, status: str = "PENDING", worker: str = WORKER
) -> dict[str, Any]:
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


def worker_name(number: int) -> str:
    """A stock worker's id."""
    return f"Worker(salt=81234{number:05d}, workers=1, host=etl-node-{number:02d}, username=etl, pid={41000 + number})"


def cycle(worker: str, number: int) -> list[tuple[str, bytes]]:
    """What a worker sends for one task: announce it, ask for work, stay alive, report it done."""
    ping = ("ping", form_body("ping", {"worker": worker}))
    work = {"worker": worker, "host": "etl-node", "assistant": False, "current_tasks": []}
    return [
        ("add_task", form_body("add_task", task(number=number, worker=worker))),
        ("get_work", form_body("get_work", work)),
        *[ping] * 4,
        ("add_task", form_body("add_task", task(number=number, worker=worker, status="DONE"))),
    ]


def _task_id(number: int) -> str:
    # The digest is luigi's own (the end of a task id), not a safeguard.
    return f"etl.LoadOrders_2024_05_17_{number:06d}_{hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:10]}"
