"""Generated task graphs, run by stock workers directly and through the gate: they end alike.

Names, sizes and values are drawn from `tests/support/luigi_vocabulary.py`, by a seed. Three graphs
run always; GRAPHS=6 in the environment adds six, or as many as it says.
"""

import json
import math
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog import harmless
from proxy.model import Value
from tests.support import luigi_vocabulary as vocabulary
from tests.support.stage import Gate, Luigid, Worker, write_netrc

SEEDS = [
    range(3),
    *(range(100 + more, 101 + more) for more in range(int(os.environ.get("GRAPHS", "0")))),
]
SETTINGS = {"retry_delay": 0.1, "prune_on_get_work": "true"}
WORKER_IDS = [
    text for text in vocabulary.WORKERS if text.isprintable() and text == text.strip()
]  # as a line of luigi.cfg can have them


def drawn(seed: int) -> list[dict[str, Any]]:
    """Return the description of one graph."""
    pick = random.Random(seed)
    size = pick.choice([1, 3, 6, 12])
    graph: list[dict[str, Any]] = []
    asked: set[int] = set()
    for number in range(size):
        before = [earlier for earlier in range(number) if earlier not in asked]
        # What a task asks for while it runs nobody else needs: who comes first decides nothing.
        dynamic = [number - 1] if number and number - 1 not in asked else []
        dynamic = dynamic if pick.random() < 0.2 else []
        before = [earlier for earlier in before if earlier not in dynamic]
        asked.update(dynamic)
        names = pick.sample(vocabulary.PARAM_NAMES, pick.randrange(3))
        stated = {
            "priority": pick.choice(vocabulary.PRIORITIES),
            "resources": pick.choice(
                vocabulary.RESOURCES if pick.random() < 0.95 else vocabulary.IMPOSSIBLE_RESOURCES
            ),
            "accepts_messages": pick.choice([True, False, 0]),
            "owner_email": pick.choice([None, "ann@example.com, bob <bob@example.com>"]),
            "retry_count": pick.choice([2, 3, 2.5, None]),
        }
        stated = {name: stated[name] for name in stated if pick.random() < 0.7}
        if math.isnan(stated.get("priority", 0)):
            stated["priority"] = 0  # NaN has no order: who comes first decides what others get
        failures = pick.choice([0, 0, 0, 1, 99])
        if failures and stated.get("retry_count") is None:
            stated["retry_count"] = 2
        graph.append(
            {
                **stated,
                "stated": list(stated),
                "name": pick.choice(["Task", "Übung", "Mit-Strich"]) + f"{seed}x{number}",
                "namespace": pick.choice(vocabulary.NAMESPACES),
                "module": pick.choice(vocabulary.MODULES),
                "params": {name: pick.choice(vocabulary.PARAMS) for name in names},
                "deps": pick.sample(before, min(len(before), pick.randrange(4))),
                "dynamic": dynamic,
                "urls": pick.sample(vocabulary.TRACKING_URLS, pick.randrange(2)),
                "messages": pick.sample(vocabulary.MESSAGES, pick.randrange(2)),
                "progress": pick.sample(vocabulary.PROGRESS, pick.randrange(2)),
                "failures": failures,
                "error": pick.choice([text or "" for text in vocabulary.EXPLANATIONS]),
            }
        )
    for number, about in enumerate(graph):
        about["hidden"] = number in asked
        if about["hidden"]:
            about["module"] = None  # the worker imports it
            about["failures"] = 0
    if is_impossible(graph):
        for about in graph:
            about["failures"] = 0  # the worker does not wait for another attempt
    return graph


def is_impossible(graph: list[dict[str, Any]]) -> bool:
    """Return whether some task is never run: it takes more of a resource than there is."""
    return any(about.get("resources") in vocabulary.IMPOSSIBLE_RESOURCES for about in graph)


