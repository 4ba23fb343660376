"""What gets past a naive filter before luigid does not get past the gate.

Each test shows the attack on a luigid directly first: without that half, a test could pass because
the attack is none.
"""

import gzip
import hashlib
import importlib
import json
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

import pytest

from proxy.audit.writing.keys import load_hmac_key
from proxy.model import Principal
from proxy.protocol.luigi.batch_ids import BatchIdSigner, derive_batch_key
from tests.support.stage import (
    FORM,
    Client,
    Gate,
    Luigid,
    Response,
    Worker,
    basic,
    until,
    write_netrc,
)

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*Autoloading range tasks:DeprecationWarning")

MINE, PROD = "Mine_a_1_0123456789", "Prod_a_1_0123456789"


def data(task_id: str) -> str:
    """One form field that names a task."""
    return urlencode({"data": json.dumps({"task_id": task_id})})


@pytest.fixture
def target(guarded: Luigid) -> Iterator[Luigid]:
    """The luigid behind the gate with two failed tasks, and work being handed out."""
    for task_id in (MINE, PROD):
        guarded.call(
            "add_task",
            task_id=task_id,
            family=task_id.partition("_")[0],
            worker="honest",
            status="FAILED",
            expl="why",
        )
    guarded.call("unpause")
    yield guarded
    guarded.call("unpause")


def forgiven(luigid: Luigid) -> str | None:
    """Which of the two failed tasks luigid has been made to run again, and makes it failed again."""
    tasks = luigid.tasks()
    changed = [task_id for task_id in (MINE, PROD) if tasks[task_id]["status"] != "FAILED"]
    for task_id in changed:
        luigid.call("add_task", task_id=task_id, worker="honest", status="FAILED")
    assert len(changed) < 2
    return changed[0] if changed else None


# -- ways past a filter that reads a request otherwise than luigid, one by one


def test_row_1_a_get_acts(target: Luigid, gate: Gate) -> None:
    """What is "read-only" is no matter of the HTTP method: luigid pauses on a GET, the gate asks
    who may pause.
    """
    assert target.get("/api/pause").status == 200
    assert target.paused
    target.call("unpause")
    gate.denied(gate.get("/api/pause", gate.token("viewer")), "no-policy-allows", "viewer", "pause")
    assert not target.paused


@pytest.mark.parametrize("path", ["/api/%70ause", "/api/pa%75se"])
def test_row_2_an_encoded_path(target: Luigid, gate: Gate, path: str) -> None:
    """luigid decodes the method's name; the gate reads one spelling and refuses others, even of who
    may pause.
    """
    assert target.get(path).status == 200
    assert target.paused
    target.call("unpause")
    for who in ("viewer", "admin"):
        gate.rejected(gate.get(path, gate.token(who)), "malformed-call", who)
    assert not target.paused


def test_row_3_a_path_encoded_twice(target: Luigid, gate: Gate) -> None:
    """A filter that decodes once and forwards what it decoded hands luigid a path that it decodes
    again.
    """
    assert target.get(unquote("/api/%2570ause")).status == 200
    assert target.paused
    target.call("unpause")
    gate.rejected(gate.get("/api/%2570ause", gate.token("admin")), "malformed-call", "admin")
    assert not target.paused


