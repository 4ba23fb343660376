"""Starting, watching and stopping the programs of a run: CPU time and memory of whole process
trees, from /proc.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# seconds; the sums behind it are exact to the nanosecond, only their display is coarse
TICK = 1 / os.sysconf("SC_CLK_TCK")
_START_SECONDS = 30.0


def cores() -> tuple[str, str]:
    """The core of client and upstream and the core of the proxy, as taskset takes them; one core
    for all where there is one.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return str(allowed[0]), str(allowed[-1])


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Child:
    """One program that was started, in a process group of its own."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        """The process id of the root of its tree."""
        return self.process.pid

    def tree(self) -> list[int]:
        """The process ids of the program and all its descendants."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = _stat(int(entry.name))
                if fields:
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def cpu_seconds(self) -> float:
        """User and system time of the tree until now, children that have ended included."""
        return sum(self.cpu_by_process().values())

    def cpu_by_process(self) -> dict[int, float]:
        """User and system time of each process of the tree until now."""
        return {
            pid: sum(map(int, fields[11:15])) * TICK
            for pid in self.tree()
            if (fields := _stat(pid))
        }

    def stop(self) -> None:
        """End the tree: politely, then not."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its own group: whatever it left behind
        self.process.wait()

    def tail(self, lines: int = 20) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def rss_mb(pid: int) -> float:
    """The resident set size of one process in MB, 0 when it is gone."""
    try:
        return (
            int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            * os.sysconf("SC_PAGE_SIZE")
            / (1 << 20)
        )
    except OSError:
        return 0.0


@contextmanager
def started(
    name: str,
    command: Sequence[str | Path],
    directory: Path,
    *,
    port: int,
    core: str | None = None,
    environ: Mapping[str, str] | None = None,
    ready: Callable[[], bool] | None = None,
) -> Iterator[Child]:
    """Run `command` in `directory` until the block ends. Goes on once `port` accepts connections
    (and `ready` says so).
    """
    log = directory / f"{name}.log"
    pinned = ["taskset", "-c", core] if core is not None else []
    with ExitStack() as stack:
        out = stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            [*pinned, *map(str, command)],
            cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env={**os.environ, **(environ or {})},
        )  # fmt: skip
        child = Child(name, process, log)
        stack.callback(child.stop)
        wait_until(lambda: _accepts(port) and (ready is None or ready()), child)
        yield child


def wait_until(true: Callable[[], bool], child: Child, seconds: float = _START_SECONDS) -> None:
    """Poll until `true`, for `seconds` at most. Raises RuntimeError with the end of its log when
    the child does not get there.
    """
    end = time.monotonic() + seconds
    while not true():
        if child.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{child.name} did not start:\n{child.tail()}")
        time.sleep(0.02)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name, which may hold blanks and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
