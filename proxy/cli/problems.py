"""How commands print problems: location and message on one line, the hint below.

Locations and messages quote keys and names of files that others may have written, so control
characters are escaped: they could clear the terminal, or print a line of their own.
"""

import sys
from collections.abc import Sequence
from typing import TextIO

from proxy.common.text import escape_controls
from proxy.errors import Problem


def print_problems(problems: Sequence[Problem], stream: TextIO | None = None) -> None:
    """Print `problems` in the order they were found, to standard error by default.

    The count at the end is without warnings.
    """
    stream = stream or sys.stderr
    for problem in problems:
        kind = "warning: " if problem.warning else ""
        line = escape_controls(f"{problem.location}: {kind}{problem.message}")
        print(f"{line}\n    {escape_controls(problem.hint)}", file=stream)
    count = sum(not problem.warning for problem in problems)
    if count > 1:
        print(f"{count} problems", file=stream)
