# mypy: ignore-errors
# Written as luigi's users write: luigi's partial annotations contradict its own documentation.
"""Tasks made from a file: ``graph.json`` in the directory of the settings describes each of them.

Its marks are files in the working directory: ``<n>.done`` ends a task, and ``<n>.ran`` has a letter
for each attempt.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import luigi

HERE = Path(os.environ["LUIGI_CONFIG_PATH"]).parent
GRAPH = json.loads((HERE / "graph.json").read_text())


def mark(number: int, end: str) -> Path:
    """Return the file of a task."""
    return HERE / f"{number}.{end}"


class Generated(luigi.Task):
    """What all have in common; each is a class of its own, with the names that the file gives it."""

    number = -1

    def complete(self) -> bool:
        return mark(self.number, "done").exists()

    def requires(self) -> list[luigi.Task]:
        return [TASKS[number] for number in GRAPH[self.number]["deps"]]

    def run(self) -> Iterator[luigi.Task]:
        about = GRAPH[self.number]
        ran = mark(self.number, "ran")
        with ran.open("a") as file:
            file.write("x")
        for url in about["urls"]:
            self.set_tracking_url(url)
        for message in about["messages"]:
            self.set_status_message(message)
        for progress in about["progress"]:
            self.set_progress_percentage(progress)
        if about["dynamic"] and len(ran.read_text()) == 1:
            yield [TASKS[number] for number in about["dynamic"]]
        if len(ran.read_text()) <= about["failures"]:
            raise RuntimeError(about["error"])
        mark(self.number, "done").touch()


def made(number: int, about: dict) -> luigi.Task:
    """Return the task that an entry of the file describes."""
    params = {name: luigi.Parameter(default=value) for name, value in about["params"].items()}
    stated = {name: about[name] for name in about["stated"]}
    body = {**stated, **params, "number": number, "__module__": about["module"] or __name__}
    body["task_namespace"] = about["namespace"]
    return type(about["name"], (Generated,), body)()


TASKS = [made(number, about) for number, about in enumerate(GRAPH)]


class Root(luigi.WrapperTask):
    """All but what tasks ask for while they run; the name of the directory without its first letter keeps graphs apart."""

    graph = luigi.Parameter(default=HERE.name[1:])

    def requires(self) -> list[luigi.Task]:
        return [TASKS[number] for number, about in enumerate(GRAPH) if not about["hidden"]]
