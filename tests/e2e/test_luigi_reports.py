"""Only the worker that runs a task or a batch reports on it, whatever makes luigid skip its check.

A second worker identity drives every method of luigid that changes a task's status, and every other
report, against a first one's running task, batch and runner of that batch. Each attack is shown on a
luigid directly first: there it works.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.stage import Client, Gate, Luigid, Response, until

_numbers = count(1)
STATUSES = ("PENDING", "DONE", "FAILED", "RUNNING", "DISABLED", "UNKNOWN", "SUSPENDED")


class Side:
    """One worker's way to luigid: directly, or through a gate with a token of its own."""

    def __init__(self, client: Client, token: str | None, worker: str) -> None:
        self.worker = worker
        self._client = client
        self._token = token

    def call(self, method: str, **args: Any) -> Response:
        """Call a method as this worker."""
        return self._client.call(method, self._token, **args)

    def task(self, task_id: str, family: str, **args: Any) -> Response:
        """Call add_task."""
        answer = self.call("add_task", worker=self.worker, task_id=task_id, family=family, **args)
        assert answer.status == 200, answer
        return answer

    def work(self, *running: str) -> dict[str, Any]:
        """Get work while the tasks of `running` go on."""
        answer = self.call("get_work", worker=self.worker, current_tasks=running)
        work: dict[str, Any] = answer.result
        return work


class Scene:
    """A family of two workers: `prod` runs a single task, and a batch of two with its runner."""

    def __init__(
        self, client: Client, luigid: Luigid, prod: str | None, mallory: str | None
    ) -> None:
        """`prod` and `mallory` are tokens; each scene has workers of its own."""
        number = next(_numbers)
        self.luigid = luigid
        self.prod = Side(client, prod, f"prod-{number}")
        self.mallory = Side(client, mallory, f"mallory-{number}")
        self.family = f"prod.F{number}"
        self.single = f"{self.family}_single"
        self.runner = f"{self.family}_both"
        self.resource = f"r{number}"
        self.members = [f"{self.family}_{number}" for number in range(2)]

    def announce(self, side: Side, tasks: list[str]) -> None:
        """Announce batchable tasks."""
        for task_id in tasks:
            side.task(task_id, self.family, params={"d": task_id}, batchable=True)
        side.call(
            "add_task_batcher", worker=side.worker, task_family=self.family, batched_args=["d"]
        )

    def start_batch(self, side: Side, tasks: list[str]) -> str:
        """Announce the tasks, get them as a batch, and return its id."""
        self.announce(side, tasks)
        work = side.work()
        assert sorted(work["batch_task_ids"]) == tasks
        return str(work["batch_id"])

    def start(self) -> None:
        """Let `prod` run everything."""
        batch_id = self.start_batch(self.prod, self.members)
        self.prod.task(self.runner, self.family, status="RUNNING", batch_id=batch_id)
        self.prod.task(self.single, self.family, resources={self.resource: 1})
        assert self.prod.work(self.runner)["task_id"] == self.single

    @property
    def targets(self) -> list[str]:
        """The three kinds of task that `prod` runs."""
        return [self.single, self.runner, self.members[0]]

    def seen(self) -> dict[str, Any]:
        """Return what luigid shows of the tasks of `prod`."""
        shown = self.luigid.tasks()
        told = ["status", "worker_running", "tracking_url", "status_message"]
        told += ["progress_percentage", "resources_running"]
        return {
            task_id: (
                [shown[task_id].get(name) for name in told],
                self.luigid.call("fetch_error", task_id=task_id).result["error"],
            )
            for task_id in [self.single, self.runner, *self.members]
        }

    def finish(self) -> None:
        """Let `prod` end what it runs, in a stock worker's words."""
        for task_id in (self.runner, self.single):
            self.prod.task(task_id, self.family, status="DONE", expl='""', new_deps=[])

    def ended(self) -> None:
        """Assert that the reports of `prod` counted, the batch's too."""
        self.finish()
        statuses = {task_id: self.luigid.status(task_id) for task_id in self.seen()}
        assert set(statuses.values()) == {"DONE"}, statuses


