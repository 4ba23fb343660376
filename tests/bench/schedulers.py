"""With a real luigid behind: throughput and added latency of a worker's mix, and dashboards over
ten thousand pending tasks.

luigid has the last core for itself, since it is what limits; the gate shares the first with the
client.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import gate, peers
from tests.bench.calls import form_body, task, worker_name
from tests.bench.credentials import make_credentials
from tests.bench.peers import python_environ
from tests.bench.process import cores, free_port
from tests.bench.tools import Tools
from tests.bench.wrk import DONE, run_wrk

WAYS = ("direct", "gate")
NOWHERE = "with a journal that goes nowhere"
"""The way through a gate whose records reach no disk and are never compressed: the rest of what the
gate adds to p99 is the disk's.
"""
WINDOW, WINDOWS = 2.0, 15
"""Seconds of one measurement of p99, and how many of each way: a stall of the whole machine is in
few of many short ones.
"""

# One task of a worker after the other: announce it, get work, ping four times, report it done.
_MIX = """\
local auth = { ["Authorization"] = "Bearer %(token)s", ["Content-Type"] = "application/x-www-form-urlencoded" }
local parts = { %(parts)s }
local paths = { "add_task", "get_work", "ping", "ping", "ping", "ping", "add_task" }
local count = 0
request = function()
  local step = count %% 7
  local number = math.floor(count / 7)
  count = count + 1
  local worker = string.format("%%05d", number %% 16)
  local body = parts[step + 1]:gsub("77777", worker):gsub("555555", string.format("%%06d", number))
  return wrk.format("POST", "/api/" .. paths[step + 1], auth, body)
