# mypy: ignore-errors
# Written as luigi's users write: luigi's partial annotations contradict its own documentation.
"""A graph of some 60 tasks with all that a worker says to a scheduler: failures, retries, batches,
messages, tracking, resources.

Every output is a file under ``directory``; its content says nothing about who made it or when, so
that two runs compare. ``run_name`` keeps the tasks of several runs apart in one scheduler.
"""

from collections.abc import Iterator
from pathlib import Path

import luigi


class Written(luigi.Task):
    """A task whose output is a file named after it."""

    run_name = luigi.Parameter()
    directory = luigi.Parameter(significant=False)
    retry_count = 2

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(Path(self.directory) / self.task_id)

    def run(self) -> None:
        with self.output().open("w") as out:
            out.write(f"{self.task_family}\n")


def same(task: Written) -> dict[str, str]:
    """The parameters that all tasks of one run share."""
    return {"run_name": task.run_name, "directory": task.directory}


class Leaf(Written):
    """One of many; takes a resource, and tells how far it is."""

    number = luigi.IntParameter()
    secret = luigi.Parameter(
        default="hunter2", visibility=luigi.parameter.ParameterVisibility.PRIVATE, significant=False
    )
    resources = {"database": 1}  # noqa: RUF012  (luigi's own convention)

    @property
    def priority(self) -> float:
        """Higher numbers first."""
        return self.number / 2

    def run(self) -> None:
        if self.number % 5 == 0:
            self.set_tracking_url(f"https://tracker.example/jobs/{self.number}?a=1&b=%20")
            self.set_status_message(f"step 1 of 2: <class 'x'> é {self.number}")
            self.set_progress_percentage(50)
            self.decrease_running_resources({"database": 0.5})
        super().run()


class Flaky(Written):
    """Fails the first time, and succeeds when it is tried again."""

    number = luigi.IntParameter()

    def run(self) -> None:
        tried = Path(self.directory) / f"tried-{self.number}"
        if not tried.exists():
            tried.touch()
            raise RuntimeError("the first attempt fails")
        super().run()


class Doomed(Written):
    """Fails until luigid disables it."""

    def run(self) -> None:
        raise RuntimeError(f"always fails, with a long story: {'<b>&amp; ' * 2000}")


class Waiting(Written):
    """Never runs: what it needs fails."""

    def requires(self) -> luigi.Task:
        return Doomed(**same(self))


class Batched(Written):
    """Runs with others of its family at once; the worker announces a batch size of Infinity."""

    day = luigi.Parameter(batch_method=",".join)

    def output(self) -> list[luigi.LocalTarget]:
        return [
            luigi.LocalTarget(Path(self.directory) / f"Batched-{day}")
            for day in self.day.split(",")
        ]

    def run(self) -> None:
        for target in self.output():
            with target.open("w") as out:
                out.write("Batched\n")


class Days(Written):
    """One batch."""

    def requires(self) -> list[luigi.Task]:
        return [Batched(day=f"2024-02-0{day}", **same(self)) for day in range(1, 4)]


class Dynamic(Written):
    """Finds out while it runs what else it needs."""

    def run(self) -> Iterator[luigi.Task]:
        yield [Leaf(number=number, **same(self)) for number in range(100, 104)]
        super().run()


class Middle(Written):
    """Needs some of the leaves."""

    number = luigi.IntParameter()

    def requires(self) -> list[luigi.Task]:
        return [Leaf(number=number, **same(self)) for number in range(self.number, 36, 4)]


class Good(Written):
    """What can be done."""

    def requires(self) -> list[luigi.Task]:
        days = [Batched(day=f"2024-01-{day:02}", **same(self)) for day in range(1, 9)]
        middles = [Middle(number=number, **same(self)) for number in range(4)]
        return [
            *middles,
            *days,
            Dynamic(**same(self)),
            *(Flaky(number=n, **same(self)) for n in range(3)),
        ]


class Everything(Written):
    """What can be done, and what cannot."""

    def requires(self) -> list[luigi.Task]:
        return [Good(**same(self)), Waiting(**same(self))]


class Few(Written):
    """A few leaves, for tests of one thing."""

    def requires(self) -> list[luigi.Task]:
        return [Leaf(number=number, **same(self)) for number in range(1, 4)]


class Undecided(Written):
    """Fails before it can be announced; luigi then tells the scheduler of it by all its parameters,
    the private ones too.
    """

    private = luigi.Parameter(visibility=luigi.parameter.ParameterVisibility.PRIVATE)

    def complete(self) -> bool:
        raise ValueError(f"cannot ask with {self.private}")
