# mypy: ignore-errors
# Written as luigi's users write: luigi's partial annotations contradict its own documentation.
"""A module that an attacker makes another's worker import: importing it leaves a trace, running its
task another.
"""

import os
from pathlib import Path

import luigi

TRACE = Path(os.environ["LUIGI_CONFIG_PATH"]).parent / "planted"
TRACE.write_text(f"imported by {os.getpid()}")


class Planted(luigi.Task):
    """What the attacker wants run."""

    def complete(self) -> bool:
        return TRACE.read_text().startswith("run")

    def run(self) -> None:
        TRACE.write_text(f"run by {os.getpid()}")