def run(
    directory: Path, graph: list[dict[str, Any]], seed: int, url: str, **options: Any
) -> tuple[int, dict[str, str]]:
    """Run a graph; return the exit code, and how often each task was begun and whether it ended."""
    directory.mkdir()
    (directory / "graph.json").write_text(json.dumps(graph))
    pick = random.Random(seed)
    worker_id = pick.choice([*WORKER_IDS, ""]).replace("%", "%%")
    # Failed tasks are tried until luigid disables them.
    settings = f"id = {worker_id}\n" if worker_id else ""
    settings += f"count_uniques = {pick.choice(['true', 'false'])}\n"
    # A worker may wait for what is never run: luigi counts it as pending.
    settings += f"max_keep_alive_idle_duration = {1 if is_impossible(graph) else 3} seconds\n"
    settings += "[retcode]\n"
    settings += "task_failed = 30\nmissing_data = 20\nnot_run = 25\nscheduling_error = 35\n"
    arguments = ["--module", "generated", "Root", "--workers", pick.choice(["1", "1", "3"])]
    arguments.append("--no-lock")  # both ways at the same time
    worker = Worker(directory, url, arguments, settings=settings, **options)
    code = worker.wait(60)
    files = {path.name: path.read_text() for path in directory.glob("*.ran")}
    return code, {**files, **{path.name: "" for path in directory.glob("*.done")}}


HARMLESS: dict[str, Callable[[Value], Value]] = {
    "priority": harmless.mend_priority,
    "resources": harmless.mend_resources,
    "resources_running": harmless.mend_resources,
    "tracking_url": harmless.mend_url,
    "progress_percentage": harmless.mend_progress,
    "status_message": harmless.mend_message,
}


def as_held(tasks: dict[str, dict[str, Any]], *, mended: bool) -> dict[str, Any]:
    """Return what luigid holds, without times and worker ids.

    Of a luigid without a gate, values are `mended` as the gate would have.
    """
    held = {}
    for task_id, task in tasks.items():
        shown = {
            name: value
            for name, value in task.items()
            if name not in ("start_time", "last_updated", "time_running", "worker_running")
        }
        shown["workers"] = len(task["workers"])
        if mended:
            for name, mend in HARMLESS.items():
                shown[name] = mend(shown[name])
            text = json.dumps(shown, ensure_ascii=False)
            shown = json.loads(
                "".join(rf"\\u{ord(c):04x}" if 0xD800 <= ord(c) < 0xE000 else c for c in text)
            )
        held[task_id] = shown
    return held


def compare(seeds: range, directory: Path) -> None:
    """Run the graph of each seed both ways, both ways at a time, and compare what came of it."""
    plain, guarded = (Luigid(directory / name, **SETTINGS) for name in ("plain", "guarded"))
    gate = Gate(directory / "gate", {"/": guarded})
    netrc = write_netrc(directory / "netrc", gate.token("etl", "worker"))
    differing: dict[int, Any] = {}
    try:
        with ThreadPoolExecutor(2) as pool:
            for seed in seeds:
                graph = drawn(seed)
                one = pool.submit(run, directory / f"d{seed}", graph, seed, plain.url)
                other = pool.submit(
                    run, directory / f"g{seed}", graph, seed, gate.url(), ca=gate.ca, netrc=netrc
                )
                if one.result() != other.result():
                    differing[seed] = (one.result(), other.result())
        expected, found = (
            as_held(plain.tasks(), mended=True),
            as_held(guarded.tasks(), mended=False),
        )
        assert differing == {}
        assert found.keys() == expected.keys()
        assert [
            (task_id, name, str(value)[:80], str(found[task_id][name])[:80])
            for task_id, task in expected.items()
            for name, value in task.items()
            if value != found[task_id][name]
        ] == []
        refused = [
            r for r in gate.records() if r.get("decision") == "deny" or r["stage"] == "rejected"
        ]
        assert refused == []
    finally:
        gate.process.kill()
        guarded.stop()
        plain.stop()


def compare_twice(seeds: range, directory: Path) -> None:
    """Compare, and once more if there is a difference: one that counts is there again.

    When a worker asks decides what it gets, so two runs of one graph on a busy machine may differ
    without any gate.
    """
    directory.mkdir(exist_ok=True)
    (directory / "first").mkdir()
    try:
        compare(seeds, directory / "first")
    except AssertionError:
        (directory / "again").mkdir()
        compare(seeds, directory / "again")


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_graphs_end_as_without_the_gate(tmp_path: Path, seeds: range) -> None:
    """Exit codes, numbers of attempts, states and all that luigid lists of the tasks agree."""
    compare_twice(seeds, tmp_path)