# -- attacks on what runs already: by the status of the call, and by the fields beside it

FIELDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "new_deps": {"new_deps": ["prod.New_1"]},
    "expl": {"expl": '"forged"'},
    "tracking_url": {"tracking_url": "https://evil.example/"},
    "all": {
        "new_deps": ["prod.New_1"],
        "expl": '"forged"',
        "tracking_url": "https://evil.example/",
        "runnable": False,
        "assistant": True,
        "batchable": False,
        "accepts_messages": True,
        "resources": {},
        "priority": 5,
        "deps": [],
        "module": "planted",
        "params": {"d": "x"},
        "owners": ["mallory@evil.example"],
    },
}
TRIGGERS = ("forgive_failures", "mark_as_done", "re_enable_task")
OWN: dict[str, dict[str, Any]] = {
    "get_work": {"current_tasks": []},
    "ping": {},
    "count_pending": {},
    "add_worker": {"info": {"workers": 2}},
    "announce_scheduling_failure": {
        "task_name": "x",
        "params": {},
        "expl": '"x"',
        "owners": [],
    },
}


def unnamed(scene: Scene) -> dict[str, dict[str, Any]]:
    """Return the reports that name no worker, with what they say beside the task."""
    return {
        "set_task_status_message": {"status_message": "forged"},
        "set_task_progress_percentage": {"progress_percentage": 99},
        "decrease_running_task_resources": {"decrease_resources": {scene.resource: 1}},
        "report_task_statistics": {"statistics": {}},
        "add_scheduler_message_response": {"message_id": "m", "response": "forged"},
    }


def report(scene: Scene, status: str, fields: str) -> None:
    """Report a status of everything that `prod` runs."""
    for task_id in scene.targets:
        scene.mallory.task(task_id, scene.family, status=status, **FIELDS[fields])


@pytest.fixture
def direct(bare: Luigid) -> Scene:
    """The scene without a gate."""
    return Scene(bare, bare, None, None)


@pytest.fixture
def through(gate: Gate, guarded: Luigid) -> Scene:
    """The scene behind the gate: two identities with the role of a worker."""
    return Scene(gate, guarded, gate.token("prod", "worker"), gate.token("mallory", "worker"))


@pytest.mark.parametrize("fields", [name for name in FIELDS if name != "plain"])
def test_a_report_of_another_works_without_the_gate(direct: Scene, fields: str) -> None:
    """The attack: beside new_deps luigid does not compare workers, and texts it never compares."""
    direct.start()
    before = direct.seen()
    report(direct, "DONE", fields)
    after = direct.seen()
    assert [task_id for task_id in direct.targets if before[task_id] != after[task_id]]
    if "new_deps" in FIELDS[fields]:
        assert {after[task_id][0][0] for task_id in direct.targets} == {"DONE"}


@pytest.mark.parametrize("status", STATUSES)
def test_no_status_of_another_counts_through_the_gate(
    through: Scene, gate: Gate, status: str
) -> None:
    """With no field beside it, with each, and with all."""
    through.start()
    before = through.seen()
    for fields in FIELDS:
        report(through, status, fields)
        assert through.seen() == before, fields
    record = gate.recorded(stage="completed", reason="not-your-worker")
    assert (record["outcome"], record["status"]) == ("failed", 200)
    through.ended()


def test_reports_that_name_no_worker(direct: Scene, through: Scene) -> None:
    """luigid takes them of every caller; through the gate, of the one that runs the task."""
    direct.start()
    before = direct.seen()
    for method, args in unnamed(direct).items():
        direct.mallory.call(method, task_id=direct.single, **args)
    assert direct.seen()[direct.single] != before[direct.single]
    through.start()
    before = through.seen()
    for method, args in unnamed(through).items():
        for task_id in through.targets:
            answer = through.mallory.call(method, task_id=task_id, **args)
            assert (answer.status, answer.body) == (200, b'{"response": null}')
            assert through.seen() == before, method
    for method, args in unnamed(through).items():
        assert through.prod.call(method, task_id=through.single, **args).status == 200
    [status, _, _, message, progress, resources], _ = through.seen()[through.single]
    assert (status, message, progress, resources) == (
        "RUNNING",
        "forged",
        99,
        {through.resource: 0},
    )
    through.ended()