ROWS = [
    pytest.param(
        "GET",
        f"?{data(MINE)}&{data(PROD)}",
        None,
        {},
        "ambiguous-call",
        id="row-4-two-in-the-query",
    ),
    pytest.param(
        "POST",
        "",
        f"{data(MINE)}&{data(PROD)}",
        {"Content-Type": FORM},
        "ambiguous-call",
        id="row-5-two-in-the-body",
    ),
    pytest.param(
        "GET",
        f"?{data(MINE)}",
        data(PROD),
        {"Content-Type": FORM},
        "ambiguous-call",
        id="row-6-a-GET-with-a-body",
    ),
    pytest.param(
        "POST",
        f"?{data(MINE)}",
        data(PROD),
        {"Content-Type": FORM + "X"},
        "malformed-call",
        id="row-7-nearly-a-form",
    ),
    pytest.param(
        "POST",
        f"?{data(PROD)}",
        data(MINE),
        {"Content-Type": FORM.replace("a", "A", 1)},
        "ambiguous-call",
        id="row-8-a-form-in-capitals",
    ),
    pytest.param(
        "POST",
        f"?{data(MINE)}",
        data(PROD),
        {"Content-Type": f"{FORM}; charset=utf-16-le"},
        "malformed-call",
        id="row-9-a-form-in-another-charset",
    ),
    pytest.param(
        "POST",
        "",
        "".join(
            f'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n{{"task_id": "{task}"}}\r\n'
            for task in (MINE, PROD)
        )
        + "--b--\r\n",
        {"Content-Type": "multipart/form-data; boundary=b"},
        "malformed-call",
        id="row-10-two-parts",
    ),
    pytest.param(
        "GET",
        "?data=%01" + quote(json.dumps({"task_id": PROD})),
        None,
        {},
        "malformed-call",
        id="row-11-a-control-character",
    ),
    pytest.param(
        "GET",
        "?%64ata=" + quote(json.dumps({"task_id": PROD})),
        None,
        {},
        "malformed-call",
        id="an-encoded-name",
    ),
    pytest.param(
        "GET",
        "?data=" + quote(f'{{"task_id": "{MINE}", "task_id": "{PROD}"}}'),
        None,
        {},
        "ambiguous-call",
        id="a-key-that-stands-twice",
    ),
    pytest.param(
        "GET",
        "?data=" + quote(f'{{"task_id": "{MINE}", "\\u0074ask_id": "{PROD}"}}'),
        None,
        {},
        "ambiguous-call",
        id="a-key-in-two-spellings",
    ),
]


@pytest.mark.parametrize(("verb", "query", "body", "headers", "reason"), ROWS)
def test_rows_4_to_11_two_readings(
    target: Luigid,
    gate: Gate,
    verb: str,
    query: str,
    body: str | None,
    headers: dict[str, str],
    reason: str,
) -> None:
    """luigid acts on the production task though another reading names the caller's own; the gate
    acts on neither.
    """
    raw = None if body is None else body.encode()
    assert target.send(verb, f"/api/forgive_failures{query}", raw, headers).status == 200
    assert forgiven(target) == PROD
    answer = gate.send(verb, f"/api/forgive_failures{query}", raw, headers, gate.token("operator"))
    assert answer.status == 400
    gate.rejected(answer, reason, "operator")
    assert forgiven(target) is None


def test_row_12_a_compressed_form(target: Luigid, gate: Gate) -> None:
    """A Tornado of old acts on the query when the body is compressed, one of today refuses; the
    gate refuses on its own.
    """
    body, headers = (
        gzip.compress(data(MINE).encode()),
        {"Content-Type": FORM, "Content-Encoding": "gzip"},
    )
    answer = target.send("POST", f"/api/forgive_failures?{data(PROD)}", body, headers)
    assert (answer.status, forgiven(target)) in ((200, PROD), (400, None))
    for query in ("", f"?{data(PROD)}"):
        refused = gate.send(
            "POST", f"/api/forgive_failures{query}", body, headers, gate.token("operator")
        )
        gate.rejected(refused, "ambiguous-call", "operator")
    assert forgiven(target) is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/%61pi/pause", "not-found"),
        ("/x/..//api/pause", "not-found"),
        ("/x/../api/pause", "not-found"),
        ("/api/x/../pause", "not-found"),
    ],
)
def test_row_13_paths_that_a_proxy_would_mend(
    target: Luigid, gate: Gate, path: str, reason: str
) -> None:
    """nginx decodes and normalises a path before it forwards it; the gate mends nothing, with a
    prefix or without.
    """
    mended = posixpath.normpath(unquote(path))
    assert target.get(mended).status == 200
    assert target.paused
    target.call("unpause")
    for prefix in ("", "/team-a"):
        answer = gate.get(prefix + path, gate.token("admin"))
        assert answer.status == 404
        assert answer.headers["content-type"].partition(";")[0] == "application/json"
        ref = answer.reason.rpartition("ref ")[2].rstrip("]")
        assert gate.record(ref, "rejected")["reason"] == reason
    assert not target.paused


