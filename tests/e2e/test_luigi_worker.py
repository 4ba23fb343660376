"""Unmodified ``luigi`` workers through the gate: they run as they run without it, and every denial
reaches their user.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.identity.local_issuer import LocalIssuer
from tests.support.stage import Gate, Luigid, Worker, until, write_netrc

RETRIES = {"retry_delay": 0.5, "prune_on_get_work": "true"}

# A role that may register its tasks and run none, and a second issuer whose keys a test can change.
CEDAR = """
@id("announcers-announce") permit (principal in Role::"announcer", action in Action::"work", resource);
@id("announcers-run-nothing") forbid (principal in Role::"announcer", action == Action::"get_work", resource);
"""
ROLES = """
[[roles.announcer]]
issuer = "local"
group = "announcer"
[[roles.worker]]
issuer = "idp"
group = "worker"
"""
IDP = """
[[issuers]]
name = "idp"
issuer = "https://idp.example"
audiences = ["callgate"]
jwks_file = "idp/jwks.json"
"""


def make_idp(directory: Path) -> LocalIssuer:
    """An issuer of its own."""
    idp = LocalIssuer(directory, issuer="https://idp.example")
    idp.prepare(time.time())
    return idp


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A luigid without a gate."""
    luigid = Luigid(tmp_path_factory.mktemp("plain"), **RETRIES)
    yield luigid
    luigid.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A luigid with the same settings, behind `gate`."""
    luigid = Luigid(tmp_path_factory.mktemp("guarded"), **RETRIES)
    yield luigid
    luigid.stop()


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, guarded: Luigid) -> Iterator[Gate]:
    """A gate with one more role and one more issuer than are shipped."""
    directory = tmp_path_factory.mktemp("gate")
    make_idp(directory / "idp")
    gate = Gate(
        directory, {"/": guarded, "/team-a": guarded}, cedar=CEDAR, roles=ROLES, settings=IDP
    )
    yield gate
    gate.stop()


def graph(task: str, run: str, output: Path, workers: int = 1) -> list[str]:
    """The command line of a task of `tests/e2e/tasks/graph.py`; its outputs go to `output`."""
    output.mkdir(parents=True)
    return [
        "--module",
        "graph",
        task,
        "--run-name",
        run,
        "--directory",
        str(output),
        "--workers",
        str(workers),
    ]


def end_state(luigid: Luigid, run: str) -> dict[str, dict[str, Any]]:
    """What the scheduler holds of a run in the end, without times, places and worker ids.

    Which worker's batch came first decides the order of days in the batch's own task, so they are
    sorted.
    """
    state = {}
    for task_id, task in luigid.tasks().items():
        params = dict(task["params"])
        if params.pop("run_name", None) != run:
            continue
        params.pop("directory")
        if task["name"] == "Batched" and "," in params["day"]:
            params["day"] = task_id = ",".join(sorted(params["day"].split(",")))
        # see proxy.catalog.harmless
        message = task["status_message"] and task["status_message"].replace("<class", "&lt;class")
        kept = ("status", "name", "priority", "resources", "tracking_url", "progress_percentage")
        state[task_id] = {
            "params": params,
            "message": message,
            "n_workers": len(task["workers"]),
            **{name: task.get(name) for name in kept},
        }
    return state


def outputs(directory: Path) -> dict[str, str]:
    """The files that a run has written."""
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("requests", "workers", "prefix"),
    [
        pytest.param(True, 1, "/", id="requests-1"),
        pytest.param(True, 4, "/team-a/", id="requests-4-under-a-prefix"),
        pytest.param(False, 1, "/team-a/", id="urllib-1-under-a-prefix"),
        pytest.param(False, 4, "/", id="urllib-4"),
    ],
)
def test_a_run_ends_as_without_the_gate(
    plain: Luigid,
    guarded: Luigid,
    gate: Gate,
    tmp_path: Path,
    requests: bool,
    workers: int,
    prefix: str,
) -> None:
    """A graph of more than 50 tasks with failures, retries, batches, messages, tracking URLs and
    resources, twice.

    Exit code, summary, outputs and the scheduler's end state are the same; the journal has every
    call, each completed, and no parameter that the pipeline keeps private.
    """
    run = f"run{'-requests' if requests else '-urllib'}-{workers}"
    subject = f"etl-{run}"
    token = gate.token(subject, "worker")
    with_token: dict[str, Any] = {
        "ca": gate.ca,
        "netrc": write_netrc(tmp_path / "netrc", token) if requests else None,
    }
    url = gate.url(prefix, "" if requests else token)
    direct = Worker(
        tmp_path / "direct",
        plain.url,
        graph("Everything", run, tmp_path / "direct-out", workers),
        requests=requests,
    )
    through = Worker(
        tmp_path / "through",
        url,
        graph("Everything", run, tmp_path / "through-out", workers),
        requests=requests,
        **with_token,
    )
    assert (direct.wait(), through.wait()) == (0, 0)

    counts = direct.summary()
    assert through.summary() == counts
    assert (counts["failed"], counts["had failed dependencies"]) == (1, 2)
    assert counts["ran successfully"] > 50
    assert outputs(tmp_path / "through-out") == outputs(tmp_path / "direct-out")
    state = end_state(guarded, run)
    assert state == end_state(plain, run)
    assert len(state) > 50
    assert {task["status"] for task in state.values()} == {"DONE", "PENDING", "DISABLED"}

    mine = [
        record
        for record in gate.records()
        if (record.get("principal") or {}).get("subject") == subject
    ]
    assert {record["stage"] for record in mine} == {"decided"}
    assert {(record["decision"], record["reason"]) for record in mine} == {("allow", "allowed")}
    assert {record["peer"]["user_agent"].partition("/")[0] for record in mine} == {
        "python-requests" if requests else "Python-urllib"
    }
    assert {record["upstream"] for record in mine} == {"luigi" if prefix == "/" else "luigi-1"}
    methods = [record["method"] for record in mine]
    assert methods.count("add_task") > 2 * 50
    assert {
        "add_worker",
        "add_task_batcher",
        "get_work",
        "set_task_status_message",
        "decrease_running_task_resources",
    } <= set(methods)

    def all_completed() -> bool:
        done = {
            record["id"]: record["outcome"]
            for record in gate.records()
            if record["stage"] == "completed"
        }
        return all(done.get(record["id"]) == "ok" for record in mine if "window" not in record)

    until(all_completed, "every call has its completed record")
    assert b"hunter2" not in gate.written()


def test_a_task_that_cannot_be_scheduled_leaves_no_private_parameter_in_the_journal(
    gate: Gate, tmp_path: Path
) -> None:
    """luigi names such a task with all its parameters, and its error may hold them too: the record
    withholds both.
    """
    netrc = write_netrc(tmp_path / "netrc", gate.token("etl-undecided", "worker"))
    command = [*graph("Undecided", "undecided", tmp_path / "out"), "--private", "hunter3"]
    worker = Worker(tmp_path / "w", gate.url(), command, ca=gate.ca, netrc=netrc)
    worker.wait()
    assert "cannot ask with hunter3" in worker.text()
    args = gate.recorded(stage="decided", method="announce_scheduling_failure")["args"]
    assert args["family"] == "Undecided"
    assert [set(args[name]) for name in ("task_name", "expl", "params")] == [{"hmac-sha256"}] * 3
    assert b"hunter3" not in gate.written()


def test_the_dashboard_shows_whose_worker_it_is(
    gate: Gate, guarded: Luigid, tmp_path: Path
) -> None:
    """Upstream the worker's id ends with the identity; in its own log and summary it is the id that
    luigi gave it.
    """
    netrc = write_netrc(tmp_path / "netrc", gate.token("etl-7", "worker"))
    worker = Worker(
        tmp_path / "w", gate.url(), graph("Few", "whose", tmp_path / "out"), ca=gate.ca, netrc=netrc
    )
    assert worker.wait() == 0
    [ran_by] = {
        task["worker_running"]
        for task in guarded.tasks().values()
        if task["params"].get("run_name") == "whose"
    }
    assert re.fullmatch(r"Worker\(salt=\d+, .*, pid=\d+\) \[local:etl-7\]", ran_by)
    assert "etl-7" not in worker.text()
    assert "other worker" not in worker.text()


# -- denials


@pytest.mark.parametrize("requests", [True, False], ids=["requests", "urllib"])
def test_a_denied_get_work_ends_the_worker_at_once_and_in_order(
    gate: Gate, guarded: Luigid, tmp_path: Path, requests: bool
) -> None:
    """One attempt, exit code 0, and the summary says that the scheduler gave no permission to run."""
    run = f"denied-{requests}"
    token = gate.token(f"ann-{requests}", "announcer")
    worker = Worker(
        tmp_path / "w",
        gate.url(token=token),
        graph("Few", run, tmp_path / "out"),
        requests=requests,
        ca=gate.ca,
    )
    assert worker.wait() == 0
    assert "were not granted run permission by the scheduler" in worker.text()
    assert outputs(tmp_path / "out") == {}
    mine = [
        record
        for record in gate.records()
        if (record.get("principal") or {}).get("subject") == f"ann-{requests}"
    ]
    [denied] = [record for record in mine if record["decision"] == "deny"]
    assert (denied["method"], denied["reason"], denied["policies"]) == (
        "get_work",
        "policy-forbids",
        ["announcers-run-nothing"],
    )
    statuses = {
        task["status"] for task in guarded.tasks().values() if task["params"].get("run_name") == run
    }
    assert statuses == {"PENDING"}


@pytest.mark.parametrize("requests", [True, False], ids=["requests", "urllib"])
@pytest.mark.parametrize(
    ("who", "told"),
    [
        ("viewer", "403 callgate: viewer (viewer) may not add_task luigi [no-policy-allows, ref "),
        ("stranger", "403 callgate: stranger (no role) may not add_task luigi: "),
        ("nobody", "401 callgate: The request has no credential. [no-credential, ref "),
        (
            "lost",
            "404 callgate: No upstream serves this path: did you mean /team-a/api/add_task? [not",
        ),
        ("impostor", "401 callgate: The token's signature does not verify. [bad-signature, ref "),
    ],
)
def test_every_other_denial_tells_the_workers_user_why(
    gate: Gate, tmp_path: Path, requests: bool, who: str, told: str
) -> None:
    """The reason phrase is in the worker's output, and the worker fails."""
    token = gate.token(who, {"viewer": "viewer", "lost": "worker"}.get(who, "nothing"))
    if who == "impostor":
        head, claims, _ = token.split(".")
        token = f"{head}.{claims}.{gate.token('viewer').rpartition('.')[2]}"
    url = gate.url("/" if who != "lost" else "/tema-a/", "" if who == "nobody" else token)
    worker = Worker(
        tmp_path / "w",
        url,
        graph("Few", "refused", tmp_path / "out"),
        requests=requests,
        ca=gate.ca,
    )
    assert worker.wait() != 0
    said = (
        worker.text()
        .replace("Client Error: ", "")
        .replace("HTTP Error ", "")
        .replace(": callgate", " callgate")
    )
    assert told in said, worker.text()[-3000:]
    assert outputs(tmp_path / "out") == {}


