"""How commands print problems: location and message on one line, the hint below."""

import sys
from collections.abc import Sequence
from typing import TextIO

from proxy.errors import Problem


def print_problems(problems: Sequence[Problem], stream: TextIO | None = None) -> None:
    """Print `problems` in the order they were found, to standard error by default."""
    stream = stream or sys.stderr
    for problem in problems:
        print(f"{problem.location}: {problem.message}\n    {problem.hint}", file=stream)
    if len(problems) > 1:
        print(f"{len(problems)} problems", file=stream)