@pytest.mark.parametrize(
    "path",
    [
        "/history/by_name/Secretive",
        "/history/by_task_id/Secretive_1",
        "/history",
        "/tasklist",
        "/metrics",
        "/",
    ],
)
def test_row_14_pages_are_calls_too(target: Luigid, gate: Gate, path: str) -> None:
    """A filter that looks at /api alone shows everybody the history with its private parameters."""
    target.call(
        "add_task",
        task_id="Secretive_1",
        family="Secretive",
        worker="honest",
        status="RUNNING",
        params={"password": "hunter2"},
        param_visibilities={"password": 2},
    )
    direct = target.get(path)
    assert direct.status in (200, 302)
    if path.startswith("/history"):
        assert b"hunter2" in direct.body
    nobody = gate.get(path)
    assert (nobody.status, nobody.headers["www-authenticate"]) == (401, 'Basic realm="callgate"')
    gate.rejected(nobody, "no-credential", None)
    for who, reason in (("stranger", "no-role"), ("worker", "no-policy-allows")):
        answer = gate.get(path, gate.token(who, who if who == "worker" else "nothing"))
        assert (answer.status, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
        assert b"hunter2" not in answer.body
        stage = "rejected" if reason == "no-role" else "decided"
        assert gate.record(answer.ref, stage)["reason"] == reason
    allowed = gate.get(path, gate.token("viewer"))
    assert allowed.status == direct.status
    record = gate.recorded(
        stage="decided",
        method={"": "page.root"}.get(path.strip("/"), f"page.{path.split('/')[1]}"),
        decision="allow",
    )
    assert (record["permission"], record["args"]["path"]) == ("view", path)


@pytest.mark.parametrize(
    ("verb", "headers"),
    [
        (
            "GET",
            {
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "no-cors",
                "Sec-Fetch-Dest": "image",
            },
        ),
        (
            "GET",
            {
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
        ),
        (
            "GET",
            {
                "Sec-Fetch-Site": "same-origin",
                "Sec-Fetch-Mode": "no-cors",
                "Sec-Fetch-Dest": "image",
            },
        ),
        ("POST", {"Origin": "https://evil.example", "Content-Type": FORM}),
        ("POST", {"Origin": "null", "Content-Type": "text/plain"}),
    ],
)
def test_row_15_calls_that_another_page_causes(
    target: Luigid, gate: Gate, verb: str, headers: dict[str, str]
) -> None:
    """A page with an image of /api/pause pauses luigid; the browser of an admin, who has once typed
    the token, pauses nothing.
    """
    assert target.send(verb, "/api/pause", None, headers).status == 200
    assert target.paused
    target.call("unpause")
    answer = gate.send(
        verb, "/api/pause", None, {**headers, "Authorization": basic(gate.token("admin"))}
    )
    assert answer.status == 403
    gate.rejected(answer, "cross-site", "admin")
    assert not target.paused
    preflight = gate.send(
        "OPTIONS",
        "/api/pause",
        None,
        {**headers, "Access-Control-Request-Method": "POST"},
        gate.token("admin"),
    )
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


# -- whoever states another's worker id makes that worker import and run a module


def planted_task(worker: str) -> dict[str, Any]:
    """The attacker's call."""
    return {
        "task_id": "Planted__99914b932b",
        "family": "Planted",
        "module": "planted",
        "params": {},
        "worker": worker,
        "priority": 9999,
    }


def hold(directory: Path) -> list[str]:
    """The command line of the honest worker's one task."""
    return ["--module", "victim", "Hold", "--directory", str(directory)]


def workers_of(answer: Response) -> list[str]:
    """The ids that the dashboard shows of workers that run something."""
    return [worker["name"] for worker in answer.result if worker["running"]]


def test_spoofed_worker_runs_the_attackers_module_without_the_gate(
    bare: Luigid, tmp_path: Path
) -> None:
    """The attack: look up a busy worker's id, add a task in its name, and it imports and runs that
    module.
    """
    worker = Worker(tmp_path / "victim", bare.url, hold(tmp_path))
    [victim] = until(lambda: workers_of(bare.call("worker_list")), "the victim runs its task")
    assert bare.call("add_task", **planted_task(victim)).status == 200
    (tmp_path / "go").touch()
    assert worker.wait() == 0
    assert (tmp_path / "victim" / "planted").read_text() == f"run by {worker.pid}"


def test_spoofed_worker_does_nothing_through_the_gate(
    gate: Gate, guarded: Luigid, tmp_path: Path
) -> None:
    """The id as the victim states it becomes another worker, the attacker's own; the id as the
    dashboard shows it is refused.
    """
    netrc = write_netrc(tmp_path / "netrc", gate.token("etl-1", "worker"))
    worker = Worker(tmp_path / "victim", gate.url(), hold(tmp_path), ca=gate.ca, netrc=netrc)
    mallory = gate.token("mallory", "worker")

    def busy() -> list[str]:
        return [
            name
            for name in workers_of(gate.call("worker_list", gate.token("viewer")))
            if name.endswith(" [local:etl-1]")
        ]

    [shown] = until(busy, "the victim runs its task, and the dashboard shows whose worker it is")
    stated = shown.removesuffix(" [local:etl-1]")
    gate.rejected(
        gate.call("add_task", mallory, **planted_task(shown)), "not-your-worker", "mallory"
    )
    for spelling in (shown + " [local:mallory]", stated + " [local:someone]"):
        gate.rejected(
            gate.call("add_task", mallory, **planted_task(spelling)), "not-your-worker", "mallory"
        )
    assert gate.call("add_task", mallory, **planted_task(stated)).status == 200
    for spelling in (stated + " [local:etl-1] ", stated + "  [local:etl-1"):
        answer = gate.call(
            "add_task", mallory, **{**planted_task(spelling), "task_id": "Planted__another"}
        )
        gate.rejected(answer, "not-your-worker", "mallory")
    assert guarded.tasks()["Planted__99914b932b"]["workers"] == [stated + " [local:mallory]"]
    (tmp_path / "go").touch()
    assert worker.wait() == 0
    assert not (tmp_path / "victim" / "planted").exists()
    assert worker.summary() == {"scheduled": 1, "ran successfully": 1}
    assert guarded.status("Planted__99914b932b") == "PENDING"
    record = gate.recorded(stage="decided", method="add_task", task="Planted__99914b932b")
    assert (record["principal"]["subject"], record["args"]["worker"], record["args"]["module"]) == (
        "mallory",
        stated,
        "planted",
    )


def test_mallory_cannot_take_a_workers_messages_or_work(gate: Gate, guarded: Luigid) -> None:
    """A ping drains a worker's messages and a get_work takes its tasks: through the gate each
    caller has its own.
    """
    own, mallory, admin = (
        gate.token("etl-2", "worker"),
        gate.token("mallory", "worker"),
        gate.token("admin"),
    )
    assert gate.call("add_task", own, task_id="Own_1", family="Own", worker="w2").result is None
    assert gate.call("set_worker_processes", admin, worker="w2 [local:etl-2]", n=3).result is None
    assert gate.call("ping", mallory, worker="w2").result == {"rpc_messages": []}
    assert gate.call("get_work", mallory, worker="w2").result["task_id"] is None
    assert gate.call("ping", own, worker="w2").result["rpc_messages"] == [
        {"name": "set_worker_processes", "kwargs": {"n": 3}}
    ]
    assert gate.call("get_work", own, worker="w2").result["task_id"] == "Own_1"
    guarded.call("add_task", task_id="Own_1", worker="w2 [local:etl-2]", status="DONE")


# -- the same end by another way: whoever announces a task first says which module its batch is
# loaded from


def plant_on_batches(client: Client, token: str | None, run: str, output: Path) -> None:
    """The attacker announces tomorrow's tasks of the victim's pipeline under its own worker id, and
    a module of its choice.
    """
    make_id: Callable[[str, dict[str, str]], str] = importlib.import_module(
        "luigi.task"
    ).task_id_str
    for day in range(1, 4):
        params = {"run_name": run, "day": f"2024-02-0{day}"}
        task: dict[str, Any] = {
            "task_id": make_id("Batched", params),
            "family": "Batched",
            "module": "planted",
            "worker": "mallory",
        }
        task["params"] = {**params, "directory": str(output)}
        assert client.call("add_task", token, **task, batchable=True, runnable=False).status == 200


def days(output: Path, run: str) -> list[str]:
    """The command line of the victim's batch."""
    output.mkdir()
    return ["--module", "graph", "Days", "--run-name", run, "--directory", str(output)]


def test_module_planted_on_a_batch_is_imported_without_the_gate(
    bare: Luigid, tmp_path: Path
) -> None:
    """No foreign worker id is needed: luigid keeps the first module it heard of, and the victim
    imports it for its own batch.
    """
    plant_on_batches(bare, None, "planted", tmp_path / "out")
    worker = Worker(tmp_path / "victim", bare.url, days(tmp_path / "out", "planted"))
    assert worker.wait() == 0
    assert (tmp_path / "victim" / "planted").read_text() == f"imported by {worker.pid}"


def test_module_planted_on_a_batch_is_not_imported_through_the_gate(
    gate: Gate, tmp_path: Path
) -> None:
    """A worker that is no assistant has loaded what it announced, so the gate names it no module;
    its batch runs as ever.
    """
    plant_on_batches(gate, gate.token("mallory", "worker"), "planted", tmp_path / "out")
    netrc = write_netrc(tmp_path / "netrc", gate.token("etl-3", "worker"))
    worker = Worker(
        tmp_path / "victim", gate.url(), days(tmp_path / "out", "planted"), ca=gate.ca, netrc=netrc
    )
    assert worker.wait() == 0
    assert not (tmp_path / "victim" / "planted").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[:3] == [
        f"Batched-2024-02-0{day}" for day in range(1, 4)
    ]


def test_an_assistant_is_told_the_module(gate: Gate, guarded: Luigid) -> None:
    """Whoever holds that role runs tasks it has never seen, and has to import them."""
    assert (
        gate.call(
            "add_task",
            gate.token("worker"),
            task_id="Any_1",
            family="Any",
            module="any.module",
            worker="w",
        ).status
        == 200
    )
    asked = {"worker": "helper", "assistant": True, "current_tasks": []}
    assert gate.call("get_work", gate.token("worker"), **asked).result["worker_state"] == "disabled"
    assistant = gate.token("helper", "worker", "assistant")
    work = gate.call("get_work", assistant, **asked).result
    while work["task_id"] not in ("Any_1", None):
        work = gate.call("get_work", assistant, **{**asked, "current_tasks": None}).result
    assert (work["task_id"], work["task_module"]) == ("Any_1", "any.module")
    guarded.call("add_task", task_id="Any_1", worker="helper [local:helper]", status="DONE")


# -- what bounds a worker is a scope of families, and luigid knows other ways to a task than its
# name


SCOPE = """
@id("etl-workers-tasks")
permit (principal in Role::"etl-worker", action in Action::"work", resource)
when {
  context has task
  && (context.task like "etl.*" || context.task like "Days_*" || context.task like "Batched*")
};
@id("etl-workers-alive")
permit (
  principal in Role::"etl-worker",
  action in [Action::"ping", Action::"get_work", Action::"add_worker", Action::"count_pending"],
  resource
);
"""
ETL_WORKERS = """
[[roles.etl-worker]]
issuer = "local"
group = "etl-worker"
"""
ETL: dict[str, Any] = {"worker": "etl", "task_id": "etl.A_1", "family": "etl.A"}


@pytest.fixture(scope="module")
def scoped(tmp_path_factory: pytest.TempPathFactory, guarded: Luigid) -> Iterator[Gate]:
    """A gate with the scope that the shipped policies describe, before `guarded`."""
    gate = Gate(tmp_path_factory.mktemp("scoped"), {"/": guarded}, cedar=SCOPE, roles=ETL_WORKERS)
    yield gate
    gate.stop()


def start_batch(client: Client, token: str | None, family: str) -> dict[str, Any]:
    """The answer to the get_work with which production starts a batch of three."""
    for number in range(3):
        task: dict[str, Any] = {
            "task_id": f"{family}_{number}",
            "family": family,
            "params": {"d": str(number)},
            "batchable": True,
        }
        assert client.call("add_task", token, worker="prod", **task).status == 200
    assert (
        client.call(
            "add_task_batcher", token, worker="prod", task_family=family, batched_args=["d"]
        ).status
        == 200
    )
    batch: dict[str, Any] = client.call("get_work", token, worker="prod", current_tasks=[]).result
    assert sorted(batch["batch_task_ids"]) == [f"{family}_{number}" for number in range(3)]
    return batch


def digest_of(batch: dict[str, Any]) -> str:
    """The batch id as anybody can compute it from the tasks' ids, in the order in which luigid took
    them.
    """
    return hashlib.md5(
        "|".join(batch["batch_task_ids"]).encode(), usedforsecurity=False
    ).hexdigest()


def test_whoever_states_a_batch_ends_it_without_the_gate(bare: Luigid) -> None:
    """The attack: the id of another team's batch, computed, on a task of one's own; when that is
    done, the batch is.
    """
    batch = start_batch(bare, None, "prod.B")
    assert batch["batch_id"] == digest_of(batch)
    bare.call("add_task", **ETL, status="RUNNING", batch_id=digest_of(batch))
    bare.call("add_task", **ETL, status="DONE")
    assert {bare.status(task_id) for task_id in batch["batch_task_ids"]} == {"DONE"}


def test_a_batch_is_its_workers_own_through_the_gate(scoped: Gate, guarded: Luigid) -> None:
    """Neither the computed id nor the one that another identity was told is taken; who was told it
    ends the batch in order.
    """
    prod, etl = scoped.token("prod", "worker"), scoped.token("etl", "etl-worker")
    batch = start_batch(scoped, prod, "prod.B")
    for batch_id in (digest_of(batch), batch["batch_id"]):
        for token, who in ((etl, "etl"), (scoped.token("other", "worker"), "other")):
            scoped.rejected(
                scoped.call("add_task", token, **ETL, status="RUNNING", batch_id=batch_id),
                "not-your-worker",
                who,
            )
    assert {guarded.status(task_id) for task_id in batch["batch_task_ids"]} == {"BATCH_RUNNING"}
    whole = {"worker": "prod", "task_id": "prod.B_0_1_2", "family": "prod.B"}
    for status in ({"status": "RUNNING", "batch_id": batch["batch_id"]}, {"status": "DONE"}):
        assert scoped.call("add_task", prod, **whole, **status).status == 200
    assert {guarded.status(task_id) for task_id in batch["batch_task_ids"]} == {"DONE"}
    assert (
        scoped.recorded(stage="decided", task="prod.B_0_1_2", method="add_task", decision="allow")[
            "principal"
        ]["subject"]
        == "prod"
    )


def test_every_process_and_the_next_one_knows_a_batch(scoped: Gate) -> None:
    """What binds a batch comes from the secret beside the log, so a worker may take it up at
    another process or after a restart.
    """
    batch = start_batch(scoped, scoped.token("prod", "worker"), "prod.C")
    principal = Principal("", "local", "prod", ())
    elsewhere = BatchIdSigner(
        derive_batch_key(load_hmac_key(scoped.directory / "audit", make=False)), "luigi"
    )
    digest, member = digest_of(batch), batch["batch_task_ids"][0]
    assert batch["batch_id"] == elsewhere.sign(principal, "prod.C", digest, member)


REACHES = [
    pytest.param({"deps": ["prod.Low_1"]}, id="dependency"),
    pytest.param({"new_deps": ["prod.Low_1"]}, id="dynamic-dependency"),
    pytest.param({"deps": ["etl.B_1", "prod.Low_1"], "new_deps": ["etl.C_1"]}, id="among-others"),
    pytest.param({"deps": ["prod.Fake_99"]}, id="placeholder"),
]


@pytest.mark.parametrize("reach", REACHES)
def test_dependencies_do_not_leave_the_scope(
    bare: Luigid, scoped: Gate, guarded: Luigid, reach: dict[str, Any]
) -> None:
    """luigid raises the priority of what a task depends on, and makes up what it does not know; a
    scope holds for those too.
    """
    low: dict[str, Any] = {
        "worker": "prod",
        "task_id": "prod.Low_1",
        "family": "prod.Low",
        "priority": 1,
    }
    [named] = [task for tasks in reach.values() for task in tasks if task.startswith("prod.")]
    bare.call("add_task", **low)
    bare.call("add_task", **ETL, priority=9999, **reach)
    reached = bare.call("graph").result[named]
    assert (reached["status"], reached["priority"]) == (
        ("PENDING", 9999) if named == "prod.Low_1" else ("UNKNOWN", 0)
    )
    assert scoped.call("add_task", scoped.token("prod", "worker"), **low).status == 200
    answer = scoped.call(
        "add_task", scoped.token("etl", "etl-worker"), **ETL, priority=9999, **reach
    )
    scoped.denied(answer, "no-policy-allows", "etl", "add_task")
    known = guarded.call("graph").result
    assert known["prod.Low_1"]["priority"] == 1
    assert "prod.Fake_99" not in known


def test_a_scoped_worker_runs_its_own_graph(bare: Luigid, scoped: Gate, tmp_path: Path) -> None:
    """Under the scope a stock worker announces, batches and runs what it may: all of its graph, as
    without a gate.
    """
    direct = Worker(tmp_path / "direct", bare.url, days(tmp_path / "direct-out", "scoped"))
    netrc = write_netrc(tmp_path / "netrc", scoped.token("etl-9", "etl-worker"))
    worker = Worker(
        tmp_path / "w", scoped.url(), days(tmp_path / "out", "scoped"), ca=scoped.ca, netrc=netrc
    )
    assert (direct.wait(), worker.wait()) == (0, 0)
    assert worker.summary() == direct.summary()
    assert worker.summary()["ran successfully"] == 4
    mine = [
        record
        for record in scoped.records()
        if (record.get("principal") or {}).get("subject") == "etl-9"
    ]
    assert {record["decision"] for record in mine if record["stage"] == "decided"} == {"allow"}
    assert [
        record
        for record in mine
        if record["stage"] == "decided" and (record["args"].get("batch_id") or "")
    ]


# -- one argument of the wrong type breaks luigid for everybody


def honest_work(client: Any, token: str | None) -> int:
    """The status of an honest worker's get_work: its task takes a resource, so luigid looks at all
    tasks.
    """
    honest = {"task_id": "Honest_1", "family": "Honest", "worker": "honest", "resources": {"db": 1}}
    assert client.call("add_task", token, **honest).status == 200
    status: int = client.call("get_work", token, worker="honest").status
    return status


BROKEN_WORK = [
    pytest.param({"priority": "abc"}, id="priority-text"),
    pytest.param({"priority": [1]}, id="priority-list"),
    pytest.param({"resources": {"db": "x"}}, id="resources-text"),
]


@pytest.mark.parametrize("forged", BROKEN_WORK)
def test_one_forged_task_stops_everybodys_work(
    bare: Luigid, gate: Gate, forged: dict[str, Any]
) -> None:
    """luigid keeps the task and fails every other worker's get_work; through the gate the task
    never gets there.
    """
    task = {"task_id": "Forged_1", "family": "Forged", "worker": "mallory", **forged}
    bare.call("add_task", **task)
    assert honest_work(bare, None) == 500
    answer = gate.call("add_task", gate.token("worker"), **task)
    assert answer.status == 400
    gate.rejected(answer, "bad-arguments", "worker")
    assert honest_work(gate, gate.token("worker")) == 200


VIEW_BREAKERS = [
    pytest.param(
        "add_worker", {"worker": "m", "info": {"name": "x"}}, "worker_list", {}, id="info-name"
    ),
    pytest.param(
        "add_worker", {"worker": "m", "info": [["state", "x"]]}, "worker_list", {}, id="info-pairs"
    ),
    pytest.param(
        "add_task",
        {"task_id": 5, "worker": "m"},
        "task_search",
        {"task_str": "a"},
        id="task-id-number",
    ),
    pytest.param(
        "add_task",
        {"task_id": "M_1", "family": "M", "worker": "m", "params": [1]},
        None,
        {},
        id="params-list",
    ),
]


@pytest.mark.parametrize(("method", "args", "view", "view_args"), VIEW_BREAKERS)
def test_one_forged_argument_empties_everybodys_dashboard(
    bare: Luigid,
    gate: Gate,
    method: str,
    args: dict[str, Any],
    view: str | None,
    view_args: dict[str, Any],
) -> None:
    """luigid answers a view with 500 from then on; through the gate the call is refused and the
    view is answered.
    """
    first = bare.call(method, **args)
    assert first.status == 500 or view is not None
    if view is not None:
        assert bare.call(view, **view_args).status == 500
    answer = gate.call(method, gate.token("worker"), **args)
    assert answer.status == 400
    gate.rejected(answer, "bad-arguments", "worker")
    assert gate.call(view or "task_list", gate.token("viewer"), **view_args).status == 200


# -- what a worker stores runs in the browser of whoever looks


SCRIPT = "<script>document.title='owned'</script>"


@pytest.mark.parametrize(
    ("stored", "harmless"),
    [
        pytest.param({"task_id": f"{SCRIPT}_1", "family": SCRIPT}, False, id="family"),
        pytest.param({"task_id": f"X_{SCRIPT}", "family": "X"}, False, id="task-id"),
        pytest.param(
            {"task_id": "X_1", "family": "X", "resources": {SCRIPT: 1}}, True, id="resource"
        ),
        pytest.param(
            {
                "task_id": "X_1",
                "family": "X",
                "status": "RUNNING",
                "tracking_url": "javascript:alert(1)",
            },
            True,
            id="tracking-url",
        ),
        pytest.param({"task_id": "X_1", "family": "X", "deps": [SCRIPT]}, False, id="dependency"),
        pytest.param({"task_id": "X_1", "family": "X", "worker": SCRIPT}, True, id="worker"),
    ],
)
def test_stored_script_does_not_reach_luigid(
    bare: Luigid, gate: Gate, guarded: Luigid, stored: dict[str, Any], harmless: bool
) -> None:
    """luigid stores and shows it as it came; through the gate a name with it is refused, and what
    decides nothing is made harmless.
    """
    call = {"worker": "mallory", **stored}
    assert bare.call("add_task", **call).status == 200
    shown = json.dumps(bare.tasks()) + json.dumps(bare.call("resource_list").result)
    assert "javascript:" in shown or "owned" in shown
    answer = gate.call("add_task", gate.token("worker"), **call)
    if harmless:
        assert answer.result is None
    else:
        assert answer.status == 400
        gate.rejected(answer, "bad-arguments", "worker")
        assert b"owned" not in answer.body
    views = [guarded.call(view).body.decode() for view in ("task_list", "worker_list", "graph")]
    shown = "".join(views) + guarded.call("resource_list").body.decode()
    assert "<script" not in shown
    assert "javascript:" not in shown
    assert ("alert(1)" in shown or "owned" in shown) >= harmless


def test_stored_script_in_a_status_message_becomes_text(
    bare: Luigid, gate: Gate, guarded: Luigid
) -> None:
    """A status message is shown as HTML; honest ones hold ``<``, so it is not refused but made into
    text.
    """
    message = f"step 2 of 5: {SCRIPT} <class 'x'>, 1 < 2"
    for luigid in (bare, guarded):
        luigid.call("add_task", task_id="Said_1", family="Said", worker="honest", status="RUNNING")
    bare.call("set_task_status_message", task_id="Said_1", status_message=message)
    assert bare.call("get_task_status_message", task_id="Said_1").result["statusMessage"] == message
    assert (
        gate.call(
            "set_task_status_message",
            gate.token("worker"),
            task_id="Said_1",
            status_message=message,
        ).result
        is None
    )
    said = gate.call("get_task_status_message", gate.token("viewer"), task_id="Said_1").result[
        "statusMessage"
    ]
    assert said == message.replace("<s", "&lt;s").replace("</s", "&lt;/s").replace("<c", "&lt;c")
    record = gate.recorded(stage="decided", method="set_task_status_message")
    assert record["args"]["status_message"] == said, "the record holds what luigid got"
    assert record["changed"] == ["status_message"], "and says that it is not what came"


def test_stored_number_that_no_browser_parses_stays_out(gate: Gate) -> None:
    """NaN in a progress would make every dashboard's JSON invalid. The call is taken, and the page
    shows no progress.
    """
    for text in ("NaN", "Infinity", "1e999"):
        body = ("data=" + quote(f'{{"task_id": "Said_1", "progress_percentage": {text}}}')).encode()
        answer = gate.send(
            "POST",
            "/api/set_task_progress_percentage",
            body,
            {"Content-Type": FORM},
            gate.token("worker"),
        )
        assert answer.result is None
        record = gate.recorded(stage="decided", method="set_task_progress_percentage")
        assert record["args"]["progress_percentage"] is None
        assert record["changed"] == ["progress_percentage"]
    said = gate.call("get_task_progress_percentage", gate.token("viewer"), task_id="Said_1")
    assert said.result["progressPercentage"] is None


# -- who is asking


def test_no_credential_of_a_caller_and_no_header_reaches_luigid(
    gate: Gate, guarded: Luigid, tmp_path: Path
) -> None:
    """Neither token nor claims about an identity go further than the gate, nor into its journal or
    log.
    """
    token = gate.token("viewer")
    headers = {
        "X-Forwarded-User": "admin-by-header",
        "X-Remote-User": "admin-by-header",
        "If-None-Match": "*",
        "Cookie": "a=cookie-value",
    }
    answer = gate.send("GET", "/api/task_list", None, headers, token)
    assert answer.status == 200
    gate.recorded(stage="completed", outcome="ok")
    for text in (gate.written().decode(), gate.process.text(), guarded.process.text()):
        for secret in (token, token.rpartition(".")[2], "admin-by-header", "cookie-value"):
            assert secret not in text
