"""luigid through ``/RPC2``: every method of the catalog, from a stock XML-RPC client, answers as
the JSON API answers.
"""

import re
import xmlrpc.client
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog.loading import load_catalog
from tests.support.stage import POLICIES, Gate, Luigid

CATALOG = load_catalog(POLICIES / "catalogs" / "luigi.toml")
DONE, FAILED, RUNNING, DISABLED = (f"Door_{number}_0123456789" for number in range(4))
BIG = 2**40

# Who may call, and the arguments in the catalog's order; None stands for null.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "task_list": (
        "viewer",
        {
            "status": "DONE",
            "upstream_status": "",
            "limit": True,
            "search": None,
            "max_shown_tasks": 100,
        },
    ),
    "task_search": ("viewer", {"task_str": "Door"}),
    "graph": ("viewer", {}),
    "dep_graph": ("viewer", {"task_id": DONE, "include_done": True}),
    "inverse_dep_graph": ("viewer", {"task_id": DONE, "include_done": False}),
    "worker_list": ("viewer", {"include_running": True}),
    "resource_list": ("viewer", {}),
    "fetch_error": ("viewer", {"task_id": FAILED}),
    "get_task_status_message": ("viewer", {"task_id": RUNNING}),
    "get_task_progress_percentage": ("viewer", {"task_id": RUNNING}),
    "get_running_task_resources": ("viewer", {"task_id": RUNNING}),
    "has_task_history": ("viewer", {}),
    "is_pause_enabled": ("viewer", {}),
    "is_paused": ("viewer", {}),
    "add_task": (
        "worker",
        {
            "task_id": "New_é (1)",
            "status": "PENDING",
            "runnable": True,
            "deps": [DONE],
            "new_deps": None,
            "expl": "because ]]> & <this>",
            "resources": {"database": 0.5},
            "priority": BIG,
            "family": "New",
            "module": None,
            "params": {"day": "2024-01-01", "text": "é \U0001f600 \t"},
            "param_visibilities": {"day": 0, "text": 2},
            "accepts_messages": False,
            "assistant": False,
            "tracking_url": "https://tracker.example/?a=1&b=2",
            "worker": "door",
            "batchable": None,
            "batch_id": None,
            "retry_policy_dict": {
                "retry_count": BIG,
                "disable_hard_timeout": None,
                "disable_window": 60,
            },
            "owners": ["a@example.com"],
        },
    ),
    "add_task_batcher": (
        "worker",
        {"worker": "door", "task_family": "New", "batched_args": ["day"], "max_batch_size": 5},
    ),
    "add_worker": ("worker", {"worker": "door", "info": [["workers", 2], ["host", "h"]]}),
    "get_work": (
        "worker",
        {"host": "h", "assistant": False, "current_tasks": None, "worker": "idle"},
    ),
    "count_pending": ("worker", {"worker": "door"}),
    "ping": ("worker", {"worker": "door"}),
    "announce_scheduling_failure": (
        "worker",
        {
            "task_name": "New()",
            "family": "New",
            "params": {"day": "x"},
            "expl": "why",
            "owners": None,
            "worker": "door",
        },
    ),
    "set_task_status_message": ("worker", {"task_id": RUNNING, "status_message": "half\nway"}),
    "set_task_progress_percentage": ("worker", {"task_id": RUNNING, "progress_percentage": 12.5}),
    "decrease_running_task_resources": (
        "worker",
        {"task_id": RUNNING, "decrease_resources": {"database": 0}},
    ),
    "report_task_statistics": (
        "worker",
        {"task_id": RUNNING, "statistics": {"a": [1, None, {"b": True}]}},
    ),
    "add_scheduler_message_response": (
        "worker",
        {"task_id": RUNNING, "message_id": "m", "response": None},
    ),
    "forgive_failures": ("operator", {"task_id": FAILED}),
    "re_enable_task": ("operator", {"task_id": DONE}),
    "mark_as_done": ("operator", {"task_id": DISABLED}),
    "pause": ("admin", {}),
    "unpause": ("admin", {}),
    "disable_worker": ("admin", {"worker": "nobody"}),
    "set_worker_processes": ("admin", {"worker": "nobody", "n": 3}),
    "send_scheduler_message": (
        "admin",
        {"worker": "nobody", "task": RUNNING, "content": {"stop": True}},
    ),
    "get_scheduler_message_response": ("admin", {"task_id": RUNNING, "message_id": "none"}),
    "update_resource": ("admin", {"resource": "database", "amount": 7}),
    "update_resources": ("admin", {"database": 8, "network": 9}),
    "prune": ("admin", {}),
    "update_metrics_task_started": ("admin", {"task": None}),
}