def test_no_other_method_changes_what_another_runs(through: Scene, gate: Gate) -> None:
    """A worker's other methods, the buttons of the visualiser, and those of administrators."""
    through.start()
    before = through.seen()
    for task_id in through.targets:
        for method in TRIGGERS:
            answer = through.mallory.call(method, task_id=task_id)
            assert answer.refused == "no-policy-allows", method
    for method, args in OWN.items():
        if method == "announce_scheduling_failure":
            args = {**args, "family": through.family}
        mine, others = through.mallory.worker, f"{through.prod.worker} [local:prod]"
        assert through.mallory.call(method, worker=mine, **args).status == 200, method
        answer = through.mallory.call(method, worker=others, **args)
        assert answer.refused == "not-your-worker", method
    for method in ("disable_worker", "prune", "update_resources"):
        args = {"worker": others} if method == "disable_worker" else {}
        assert through.mallory.call(method, **args).refused == "no-policy-allows", method
    assert through.seen() == before
    through.ended()


# -- attacks by a batch id


def put_own_batch_on_anothers_task(scene: Scene) -> None:
    """Take a batch of one's own, and put its id on what another runs; then end one's own."""
    scene.start()
    mine = [f"{scene.family}_m{number}" for number in range(2)]
    batch_id = scene.start_batch(scene.mallory, mine)
    runner = f"{scene.family}_mine"
    scene.mallory.task(runner, scene.family, status="RUNNING", batch_id=batch_id)
    for task_id in scene.members:
        scene.mallory.task(task_id, scene.family, status="RUNNING", batch_id=batch_id)
    scene.mallory.task(runner, scene.family, status="DONE")


def keep_an_earlier_id_of_the_same_batch(scene: Scene) -> None:
    """Be given the batch first, give it back, and end it once another runs it: luigid's id is the
    digest of its tasks.
    """
    batch_id = scene.start_batch(scene.mallory, scene.members)
    for task_id in scene.members:
        dependency = f"{scene.family}_dep"
        scene.mallory.task(task_id, scene.family, status="PENDING", new_deps=[dependency])
    scene.mallory.task(dependency, scene.family, status="DONE")
    scene.start()
    scene.mallory.task(f"{scene.family}_mine", scene.family, status="RUNNING", batch_id=batch_id)
    scene.mallory.task(f"{scene.family}_mine", scene.family, status="DONE")


def give_back_one_by_one(scene: Scene) -> None:
    """Name a runner for a batch of one's own, give back its tasks but not the runner, and end that
    once another has been given the same batch.
    """
    batch_id = scene.start_batch(scene.mallory, scene.members)
    runner, dependency = f"{scene.family}_mine", f"{scene.family}_dep"
    scene.mallory.task(runner, scene.family, status="RUNNING", batch_id=batch_id)
    for task_id in scene.members:
        scene.mallory.task(task_id, scene.family, status="PENDING", new_deps=[dependency])
    scene.mallory.task(dependency, scene.family, status="DONE")
    scene.start()
    scene.mallory.task(runner, scene.family, status="DONE")


def claim_the_runner_first(scene: Scene) -> None:
    """Name the runner before the batch starts; end it once the other has put the id on it."""
    scene.mallory.task(scene.runner, scene.family, status="RUNNING")
    batch_id = scene.start_batch(scene.prod, scene.members)
    scene.prod.task(scene.runner, scene.family, status="RUNNING", batch_id=batch_id)
    scene.mallory.task(scene.runner, scene.family, status="DONE")


def take_the_batch_off_the_runner(scene: Scene) -> None:
    """Put the id of one's own batch on another's runner: at its end the batch goes on for ever."""
    scene.start()
    batch_id = scene.start_batch(scene.mallory, [f"{scene.family}_m{n}" for n in range(2)])
    scene.mallory.task(scene.runner, scene.family, batch_id=batch_id)
    scene.finish()


