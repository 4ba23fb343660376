"""Two processes against one: CPU a call, and how evenly connections spread."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import gate, peers
from tests.bench.calls import all_calls
from tests.bench.credentials import make_credentials
from tests.bench.process import cores
from tests.bench.tools import Tools
from tests.bench.wrk import run_wrk, script

# the kernel spreads connections by chance: with few of them, chance is all one would see
_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class Processes:
    """CPU a call in microseconds with one and with two processes, and how far from an even share
    the busier one was.

    `more` is what a call costs more with two, as a share: the median over rounds, in which one and
    two are next to each other.
    """

    one_us: float
    two_us: float
    more: float
    uneven: float


def processes(tools: Tools, directory: Path, *, rounds: int, seconds: int) -> Processes | None:
    """Measure both in turns. None where the gate cannot run several processes yet."""
    from proxy.config.model import Settings

    if "processes" not in Settings.model_fields:
        return None
    credentials = make_credentials(directory)
    client, proxy = cores()
    [call] = [
        call for call in all_calls() if f"{call.protocol} {call.name}" == "xmlrpc add_task 900 B"
    ]
    lua = script(directory, "processes", call.body, call.content_type, credentials.token)
    # How the load is split shows only while neither is busy all the time: then each works as much
    # as comes to it.
    rested = script(
        directory, "rested", call.body, call.content_type, credentials.token, pause_ms=250
    )
    cpu: dict[int, list[float]] = {1: [], 2: []}
    uneven = []
    with peers.nginx(tools, directory, credentials, client) as upstream:
        given: dict[str, Any] = {"tls": False, "upstream": upstream.port}
        for number in range(rounds):
            for count in (1, 2) if number % 2 else (2, 1):
                name = f"p{count}r{number}"
                with gate.serving(
                    directory, credentials, proxy, name=name, processes=count, **given
                ) as (port, child):
                    url = f"http://127.0.0.1:{port}{call.path}"
                    run_wrk(tools.wrk, url, lua, seconds=1, connections=_CONNECTIONS, core=client)
                    before = child.cpu_seconds()
                    ran = run_wrk(
                        tools.wrk, url, lua, seconds=seconds, connections=_CONNECTIONS, core=client
                    )
                    cpu[count].append((child.cpu_seconds() - before) / ran.calls * 1e6)
                    if count == 2:
                        each = child.cpu_by_process()
                        run_wrk(
                            tools.wrk,
                            url,
                            rested,
                            seconds=seconds,
                            connections=_CONNECTIONS,
                            core=client,
                        )
                        used = sorted(
                            now - each.get(pid, 0.0) for pid, now in child.cpu_by_process().items()
                        )[-2:]
                        uneven.append(used[1] / (sum(used) / 2) - 1)
    more = statistics.median(two / one for one, two in zip(cpu[1], cpu[2], strict=True)) - 1
    return Processes(
        statistics.median(cpu[1]), statistics.median(cpu[2]), more, statistics.median(uneven)
    )
