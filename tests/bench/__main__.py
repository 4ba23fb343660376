"""The command line of the bench; ``make bench`` runs all of it.

``python -m tests.bench`` measures everything and prints the tables; ``python -m tests.bench table``
(or any other part) measures that alone; ``profile`` shows where CPU time goes. BENCH_SECONDS or
--seconds bounds the whole, roughly.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import (
    audit_cost,
    compare,
    largest,
    memory,
    overload,
    processes,
    profiler,
    records,
    report,
    schedulers,
    starting,
)
from tests.bench.calls import all_calls
from tests.bench.compare import Results, Row
from tests.bench.report import Target
from tests.bench.tools import Tools, get_tools, home

PARTS = (
    "table",
    "throughput",
    "overload",
    "largest",
    "dashboards",
    "processes",
    "memory",
    "start",
    "audit",
    "reading",
)
_PEERLESS = frozenset(PARTS) - {"table", "throughput"} | {"profile"}
_REST = 740.0  # seconds that everything but the table takes, roughly


def main() -> None:
    """Run what was asked for."""
    given = _arguments()
    os.umask(0o022)  # the gate refuses policies that others can write
    wanted = _rows(given)
    tools = get_tools(_say, peers=given.part not in _PEERLESS)
    if given.part == "profile":
        with _scratch() as directory:
            profiler.profile(
                tools, directory, wanted, tls=given.tls, seconds=given.each or 5, say=_print
            )
        return
    about = report.machine(tools.versions())
    if os.getloadavg()[0] > 0.5:
        _say(
            "The machine is busy: ratios hold, since all run in turns; latencies and calls per second do not."
        )
    began = time.monotonic()
    parts = PARTS if given.part == "all" else (given.part,)
    results: Results = {}
    targets: list[Target] = []
    failed: list[str] = []
    for part in parts:
        _say(f"--- {part} ({time.monotonic() - began:.0f} s so far)")
        try:
            with _scratch() as directory:
                if part == "table":
                    results = _table(tools, directory, given, wanted, began)
                    targets += report.cpu_targets(results)
                else:
                    targets += _part(part, tools, directory, given)
        except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            failed.append(part)  # the other parts are still worth having
            _say(f"{part} failed: {error}")
            targets.append((part, "–", "failed", False))
    lines = [about + ".", ""]
    if results:
        lines += [*report.cpu_table(results), "", *report.speed_table(results), ""]
    lines += report.target_table(targets)
    sys.stdout.write("\n".join(lines) + "\n")
    report.keep(home() / "results.json", results, targets, about)
    if given.readme and not failed and not report.write_readme(lines):
        _say("tests/bench/README.md has no place for the table")
    _say(f"took {time.monotonic() - began:.0f} s")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _rows(given: argparse.Namespace) -> list[Row]:
    """The rows whose titles hold what was asked for; at least one."""
    rows = (
        [Row(call, given.tls) for call in all_calls()]
        if given.part == "profile"
        else compare.rows()
    )
    wanted = [row for row in rows if given.rows.lower() in row.title.lower()]
    if not wanted:
        raise SystemExit(
            f"no row's title holds {given.rows!r}: {', '.join(row.title for row in rows)}"
        )
    return wanted


def _table(
    tools: Tools, directory: Path, given: argparse.Namespace, wanted: list[Row], began: float
) -> Results:
    until = began + given.seconds - (_REST if given.part == "all" and not given.quick else 0)
    with compare.field_of(tools, directory, set(given.only), _say) as field:
        rounds = given.rounds or (1 if given.quick else 5)
        return compare.compare(
            field, wanted, rounds=rounds, seconds=given.each or 1, until=until, say=_say
        )


def _part(part: str, tools: Tools, directory: Path, given: argparse.Namespace) -> list[Target]:
    quick = given.quick
    rounds, seconds = given.rounds or (1 if quick else 3), given.each or (2 if quick else 3)
    million = 5_000 if quick else 1_000_000
    kinds: dict[str, Callable[[], list[Target]]] = {
        "throughput": lambda: report.throughput_targets(
            schedulers.throughput(
                tools,
                directory,
                rounds=rounds if quick else max(9, rounds),
                windows=3 if quick else schedulers.WINDOWS,
                seconds=seconds,
                say=_say,
            )
        ),
        "overload": lambda: report.overload_targets(
            overload.overload(
                directory, rounds=rounds if quick else max(10, rounds), seconds=3, say=_say
            )
        ),
        "largest": lambda: report.largest_targets(
            largest.largest(directory, seconds=2 if quick else 20, say=_say)
        ),
        "dashboards": lambda: report.dashboard_targets(
            schedulers.dashboards(directory, seconds=10 if quick else 30, say=_say)
        ),
        "processes": lambda: report.process_targets(
            processes.processes(
                tools, directory, rounds=rounds if quick else max(7, rounds), seconds=2
            )
        ),
        "memory": lambda: report.memory_targets(
            memory.memory(
                tools,
                directory,
                calls=given.calls or million,
                idle=200 if quick else given.idle,
                say=_say,
            )
        ),
        "start": lambda: report.start_targets(starting.start_seconds(directory, rounds=rounds)),
        "audit": lambda: report.audit_lines(
            audit_cost.audit_cost(tools, directory, rounds=rounds, seconds=seconds)
        ),
        "reading": lambda: report.reading_lines(
            records.reading(directory, records=given.records or (10_000 if quick else 200_000))
        ),
    }
    return kinds[part]()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory on the same disk as the checkout (a journal in memory would cost nothing), gone
    afterwards.
    """
    path = Path(tempfile.mkdtemp(prefix="run-", dir=home()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Callgate against its peers, and against its targets.",
    )
    parser.add_argument(
        "part",
        nargs="?",
        default="all",
        choices=["all", *PARTS, "profile"],
        help="what to measure (all)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round of everything: shows that it works, not how fast",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=float(os.environ.get("BENCH_SECONDS", "1100")),
        help="bound of the whole (1000)",
    )
    parser.add_argument("--each", type=int, default=0, help="seconds of one run of the client")
    parser.add_argument(
        "--rounds", type=int, default=0, help="rounds over which the median is taken"
    )
    parser.add_argument(
        "--rows", default="", help="only rows whose title holds this (table, profile)"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="PEER", help="only these columns (table)"
    )
    parser.add_argument("--tls", action="store_true", help="with TLS (profile)")
    parser.add_argument(
        "--calls", type=int, default=0, help="calls for memory over time (a million)"
    )
    parser.add_argument("--idle", type=int, default=5_000, help="idle TLS connections (5,000)")
    parser.add_argument(
        "--records",
        type=int,
        default=0,
        help="records to read (200,000; the target speaks of a million)",
    )
    parser.add_argument(
        "--readme",
        action="store_true",
        help="write the tables between the markers of tests/bench/README.md",
    )
    return parser.parse_args()


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
