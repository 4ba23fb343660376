# mypy: ignore-errors
# Written as luigi's users write: luigi's partial annotations contradict its own documentation.
"""The task of an honest worker that is attacked: it runs until a file appears, so that the worker
is busy meanwhile.
"""

import os
import time
from pathlib import Path

import luigi

HELD_SECONDS = 30.0  # then the test has failed anyway


class Hold(luigi.Task):
    """Wait for ``go``, then write who ran it."""

    directory = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(Path(self.directory) / "held")

    def run(self) -> None:
        deadline = time.monotonic() + HELD_SECONDS
        while not (Path(self.directory) / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with self.output().open("w") as out:
            out.write(str(os.getpid()))
