# mypy: ignore-errors
# Written as luigi's users write: luigi's partial annotations contradict its own documentation.
"""Many small tasks in a few layers, none of which fails by itself: whatever fails here was made to
fail by something else.
"""

import time
from pathlib import Path

import luigi


class Step(luigi.Task):
    """A task that takes a moment, tells how far it is, and writes a file."""

    run_name = luigi.Parameter()
    directory = luigi.Parameter(significant=False)
    number = luigi.IntParameter()
    seconds = luigi.FloatParameter(default=0.1, significant=False)

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(Path(self.directory) / self.task_id)

    def run(self) -> None:
        self.set_status_message(f"step {self.number}")
        time.sleep(self.seconds)
        self.set_progress_percentage(100)
        with self.output().open("w") as out:
            out.write(f"{self.number}\n")


class Layer(Step):
    """Needs ten steps, and the layer before it."""

    layer = luigi.IntParameter()

    def requires(self) -> list[luigi.Task]:
        shared = {"run_name": self.run_name, "directory": self.directory, "seconds": self.seconds}
        steps = [Step(number=10 * self.layer + number, **shared) for number in range(10)]
        before = [Layer(number=0, layer=self.layer - 1, **shared)] if self.layer else []
        return [*steps, *before]
