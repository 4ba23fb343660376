"""What is proved when all is over: calls, records, memory, file descriptors, and the gate's own
log.
"""

import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from proxy.audit.reading.reader import read_all
from proxy.audit.reading.records import members_of
from proxy.catalog.loading import load_catalog
from tests.soak.load import Notes
from tests.soak.world import World

_ACCESS = re.compile(r"tornado\.access\[\d+\] \w+: \d{3} (?:GET|POST|HEAD) /api/([a-z_]+)")
SAMPLE_SECONDS = 1.0
GROWTH = 1.10  # what the memory of a process may grow between the first and the last third
GROWTH_BYTES = 6 << 20  # beside it: caches that were not full before
SPARE_DESCRIPTORS = 2  # such as a second pipe of the loop


@dataclass
class Verdict:
    """One thing that was to be proved."""

    what: str
    held: bool
    shown: str


def memory(pid: int) -> int:
    """Bytes of memory that are a process's own or shared with others (VmRSS)."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def descriptors(pid: int) -> int:
    """How many file descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Sampler(threading.Thread):
    """Notes the memory of each serving process every second."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._end = threading.Event()
        self.began = time.monotonic()
        self.samples: list[tuple[float, int, int]] = []

    def run(self) -> None:
        """Until told to end."""
        while not self._end.wait(SAMPLE_SECONDS):
            for pid in self._world.serving():
                try:
                    self.samples.append((time.monotonic(), pid, memory(pid)))
                except OSError:
                    continue  # it has ended meanwhile

    def end(self) -> None:
        """Take no more samples."""
        self._end.set()
        self.join()

    def verdict(self) -> Verdict:
        """The median of the first third of the run against that of the last: of the largest process
        at each time.
        """
        largest: dict[int, int] = {}
        for moment, _, size in self.samples:
            second = int(moment - self.began)
            largest[second] = max(size, largest.get(second, 0))
        length = max(largest)
        first = median(size for second, size in largest.items() if second <= length / 3)
        last = median(size for second, size in largest.items() if second >= 2 * length / 3)
        most = max(size for _, _, size in self.samples)
        shown = f"{first / 2**20:.1f} MB in the first third, {last / 2**20:.1f} MB in the last, never above {most / 2**20:.1f} MB"
        return Verdict("memory of a process is flat", last <= first * GROWTH + GROWTH_BYTES, shown)


def descriptors_verdict(world: World, idle: int) -> Verdict:
    """With everybody gone, each process is back at what it had before anybody came."""
    deadline = time.monotonic() + 60.0
    while True:
        now = max(map(descriptors, world.serving()))
        if now <= idle or time.monotonic() > deadline:
            return Verdict(
                "no file descriptor leaked",
                now <= idle + SPARE_DESCRIPTORS,
                f"{idle} idle before, {now} idle after",
            )
        time.sleep(0.5)


@dataclass
class Accounts:
    """The journal, added up."""

    records: int = 0
    logs: set[str] = field(default_factory=set)
    # allowed calls by upstream and method; heartbeats as windows
    decided: Counter[tuple[str, str]] = field(default_factory=Counter)
    # allowed calls by subject and method
    callers: Counter[tuple[str, str]] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    tasks: set[str] = field(default_factory=set)
    beats: int = 0
    lost_windows: int = 0
    gaps: int = 0
    open: dict[tuple[str, int], str] = field(default_factory=dict)
    twice: int = 0


def add_up(directory: Path) -> Accounts:
    """Read the whole journal once."""
    found = Accounts()
    ids: set[str] = set()
    windows: set[tuple[str, int]] = set()
    for item in read_all(directory):
        record, stage = members_of(item.raw), members_of(item.raw)["stage"]
        found.records += 1
        found.logs.add(item.log)
        if stage == "decided":
            if record["decision"] != "allow":
                found.denied.update(_reasons(record))
                continue
            place = (item.log, record["seq"])
            found.open[place] = record["id"]
            found.decided[record["upstream"], record["method"]] += 1
            found.callers[record["principal"]["subject"], record["method"]] += 1
            found.twice += record["id"] in ids
            ids.add(record["id"])
            if "window" in record:
                windows.add(place)
            if isinstance(record.get("task"), str):
                found.tasks.add(record["task"])
        elif stage == "completed":
            place = (item.log, record["decided_seq"])
            del found.open[place]
            found.outcomes[
                record["outcome"]
                if record["outcome"] != "failed"
                else record.get("reason", "failed")
            ] += 1
            if place in windows:
                found.beats += record["window"]["calls"] if "window" in record else 0
                found.lost_windows += "window" not in record
        elif stage == "rejected":
            found.rejected.update(_reasons(record))
        elif stage == "gap":
            found.gaps += 1
    return found


def _reasons(record: dict[str, Any]) -> dict[str, int]:
    """How often each reason was given: once, or as a summary says."""
    if "summary" in record:
        reasons: dict[str, int] = record["summary"]["reasons"]
        return reasons
    return {record["reason"]: 1}


def call_verdicts(
    world: World, accounts: Accounts, notes: Notes, known_tasks: set[str]
) -> list[Verdict]:
    """What the schedulers and the callers saw, against the journal."""
    seen = Counter(_ACCESS.findall(world.luigid.log.read_text(errors="replace")))
    seen["task_list"] -= 1  # our own question at the end, which did not pass the gate
    methods = load_catalog(world.policies / "catalogs" / "luigi.toml").methods
    acting = {
        name: count
        for name, count in seen.items()
        if methods[name].permission != "view" and not methods[name].heartbeat
    }
    views = {name: count for name, count in seen.items() if methods[name].permission == "view"}
    more = {
        name: count for name, count in acting.items() if count > accounts.decided["luigi", name]
    }
    more_views = {
        name: count for name, count in views.items() if count > accounts.decided["luigi", name]
    }
    beats = sum(count for name, count in seen.items() if methods[name].heartbeat)
    answered = {key: count for key, count in notes.good.items() if key[1] != "system.multicall"}
    unrecorded = {key: count for key, count in answered.items() if count > accounts.callers[key]}
    shared = sum(accounts.decided["luigi", name] for name in views) - sum(views.values())
    return [
        Verdict(
            "every acting call that luigid saw is decided",
            not more,
            f"{sum(acting.values())} seen; {more or 'none'} undecided",
        ),
        Verdict(
            "every view that luigid saw is decided",
            not more_views,
            f"{sum(views.values())} seen, {shared} more answered from shared ones",
        ),
        Verdict(
            "every heartbeat that luigid saw is counted, but in windows that a kill cut off",
            beats <= accounts.beats or accounts.lost_windows > 0,
            f"{beats} seen, {accounts.beats} in closed windows; {accounts.lost_windows} windows cut off by kills",
        ),
        Verdict(
            "every task that luigid knows is decided",
            known_tasks <= accounts.tasks,
            f"{len(known_tasks)} tasks",
        ),
        Verdict(
            "every call that was answered is decided",
            not unrecorded,
            f"{sum(answered.values())} answered; {unrecorded or 'none'} undecided",
        ),
        Verdict(
            "every decided call is completed or unknown",
            not accounts.open,
            f"{accounts.outcomes.total()} closed, {len(accounts.open)} open",
        ),
        Verdict("no call is decided twice", not accounts.twice, f"{accounts.twice} twice"),
    ]


def log_verdict(world: World) -> Verdict:
    """The gate's log tells of no surprise of its own."""
    text = world.gate.text()
    surprises = text.count("internal error") + text.count("Traceback")
    return Verdict(
        "no internal error in the gate's log",
        not surprises,
        f"{surprises} found in {len(text.splitlines())} lines",
    )


def journal_verdict(world: World) -> Verdict:
    """`callgate audit verify` says intact."""
    done = world.callgate("audit", "verify", "--dir", str(world.audit))
    last = " ".join((done.stdout + done.stderr).split())
    return Verdict(
        "callgate audit verify says intact",
        done.returncode == 0,
        f"exit {done.returncode}" + ("" if not done.returncode else f": {last[-300:]}"),
    )
