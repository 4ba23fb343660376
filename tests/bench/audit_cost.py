"""What the audit costs: the same gate with its journal on the disk and with one that goes nowhere,
in turns; calls per fsync.
"""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import gate, peers
from tests.bench.calls import all_calls
from tests.bench.compare import CONNECTIONS
from tests.bench.credentials import make_credentials
from tests.bench.process import cores
from tests.bench.tools import Tools
from tests.bench.verify import good, post
from tests.bench.wrk import run_wrk, script


@dataclass(frozen=True, slots=True)
class AuditCost:
    """CPU a call in microseconds with and without the disk; calls and records that share one fsync;
    p50 in milliseconds of both.
    """

    durable_us: float
    nowhere_us: float
    calls_per_fsync: float
    records_per_call: float
    durable_p50_ms: float
    nowhere_p50_ms: float
    connections: int


def audit_cost(
    tools: Tools,
    directory: Path,
    *,
    rounds: int,
    seconds: int,
    connections: int = CONNECTIONS,
    title: str = "xmlrpc add_task 900 B",
) -> AuditCost:
    """Measure both gates in turns with one kind of call."""
    credentials = make_credentials(directory)
    client, proxy = cores()
    [call] = [call for call in all_calls() if f"{call.protocol} {call.name}" == title]
    lua = script(directory, "audited", call.body, call.content_type, credentials.token)
    with ExitStack() as stack:
        upstream = stack.enter_context(peers.nginx(tools, directory, credentials, client)).port
        given: dict[str, Any] = {"tls": False, "upstream": upstream}
        gates = {
            name: stack.enter_context(
                gate.observed(
                    directory,
                    credentials,
                    proxy,
                    directory / f"{name}.json",
                    *flags,
                    name=name,
                    **given,
                )
            )
            for name, flags in (("durable", ()), ("nowhere", ("nowhere",)))
        }
        cpu: dict[str, list[float]] = {name: [] for name in gates}
        p50: dict[str, list[float]] = {name: [] for name in gates}
        shared, records = [], []
        for _ in range(rounds):
            for name, observed in gates.items():
                url = f"http://127.0.0.1:{observed.port}{call.path}"
                assert good(call, *post(url, call.body, call.content_type, credentials.token)), name
                observed.take()
                before = observed.child.cpu_seconds()
                ran = run_wrk(
                    tools.wrk, url, lua, seconds=seconds, connections=connections, core=client
                )
                cpu[name].append((observed.child.cpu_seconds() - before) / ran.calls * 1e6)
                p50[name].append(ran.p50_ms)
                seen = observed.take()
                if name == "durable":
                    shared.append(ran.calls / max(1, seen["commits"]))
                    records.append(seen["records"] / ran.calls)
    middle: Callable[[list[float]], float] = statistics.median
    return AuditCost(
        middle(cpu["durable"]), middle(cpu["nowhere"]), middle(shared), middle(records), middle(p50["durable"]), middle(p50["nowhere"]),
        connections,
    )  # fmt: skip