BATCH_ATTACKS = {
    "own-id-on-a-member": (put_own_batch_on_anothers_task, "DONE"),
    "earlier-id": (keep_an_earlier_id_of_the_same_batch, "DONE"),
    "one-by-one": (give_back_one_by_one, "DONE"),
    "runner-first": (claim_the_runner_first, "DONE"),
    "id-on-the-runner": (take_the_batch_off_the_runner, "BATCH_RUNNING"),
}


@pytest.mark.parametrize("name", BATCH_ATTACKS)
def test_batch_ids_do_not_end_anothers_batch(direct: Scene, through: Scene, name: str) -> None:
    """What is "DONE" without the gate goes on running with it, and the other way round."""
    attack, without = BATCH_ATTACKS[name]
    attack(direct)
    assert {direct.luigid.status(task_id) for task_id in direct.members} == {without}
    attack(through)
    right = {"DONE": "BATCH_RUNNING", "BATCH_RUNNING": "DONE"}[without]
    assert {through.luigid.status(task_id) for task_id in through.members} == {right}


# -- what stock workers do goes on


def test_a_worker_reports_on_its_own_task(through: Scene) -> None:
    """New dependencies put its task back; error text and tracking URL arrive; so do they after the
    memory of who got the task is gone, in a batch too.
    """
    through.start()
    url = "https://tracker.example/1"
    for task_id in (through.single, through.runner):
        through.prod.task(task_id, through.family, status="RUNNING", tracking_url=url)
    shown = through.luigid.tasks()
    assert {shown[task_id]["tracking_url"] for task_id in through.targets} == {url}
    dependency = f"{through.family}_dep"
    through.prod.task(
        through.single, through.family, status="PENDING", new_deps=[dependency], expl='"later"'
    )
    assert through.luigid.status(through.single) == "PENDING"
    deps = through.luigid.call("dep_graph", task_id=through.single).result[through.single]["deps"]
    assert deps == [dependency]
    through.prod.task(through.runner, through.family, status="FAILED", expl='"why"')
    for task_id in through.members:
        assert through.luigid.call("fetch_error", task_id=task_id).result["error"] == '"why"'


def test_a_task_without_a_family_has_its_worker_too(through: Scene) -> None:
    """luigid's graph leaves out who runs it."""
    through.prod.task("nameless_1", "")
    assert through.prod.work()["task_id"] == "nameless_1"
    through.mallory.task("nameless_1", "", status="DONE", new_deps=["x_1"], expl='"forged"')
    assert through.luigid.status("nameless_1") == "RUNNING"
    through.prod.task("nameless_1", "", status="DONE", new_deps=["x_1"])
    assert through.luigid.status("nameless_1") == "DONE"


def test_a_worker_whose_task_was_taken_over_goes_on(
    fresh_luigid: Callable[..., Luigid], tmp_path: Path
) -> None:
    """Its late reports are answered as luigid answers them, and change nothing for the next one."""
    luigid = fresh_luigid(worker_disconnect_delay=2, retry_delay=0)
    gate = Gate(tmp_path / "gate", {"/": luigid})
    try:
        tokens = [gate.token(name, "worker") for name in ("prod", "mallory")]
        scene = Scene(gate, luigid, *tokens)
        scene.prod.task(scene.single, scene.family)
        assert scene.prod.work()["task_id"] == scene.single

        def taken_over() -> bool:
            scene.mallory.task(scene.single, scene.family)
            luigid.call("prune")  # gives up the silent worker, and makes the failed task pending
            return bool(scene.mallory.work()["task_id"] == scene.single)

        until(taken_over, "luigid gave up the first worker")
        answers = [
            scene.prod.call("set_task_status_message", task_id=scene.single, status_message="late"),
            scene.prod.task(scene.single, scene.family, status="PENDING", new_deps=["prod.D_1"]),
            scene.prod.task(scene.single, scene.family, status="DONE", expl='""', new_deps=[]),
        ]
        assert {(answer.status, answer.body) for answer in answers} == {
            (200, b'{"response": null}')
        }
        shown = luigid.tasks()[scene.single]
        assert (shown["status"], shown["status_message"]) == ("RUNNING", None)
    finally:
        gate.stop()