# -- tokens that change under a running worker


def test_the_token_can_change_under_a_running_worker(
    gate: Gate, guarded: Luigid, tmp_path: Path
) -> None:
    """While a task runs, netrc gets a new token and the old one becomes invalid: nothing fails, not
    even a ping.

    The order is that of any rotation of keys: publish the new one beside the old, switch, drop the
    old.
    """
    published = gate.directory / "idp" / "jwks.json"
    first, second = make_idp(gate.directory / "idp"), make_idp(tmp_path / "second")
    old, new = (idp.issue("etl-9", ["worker"], 3600, time.time()) for idp in (first, second))
    netrc = write_netrc(tmp_path / "netrc", old)
    task = ["--module", "victim", "Hold", "--directory", str(tmp_path)]
    worker = Worker(tmp_path / "w", gate.url(), task, ca=gate.ca, netrc=netrc)

    def works() -> bool:
        return any(
            w["name"].endswith("[idp:etl-9]") and w["running"]
            for w in guarded.call("worker_list").result
        )

    keys = [json.loads(idp.key_set.read_text())["keys"] for idp in (first, second)]

    def publish(*sets: list[dict[str, str]]) -> None:
        published.with_suffix(".new").write_text(
            json.dumps({"keys": [key for keys in sets for key in keys]})
        )
        published.with_suffix(".new").replace(published)

    until(works, "the task runs")
    publish(*keys)
    until(
        lambda: gate.call("ping", new, worker="other").status == 200, "the gate knows the new key"
    )
    write_netrc(netrc, new)
    publish(keys[1])
    until(
        lambda: gate.call("ping", old, worker="other").status == 401,
        "the gate has forgotten the old key",
    )
    (tmp_path / "go").touch()
    assert worker.wait() == 0
    assert worker.summary() == {"scheduled": 1, "ran successfully": 1}
    assert "Failed" not in worker.text()
