"""What problems look like on a terminal."""

import io

from proxy.cli.problems import print_problems
from proxy.errors import Problem


def test_what_a_problem_quotes_cannot_write_lines_or_control_the_terminal() -> None:
    """Keys of settings and names in policies are quoted; who wrote them is not who reads them."""
    out = io.StringIO()
    problem = Problem("callgate.toml:3: a\x1b[2J", "is\nreloaded: ok", "Remove \u202ethis.")
    print_problems([problem], out)
    assert out.getvalue() == (
        "callgate.toml:3: a\\x1b[2J: is\\x0areloaded: ok\n    Remove \\u202ethis.\n"
    )
