"""How commands print problems: location and message on one line, the hint below."""

import sys
from collections.abc import Sequence
from typing import TextIO

from proxy.errors import Problem


def print_problems(problems: Sequence[Problem], stream: TextIO | None = None) -> None:
    """Print `problems` in the order they were found, to standard error by default.

    The count at the end is without warnings.
    """
    stream = stream or sys.stderr
    for problem in problems:
        kind = "warning: " if problem.warning else ""
        print(f"{problem.location}: {kind}{problem.message}\n    {problem.hint}", file=stream)
    count = sum(not problem.warning for problem in problems)
    if count > 1:
        print(f"{count} problems", file=stream)
