"""``python -m tests.bench profile``: where Callgate's CPU time goes, in microseconds a call.

First the gate runs as it ships, for its CPU time by thread; then with the sampler of
`tests.bench.inside` in it, whose shares are scaled to that time. A sample belongs to the innermost
line of Callgate's own on the stack, so the time of a library counts for the line that called it.
Where perf is installed, its view of C code and kernel follows.
"""

import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import gate, peers
from tests.bench.calls import Call
from tests.bench.compare import CONNECTIONS, Row
from tests.bench.credentials import make_credentials
from tests.bench.process import TICK, cores
from tests.bench.tools import Tools
from tests.bench.verify import good, post
from tests.bench.wrk import run_wrk, script


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile, all in microseconds a call: user and system time by thread; the main thread by
    module, function and frame.
    """

    title: str
    threads: dict[str, tuple[float, float]]
    modules: dict[str, float]
    own: dict[str, float]
    within: dict[str, float]
    leaf: dict[str, float]
    perf: str = ""

    def text(self, top: int = 30) -> str:
        """The profile for people."""
        whole = sum(map(sum, self.threads.values()))
        lines = [f"{self.title}: {whole:.0f} us of CPU a call"]
        for name, (user, system) in self.threads.items():
            if user + system >= 0.5:
                lines.append(f"  thread {name}: {user:.0f} user + {system:.0f} system")
        parts = {"main thread, its own time by module": self.modules, "by function": self.own, "with all it calls": self.within,
                 "by innermost frame": self.leaf}  # fmt: skip
        for heading, rows in parts.items():
            lines.append(f"  {heading}")
            lines += [
                f"    {value:7.1f}  {name}"
                for name, value in sorted(rows.items(), key=lambda row: -row[1])[:top]
                if value >= 0.5
            ]
        return "\n".join([*lines, self.perf] if self.perf else lines)


def profile(
    tools: Tools,
    directory: Path,
    wanted: list[Row],
    *,
    tls: bool,
    seconds: int,
    say: Callable[[str], None],
) -> list[Profile]:
    """Profile the call of every row in `wanted` for `seconds`, with or without TLS as `tls` says."""
    credentials = make_credentials(directory)
    client, proxy = cores()
    found = []
    out = directory / "inside.json"
    given: dict[str, Any] = {"tls": tls}
    with (
        peers.nginx(tools, directory, credentials, client) as upstream,
        gate.serving(
            directory, credentials, proxy, name="shipped", upstream=upstream.port, **given
        ) as shipped,
        gate.observed(
            directory,
            credentials,
            proxy,
            out,
            "sample",
            name="sampled",
            upstream=upstream.port,
            **given,
        ) as sampled,
    ):
        for row in wanted:
            call, title = row.call, row.title
            lua = script(
                directory, title.replace(" ", "-"), call.body, call.content_type, credentials.token
            )

            def load(
                port: int = shipped[0],
                for_seconds: int = seconds + 1,
                call: Call = call,
                lua: Path = lua,
            ) -> int:
                url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{call.path}"
                assert good(call, *post(url, call.body, call.content_type, credentials.token)), (
                    call.name
                )
                return run_wrk(
                    tools.wrk, url, lua, seconds=for_seconds, connections=CONNECTIONS, core=client
                ).calls

            load(shipped[0], 1)
            before = _threads(shipped[1].tree())
            calls = load(shipped[0], seconds)
            threads = _since(before, _threads(shipped[1].tree()), calls)
            perf = _perf(shipped[1].tree(), seconds, load)
            found.append(_profile(title, threads, _sample(sampled, load, seconds), perf))
            say(found[-1].text())
    return found


def _sample(
    sampled: "gate.Observed", load: Callable[[int, int], int], seconds: int
) -> dict[str, dict[str, int]]:
    load(sampled.port, 1)
    sampled.take()
    load(sampled.port, seconds)
    samples: dict[str, dict[str, int]] = sampled.take()["samples"]
    return samples


def _profile(
    title: str,
    threads: dict[str, tuple[float, float]],
    samples: dict[str, dict[str, int]],
    perf: str,
) -> Profile:
    main = max(map(sum, threads.values()))
    scale = main / (sum(samples["own"].values()) or 1)
    tables = {
        name: {_short(frame): count * scale for frame, count in table.items()}
        for name, table in samples.items()
    }
    modules: Counter[str] = Counter()
    for name, value in tables["own"].items():
        modules[name.split(" ")[0] if name.startswith("proxy/") else name] += value  # type: ignore[assignment]  # a Counter of floats
    return Profile(
        title, threads, dict(modules), tables["own"], tables["within"], tables["leaf"], perf
    )


def _short(frame: str) -> str:
    return frame.rpartition("site-packages/")[2].replace(
        f"{sys.base_prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/", ""
    )


def _perf(pids: list[int], seconds: int, load: Callable[[], int]) -> str:
    """The top of perf's view of the same load, or nothing where perf does not work."""
    program = shutil.which("perf")
    if not program:
        return ""
    runner = threading.Thread(target=load)
    runner.start()
    time.sleep(0.3)
    data = f"perf-{pids[0]}.data"
    try:
        record = [
            program,
            "record",
            "-q",
            "-F",
            "997",
            "-p",
            ",".join(map(str, pids)),
            "-o",
            data,
            "--",
            "sleep",
            str(seconds),
        ]
        if subprocess.run(record, capture_output=True, check=False).returncode:
            return ""
        report = [
            program,
            "report",
            "-i",
            data,
            "--stdio",
            "--no-children",
            "-s",
            "comm,dso,symbol",
            "--percent-limit",
            "0.6",
        ]
        shown = subprocess.run(report, capture_output=True, text=True, check=False).stdout
    finally:
        runner.join()
        Path(data).unlink(missing_ok=True)
    return "  perf\n" + "\n".join(
        f"    {line.rstrip()}"
        for line in shown.splitlines()
        if line.strip() and not line.startswith("#")
    )


def _threads(pids: list[int]) -> dict[str, tuple[float, float]]:
    """User and system seconds of each thread of the processes so far."""
    found = {}
    for pid in pids:
        for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name)):
            name, _, rest = task.joinpath("stat").read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            found[f"{name} {task.name}"] = (int(fields[11]) * TICK, int(fields[12]) * TICK)
    return found


def _since(
    before: dict[str, tuple[float, float]], now: dict[str, tuple[float, float]], calls: int
) -> dict[str, tuple[float, float]]:
    scale = 1e6 / calls
    return {
        name: (
            (user - before.get(name, (0, 0))[0]) * scale,
            (system - before.get(name, (0, 0))[1]) * scale,
        )
        for name, (user, system) in now.items()
    }