@pytest.fixture(scope="module", autouse=True)
def _tasks(guarded: Luigid) -> None:
    """A task of each kind."""
    for task_id, status in (
        (DONE, "DONE"),
        (FAILED, "FAILED"),
        (RUNNING, "PENDING"),
        (DISABLED, "DISABLED"),
    ):
        task: dict[str, Any] = {
            "task_id": task_id,
            "family": "Door",
            "worker": "w",
            "params": {"n": "1"},
            "resources": {"database": 1},
        }
        assert guarded.call("add_task", **task, status=status, expl="why").status == 200
    assert guarded.call("get_work", worker="w").result["task_id"] == RUNNING


def client(gate: Gate, who: str, path: str = "/RPC2") -> xmlrpc.client.ServerProxy:
    """A stock client with the token as the password in its URL."""
    return xmlrpc.client.ServerProxy(
        gate.url(path, gate.token(who)), allow_none=True, context=gate.context
    )


def ask(gate: Gate, who: str, method: str, *params: Any) -> Any:
    """One call, at the root or under the prefix."""
    with client(gate, who) as server:
        # whatever its name, the client's own attributes included
        return server.__getattr__(method)(*params)


def small(value: Any) -> Any:
    """The value with integers that Python's own client can send: it refuses those over 32 bits,
    though it reads them.
    """
    if isinstance(value, dict):
        return {key: small(item) for key, item in value.items()}
    return 7 if value == BIG else value


def steady(value: Any) -> Any:
    """An answer without what differs from call to call: times, and the ids of messages."""
    if isinstance(value, dict):
        moving = ("message_id", "last_active", "last_updated", "start_time", "time_running")
        return {
            key: "…" if key in moving and item is not None else steady(item)
            for key, item in value.items()
        }
    return [steady(item) for item in value] if isinstance(value, list) else value


def test_the_table_has_every_method() -> None:
    """All 39 methods of luigid 3.8.1, their arguments in the catalog's order."""
    methods = {
        name: method for name, method in CATALOG.methods.items() if not name.startswith("page.")
    }
    assert CALLS.keys() == methods.keys()
    assert len(CALLS) == 39
    for name, (_, args) in CALLS.items():
        if name != "update_resources":
            assert list(args) == [argument.name for argument in methods[name].arguments], name


@pytest.mark.parametrize(
    "method", [name for name in CALLS if name != "update_metrics_task_started"]
)
def test_each_method_by_position_and_by_name(gate: Gate, guarded: Luigid, method: str) -> None:
    """Three ways to say one call: by position, by one struct, and as JSON: one answer, and one call
    in the journal.
    """
    who, args = CALLS[method]
    args = small(args)
    by_json = gate.call(method, gate.token(who), **args).result
    by_name = ask(gate, who, method, args)
    assert steady(by_name) == steady(by_json)
    recorded = gate.recorded(stage="decided", method=method)["args"]
    withheld = [argument.name for argument in CATALOG.methods[method].arguments if argument.secret]
    assert {k: v for k, v in recorded.items() if k not in ("params", *withheld)} == {
        k: v for k, v in args.items() if k not in ("params", *withheld)
    }
    if method != "update_resources":  # its arguments are names, and names have no position
        before = len(gate.records())
        by_position = ask(gate, who, method, *args.values())
        assert steady(by_position) == steady(by_json)
        again = [
            r for r in gate.records()[before:] if r["stage"] == "decided" and r["method"] == method
        ]
        # a ping may ride in a window that is open
        assert [r["args"] for r in again] in ([recorded], [])
        assert again or CATALOG.methods[method].heartbeat
    assert guarded.process.running