end
"""


@dataclass(frozen=True, slots=True)
class Throughput:
    """The mix: calls a second and p99 at half load in milliseconds, by way, and failures. All are
    medians.

    `ratio` and `added_ms` compare with direct within a round or window, whose ways are next to each
    other in time.
    """

    rate: dict[str, float]
    ratio: dict[str, float]
    half_rate: float
    p99_ms: dict[str, float]
    added_ms: dict[str, float]
    errors: list[str]


@dataclass(frozen=True, slots=True)
class Dashboards:
    """Medians: page data in seconds and workers' ping p99 in milliseconds, by way; pages loaded;
    bytes of a page; failures.
    """

    page_s: dict[str, float]
    ping_p99_ms: dict[str, float]
    pages: dict[str, int]
    page_bytes: dict[str, int]
    errors: list[str]


def throughput(
    tools: Tools,
    directory: Path,
    *,
    rounds: int,
    windows: int,
    seconds: int,
    say: Callable[[str], None],
) -> Throughput:
    """Measure all ways in turns, each of them first in its turn, each time with a luigid that has
    no state.
    """
    credentials = make_credentials(directory)
    first, last = cores()
    port = free_port()
    lua = directory / "mix.lua"
    lua.write_text(
        _MIX
        % {"token": credentials.token, "parts": ", ".join(json.dumps(body) for body in _parts())}
        + DONE
    )
    errors: list[str] = []
    with ExitStack() as stack:
        front, _child = stack.enter_context(
            gate.serving(directory, credentials, first, name="mix", tls=False, upstream=port)
        )
        ports = {"direct": port, "gate": front}
        # a proxy that writes nothing durable: what any would take from luigid, whose core may be
        # half of one
        if tools.envoy:
            ports["Envoy"] = stack.enter_context(
                peers.envoy(tools, directory, credentials, first, port, port)
            ).port
        ways = tuple(ports)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds):
            turn = number % len(ways)
            for way in ways[turn:] + ways[:turn]:
                with peers.luigid(directory, last, port=port):
                    ran = run_wrk(
                        tools.wrk,
                        f"http://127.0.0.1:{ports[way]}",
                        lua,
                        seconds=seconds,
                        connections=16,
                        core=first,
                    )
                rates[way].append(ran.calls / ran.seconds)
                if ran.errors:
                    errors.append(f"{way}: {ran.errors} of {ran.calls} calls failed")
            say(
                f"round {number + 1} of {rounds}: calls/s { {way: round(found[-1]) for way, found in rates.items()} }"
            )
        half = statistics.median(rates["direct"]) / 2
        observed = gate.observed(
            directory,
            credentials,
            first,
            directory / "nowhere.json",
            "nowhere",
            name="nowhere",
            tls=False,
            upstream=port,
        )
        ports[NOWHERE] = stack.enter_context(observed).port
        stack.enter_context(peers.luigid(directory, last, port=port))
        job = {
            "kind": "mix",
            "ports": ports,
            "token": credentials.token,
            "rate": half,
            "seconds": WINDOW,
            "windows": windows,
        }
        seen = client(directory, first, job)
    errors += seen["errors"][:3]
    for error in errors:
        say(error)
    p99 = {
        way: [
            percentile(seen["latencies"][f"{way} {window}"], 99) * 1000 for window in range(windows)
        ]
        for way in ports
    }
    for way, values in p99.items():
        say(f"p99 at half load, {way}: {[round(value, 1) for value in values]} ms")
    middle: Callable[[list[float]], float] = statistics.median
    ratio = {
        way: middle(
            [through / direct for direct, through in zip(rates["direct"], rates[way], strict=True)]
        )
        for way in ways
    }
    added = {
        way: middle(
            [through - direct for direct, through in zip(p99["direct"], p99[way], strict=True)]
        )
        for way in p99
    }
    late = {way: middle(values) for way, values in p99.items()}
    return Throughput(
        {way: middle(found) for way, found in rates.items()}, ratio, half, late, added, errors
    )


def dashboards(
    directory: Path, *, seconds: int, tasks: int = 10_000, say: Callable[[str], None]
) -> Dashboards:
    """Sixteen dashboards and fifty workers, direct and through the gate, each with a luigid that
    has `tasks` pending.
    """
    credentials = make_credentials(directory)
    first, last = cores()
    port = free_port()
    state = fill(directory, tasks)
    page, ping, pages, sizes, errors = {}, {}, {}, {}, []
    tokens = {"viewer": credentials.viewer, "worker": credentials.token}
    with gate.serving(
        directory, credentials, first, name="dashboards", tls=False, upstream=port
    ) as (front, _child):
        for way in WAYS:
            with peers.luigid(directory, last, port=port, state=state):
                to = front if way == "gate" else port
                job = {
                    "kind": "dashboards",
                    "port": to,
                    "tokens": tokens,
                    "seconds": seconds,
                    "browsers": 16,
                    "workers": 50,
                    "limit": 150,
                }
                seen = client(directory, first, job)
            page[way] = statistics.median(seen["latencies"].get("page", [job["limit"]]))
            ping[way] = percentile(seen["latencies"]["ping"], 99) * 1000
            pages[way] = len(seen["page_bytes"])
            sizes[way] = max(seen["page_bytes"], default=0)
            errors += [f"{way}: {error}" for error in seen["errors"][:3]]
            say(
                f"{way}: page data {page[way]:.2f} s ({pages[way]} pages), workers' ping p99 {ping[way]:.0f} ms"
            )
    return Dashboards(page, ping, pages, sizes, errors)


def client(directory: Path, core: str | None, job: dict[str, Any]) -> dict[str, Any]:
    """Run `tests.bench.client` for one job, in a process of its own."""
    given, out = directory / "job.json", directory / "seen.json"
    given.write_text(json.dumps(job))
    given.chmod(0o600)
    pinned = ["taskset", "-c", core] if core is not None else []
    command = [*pinned, sys.executable, "-m", "tests.bench.client", str(given), str(out)]
    ran = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=400
    )
    if ran.returncode:
        raise RuntimeError(f"the client failed:\n{ran.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def environment() -> dict[str, str]:
    """The environment of Python programs of this checkout."""
    return {**os.environ, **python_environ()}


def percentile(values: list[float], percent: float) -> float:
    """The value that `percent` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def fill(directory: Path, tasks: int) -> Path:
    """A state file of luigid with `tasks` pending tasks, made by luigi's own scheduler."""
    path = directory / "pending.pickle"
    program = (
        "import json, sys\n"
        "from luigi.scheduler import Scheduler\n"
        "scheduler = Scheduler(state_path=sys.argv[1])\n"
        "for line in sys.stdin:\n"
        "    scheduler.add_task(**json.loads(line))\n"
        "scheduler.dump()\n"
    )
    lines = "\n".join(
        json.dumps(task(number=number, worker=worker_name(number % 50))) for number in range(tasks)
    )
    subprocess.run(
        [sys.executable, "-c", program, str(path)],
        input=lines,
        text=True,
        check=True,
        capture_output=True,
    )
    return path


def _parts() -> list[str]:
    worker = worker_name(0).replace("8123400000", "8123477777")
    announced = task(number=555_555, worker=worker)
    done = task(number=555_555, worker=worker, status="DONE")
    ping = form_body("ping", {"worker": worker})
    work = form_body(
        "get_work", {"worker": worker, "host": "etl-node", "assistant": False, "current_tasks": []}
    )
    parts = [
        form_body("add_task", announced),
        work,
        ping,
        ping,
        ping,
        ping,
        form_body("add_task", done),
    ]
    return [part.decode() for part in parts]
