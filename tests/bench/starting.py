"""How long ``callgate serve`` takes from its start to its first answer, with a hundred policies."""

import statistics
import time
from pathlib import Path

from tests.bench import gate
from tests.bench.credentials import make_credentials
from tests.bench.peers import python_environ
from tests.bench.process import cores, free_port, started


def start_seconds(directory: Path, *, rounds: int, policies: int = 100) -> tuple[float, float]:
    """Medians over `rounds`: seconds from the start of the program to its saying that it is ready,
    and the CPU time of that.
    """
    credentials = make_credentials(directory)
    _, proxy = cores()
    target = gate.policies(directory)
    existing = sum(path.read_text().count("@id(") for path in target.glob("*.cedar"))
    (target / "many.cedar").write_text(
        "\n".join(_policy(number) for number in range(policies - existing))
    )
    took, spent = [], []
    for number in range(rounds):
        port = free_port()
        config = gate.settings(
            directory, credentials, f"start{number}", port, tls=True, upstream=free_port()
        )
        began = time.monotonic()
        command = [*gate.SERVE, "--config", str(config)]

        def ready(port: int = port) -> bool:
            return gate.answers(port, tls=True)

        with started(
            "start",
            command,
            directory,
            port=port,
            core=proxy,
            environ=python_environ(),
            ready=ready,
        ) as child:
            took.append(time.monotonic() - began)
            spent.append(child.cpu_seconds())
    return statistics.median(took), statistics.median(spent)


def _policy(number: int) -> str:
    """A policy as a security team would write it: a role's scope by task family."""
    return (
        f'@id("team-{number}")\npermit (principal in Role::"worker", action in Action::"work", resource == Scheduler::"luigi")\n'
        f'when {{ context has task && context.task like "team{number}.*" }};\n'
    )