def test_the_effects_are_luigids_own(gate: Gate, guarded: Luigid) -> None:
    """What was called through this door has happened at luigid: a task with all its parts, under
    the caller's own worker.
    """
    _, args = CALLS["add_task"]
    ask(gate, "worker", "add_task", small({**args, "task_id": "Effect_1", "family": "Effect"}))
    task = guarded.tasks()["Effect_1"]
    assert (task["name"], task["priority"], task["resources"]) == ("Effect", 7, {"database": 0.5})
    assert task["workers"] == ["door [local:worker]"]
    assert guarded.call("fetch_error", task_id="Effect_1").result["taskParams"] == args["params"]
    ask(gate, "admin", "pause")
    assert guarded.paused
    ask(gate, "admin", "unpause", {})
    assert not guarded.paused


def test_a_left_out_argument_takes_luigids_default(gate: Gate) -> None:
    """By position from the front, by name any: luigid knows its own defaults."""
    everything = gate.call("task_list", gate.token("viewer")).result
    assert everything
    for params in ((), ("",), ("", ""), ({},), ({"status": ""},), ({"limit": False},)):
        assert steady(ask(gate, "viewer", "task_list", *params)) == steady(everything)


def test_integers_beyond_32_bits_go_both_ways(gate: Gate, guarded: Luigid) -> None:
    """``i8`` in the call and in the answer, which Python's own client reads."""
    body = (
        "<?xml version='1.0'?><methodCall><methodName>update_resource</methodName><params>"
        f"<param><value><string>huge</string></value></param><param><value><i8>{BIG}</i8></value></param></params></methodCall>"
    ).encode()
    answer = gate.send("POST", "/RPC2", body, {"Content-Type": "text/xml"}, gate.token("admin"))
    assert xmlrpc.client.loads(answer.body) == ((True,), None)
    [huge] = [
        resource for resource in guarded.call("resource_list").result if resource["name"] == "huge"
    ]
    assert huge["num_total"] == BIG
    assert huge in ask(gate, "viewer", "resource_list")


def test_the_answer_keeps_nulls_and_floats(gate: Gate, guarded: Luigid) -> None:
    """A null is a nil and a time keeps its last digit."""
    task = ask(gate, "viewer", "task_list", "DONE", "")[DONE]
    assert task == guarded.tasks()[DONE]
    assert task["tracking_url"] is None
    assert isinstance(task["last_updated"], float)


def test_a_large_answer_is_whole(gate: Gate, guarded: Luigid) -> None:
    """More than one buffer's worth is transcoded in parts and is the same in the end."""
    for number in range(20):
        params = {"number": str(number), "text": f"é<&>{number}" * 1000}
        assert (
            guarded.call(
                "add_task", task_id=f"Many_{number}", family="Many", worker="w", params=params
            ).status
            == 200
        )
    direct = guarded.call("task_search", task_str="Many_").result
    assert len(repr(direct)) > 65_536
    assert ask(gate, "viewer", "task_search", "Many_") == direct


def refused(gate: Gate, who: str, method: str, *params: Any) -> xmlrpc.client.Fault:
    """The fault that a call ends in."""
    with pytest.raises(xmlrpc.client.Fault) as fault:
        ask(gate, who, method, *params)
    return fault.value


def test_denials_are_faults_with_the_same_line(gate: Gate, guarded: Luigid) -> None:
    """Who may not do what, in the fault's text; and nothing has happened."""
    fault = refused(gate, "viewer", "pause")
    assert fault.faultCode == 403
    found = re.fullmatch(
        r"callgate: viewer \(viewer\) may not pause luigi \[no-policy-allows, ref ([A-Z0-9]+)\]",
        fault.faultString,
    )
    assert found is not None
    assert gate.record(found[1], "decided")["reason"] == "no-policy-allows"
    assert not guarded.paused


