"""``python -m tests.soak --minutes N``: run everything through faults, then prove that nothing was
lost. Leaves with 1 if it was.
"""

# ruff: noqa: T201  (a command line prints)
import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.soak import load
from tests.soak.faults import FAULTS, SkippedFaultError
from tests.soak.load import (
    ROTATE_SECONDS,
    Caller,
    Dashboard,
    Notes,
    WorkerRuns,
    XmlRpcClient,
    be_patient,
)
from tests.soak.proof import (
    Accounts,
    Sampler,
    Verdict,
    add_up,
    call_verdicts,
    descriptors,
    descriptors_verdict,
    journal_verdict,
    log_verdict,
)
from tests.soak.world import PROCESSES, World

_ROUND_SECONDS = 240.0  # one round of all faults, with room between them
_CALM_SECONDS = 20.0  # at both ends
_GRACE_SECONDS = 3.0  # after a fault is mended, for those who had begun before
_DISK_MEGABYTES = 64  # and some more for each minute
_DISK_MEGABYTES_A_MINUTE = 24


@dataclass
class Happened:
    """One fault, as it was: when, and what it said or how it failed."""

    name: str
    began: float
    ended: float
    said: str
    held: bool = True


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Run everything through faults; prove that nothing was lost.",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help="how long; every fault comes once, however short this is",
    )
    given = parser.parse_args()
    seconds = given.minutes * 60
    be_patient()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        world = World(Path(name))
        try:
            world.start(int(_DISK_MEGABYTES + _DISK_MEGABYTES_A_MINUTE * given.minutes))
            return soak(world, seconds)
        finally:
            world.stop()


def soak(world: World, seconds: float) -> int:
    """Load, faults, proofs, and the last page."""
    began = time.monotonic()
    idle = max(descriptors(pid) for pid in world.serving())
    notes = Notes()
    runs = [WorkerRuns(world, number, requests=number % 2 == 0) for number in range(3)]
    rotating = Caller("tokens", ROTATE_SECONDS, lambda _: rotate(runs))
    callers = [Caller(run.subject, 0.1, run) for run in runs]
    callers += [Caller(f"dash-{n}", 0.5, Dashboard(world, notes, n)) for n in range(2)]
    callers += [Caller(f"rpc-{n}", 0.3, XmlRpcClient(world, notes, n)) for n in range(2)]
    sampler = Sampler(world)
    for thread in (*callers, rotating, sampler):
        thread.start()
    say(
        began,
        f"{len(runs)} workers, 2 dashboards and 2 XML-RPC clients call; {PROCESSES} processes serve",
    )
    happened = go_wrong(world, began, seconds)
    wait_until(began + seconds)
    sampler.end()
    for caller in callers:
        caller.tell_to_end()
    for caller in callers:
        caller.join(300)
    rotating.tell_to_end()
    say(began, "nobody calls any more")
    verdicts = [sampler.verdict(), descriptors_verdict(world, idle)]
    known = world.luigid.tasks()
    if world.gate.stop():
        verdicts.append(Verdict("the gate ends with 0", False, world.gate.text()[-300:]))
    accounts = add_up(world.audit)
    verdicts = [
        *call_verdicts(world, accounts, notes, known),
        journal_verdict(world),
        *verdicts,
        log_verdict(world),
    ]
    verdicts.append(workers_verdict(runs))
    verdicts.append(calm_verdict(notes, happened))
    verdicts += [Verdict(f"fault: {one.name}", False, one.said) for one in happened if not one.held]
    last_page(time.monotonic() - began, runs, notes, accounts, happened, verdicts)
    return 0 if all(verdict.held for verdict in verdicts) else 1


def rotate(runs: list[WorkerRuns]) -> None:
    """Give every worker a new token."""
    for run in runs:
        run.rotate()


def go_wrong(world: World, began: float, seconds: float) -> list[Happened]:
    """Bring about every fault once in each round, with equal pauses between."""
    rounds = max(1, round(seconds / _ROUND_SECONDS))
    count = rounds * len(FAULTS)
    step = max(0.0, seconds - 2 * _CALM_SECONDS) / count
    happened = []
    for number in range(count):
        wait_until(began + _CALM_SECONDS + number * step)
        name = list(FAULTS)[number % len(FAULTS)]
        start, held = time.monotonic(), True
        try:
            said = FAULTS[name](world)
        except SkippedFaultError as why:
            said = f"skipped: {why}"
        except (AssertionError, OSError) as error:
            said, held = f"{type(error).__name__}: {error}"[:300], False
        happened.append(Happened(name, start, time.monotonic(), said, held))
        say(began, f"{name}: {said}")
    return happened


def wait_until(moment: float) -> None:
    """Sleep until a moment of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))


def workers_verdict(runs: list[WorkerRuns]) -> Verdict:
    """Every worker left with 0 and had run all of its tasks, but those that a draining gate told to
    end.
    """
    codes = sum((run.codes for run in runs), Counter[int]())
    early = sum(run.ended_early for run in runs)
    bad = [text for run in runs for text in run.bad]
    counted = (
        f"{codes.total()} runs, exit codes {dict(codes)}, {sum(run.ran for run in runs)} tasks"
    )
    counted += f"; {early} told to end by a gate that shut down"
    return Verdict(
        "no worker failed",
        not bad and set(codes) == {0},
        f"{counted}; {bad[0]}" if bad else counted,
    )


def calm_verdict(notes: Notes, happened: list[Happened]) -> Verdict:
    """No caller was refused or cut off while nothing was wrong."""
    outside = [
        (who, why)
        for at, who, why in notes.bad
        if not any(one.began <= at <= one.ended + _GRACE_SECONDS for one in happened)
    ]
    return Verdict(
        "no call failed while nothing was wrong",
        not outside,
        f"{len(outside)} failed{': ' + str(outside[:5]) if outside else ''}",
    )


def last_page(
    seconds: float,
    runs: list[WorkerRuns],
    notes: Notes,
    accounts: Accounts,
    happened: list[Happened],
    verdicts: list[Verdict],
) -> None:
    """Print what was done, what went wrong, and what held."""
    views = sum(
        count
        for (_, method), count in accounts.decided.items()
        if method in {name for name, _ in load.XHRS}
    )
    print(f"\n## Soak: {seconds / 60:.1f} minutes, {PROCESSES} processes\n")
    print(
        f"{accounts.decided.total():,} calls allowed and decided before they were sent ({views:,} of the dashboards' kind), and"
    )
    print(
        f"{accounts.beats:,} heartbeats; {accounts.records:,} records in {len(accounts.logs)} logs; outcomes {shown(accounts.outcomes)};"
    )
    print(
        f"denied {shown(accounts.denied)}; rejected {shown(accounts.rejected)}; {accounts.gaps} gaps explained.\n"
    )
    print("| minute | fault | what was seen | calls that failed meanwhile |")
    print("|---|---|---|---|")
    first = happened[0].began - _CALM_SECONDS if happened else 0.0
    for one in happened:
        failed = Counter(
            why for at, _, why in notes.bad if one.began <= at <= one.ended + _GRACE_SECONDS
        )
        print(f"| {(one.began - first) / 60:.1f} | {one.name} | {one.said} | {shown(failed)} |")
    print("\n| held | what | shown |")
    print("|---|---|---|")
    for verdict in verdicts:
        print(f"| {'yes' if verdict.held else '**NO**'} | {verdict.what} | {verdict.shown} |")


def shown(counts: Counter[str]) -> str:
    """Counts, the most frequent first."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "none"


def say(began: float, text: str) -> None:
    """A line on the way."""
    print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