@pytest.mark.parametrize(
    ("who", "method", "params", "code", "reason"),
    [
        ("admin", "update_metrics_task_started", (DONE,), 403, "policy-forbids"),
        ("admin", "page.root", (), 403, "unknown-method"),
        ("admin", "no_such_method", (1, "x"), 403, "unknown-method"),
        ("admin", "__init__", (), 403, "unknown-method"),
        ("viewer", "dep_graph", (), -32602, "bad-arguments"),
        ("viewer", "dep_graph", (5,), -32602, "bad-arguments"),
        ("viewer", "dep_graph", (DONE, True, "one too many"), -32602, "bad-arguments"),
        ("viewer", "dep_graph", ({"task_id": DONE}, True), -32602, "bad-arguments"),
        (
            "worker",
            "add_task",
            ({"task_id": "X_1", "worker": "w", "priority": "abc"},),
            -32602,
            "bad-arguments",
        ),
        (
            "worker",
            "add_task",
            ({"task_id": "X_1", "worker": "w [local:admin]"},),
            403,
            "not-your-worker",
        ),
        ("admin", "update_resource", ("r", xmlrpc.client.Binary(b"1")), -32602, "bad-arguments"),
        (
            "admin",
            "update_resource",
            ("r", xmlrpc.client.DateTime("20240101T00:00:00")),
            -32602,
            "bad-arguments",
        ),
    ],
)
def test_what_the_json_api_refuses_is_refused_here(
    gate: Gate, who: str, method: str, params: tuple[Any, ...], code: int, reason: str
) -> None:
    """One reading, one check, one policy behind both doors."""
    fault = refused(gate, who, method, *params)
    assert (fault.faultCode, f"[{reason}, ref " in fault.faultString) == (code, True), fault


def test_a_denied_get_work_is_luigids_own_answer(gate: Gate) -> None:
    """Here too: a worker of another language ends in order."""
    answer = ask(gate, "viewer", "get_work", {"worker": "w"})
    assert (answer["worker_state"], answer["task_id"], answer["running_tasks"]) == (
        "disabled",
        None,
        [],
    )


def test_a_caller_without_a_role_gets_a_fault_whatever_it_asks(gate: Gate) -> None:
    """The method is in the body, which is not read: a get_work is a fault too."""
    with pytest.raises(xmlrpc.client.Fault) as error:
        ask(gate, "stranger", "get_work", {"worker": "w"})
    assert (error.value.faultCode, "[no-role, ref " in error.value.faultString) == (403, True)
    assert gate.recorded(stage="rejected", reason="no-role")["principal"]["subject"] == "stranger"


def test_a_worker_of_another_language(gate: Gate, guarded: Luigid) -> None:
    """Register, ask, run, report: the whole life of a task over XML-RPC, the worker's id marked as
    over JSON.
    """
    with client(gate, "worker") as server:
        server.add_worker("foreign", {"host": "cobol"})
        server.add_task(
            {
                "task_id": "Foreign_1",
                "family": "Foreign",
                "worker": "foreign",
                "params": {},
                "resources": {},
            }
        )
        work = server.get_work({"worker": "foreign", "host": "cobol", "current_tasks": []})
        assert isinstance(work, dict)
        assert work["task_id"] == "Foreign_1"
        again: Any = server.get_work({"worker": "foreign", "current_tasks": ["Foreign_1"]})
        assert again["task_id"] is None
        assert [task["worker"] for task in again["running_tasks"]] in (["foreign"], [])
        server.ping({"worker": "foreign"})
        server.add_task({"task_id": "Foreign_1", "worker": "foreign", "status": "DONE"})
    task = guarded.tasks()["Foreign_1"]
    assert (task["status"], task["worker_running"]) == ("DONE", "foreign [local:worker]")


def test_without_a_token_there_is_no_door(gate: Gate, tmp_path: Path) -> None:
    """A missing or wrong credential is HTTP's own 401, which every client shows."""
    for url in (gate.url("/RPC2"), gate.url("/RPC2", "nonsense")):
        with (
            xmlrpc.client.ServerProxy(url, context=gate.context) as server,
            pytest.raises(xmlrpc.client.ProtocolError) as error,
        ):
            server.task_list()
        assert error.value.errcode == 401
        assert error.value.errmsg.startswith("callgate: ")


def test_the_door_stands_under_a_prefix_too(gate: Gate) -> None:
    """https://gate/team-a/RPC2 is luigid's as well, with and without a final slash."""
    for path in ("/team-a/RPC2", "/team-a/RPC2/", "/RPC2/"):
        with client(gate, "viewer", path) as server:
            assert server.is_paused() == {"paused": False}
