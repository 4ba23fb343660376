"""What was measured, as text: the tables, the targets with what became of them, and the machine it
was on.
"""

import datetime
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.audit_cost import AuditCost
from tests.bench.calls import LARGE, MEDIUM, PARTS, PING
from tests.bench.compare import Results, Row
from tests.bench.largest import TARGET_MS, Largest
from tests.bench.memory import Memory
from tests.bench.overload import IN_FLIGHT, TIMES, Overload
from tests.bench.peers import BARE, INTERPRETED
from tests.bench.processes import Processes
from tests.bench.records import Reading
from tests.bench.schedulers import NOWHERE, Dashboards, Throughput
from tests.support.paths import ROOT

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_UNCOMPARED = ("Callgate", INTERPRETED, BARE, "upstream alone")
_ORDER = ("Callgate", INTERPRETED, "Envoy", "HAProxy", "mitmproxy", BARE, "upstream alone")
Target = tuple[str, str, str, bool | None]
"""What, target, measured, and whether it is met (None: not measured)."""


def machine(versions: Mapping[str, str]) -> str:
    """The machine, the versions and the date, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    busy = os.getloadavg()[0]  # what else the machine was doing when this was asked
    place = f"{os.cpu_count()} cores of {model}, load {busy:.1f} at the start"
    return f"{today}, {place}, Linux {'.'.join(platform.release().split('.')[:2])}, Python {platform.python_version()}, {shown}"


def cpu_table(results: Results) -> list[str]:
    """CPU per call of every row and column, medians, with Callgate's ratio to each: the median of
    the rounds' ratios.
    """
    names = _columns(results)
    lines = _head(["CPU per call, µs (Callgate is × of it)", *names])
    for row, cells in results.items():
        own = cells.get("Callgate")
        shown = [row.title]
        for name in names:
            value = cells[name].median("cpu_us")
            ratio = (
                ""
                if own is None or name in _UNCOMPARED
                else f" ({_number(own.times(cells[name]))}×)"
            )
            shown.append(f"{_number(value)}{ratio}")
        lines.append(_line(shown))
    return lines


def speed_table(results: Results) -> list[str]:
    """Calls per second, p50, p99 and errors of every row and column."""
    names = _columns(results)
    lines = _head(["calls/s · p50 ms · p99 ms · errors", *names])
    for row, cells in results.items():
        shown = [row.title]
        for name in names:
            cell = cells[name]
            parts = [
                f"{cell.median('rate'):,.0f}",
                _number(cell.median("p50_ms")),
                _number(cell.median("p99_ms")),
                str(cell.errors),
            ]
            shown.append(" · ".join(parts))
        lines.append(_line(shown))
    return lines


def cpu_targets(results: Results) -> list[Target]:
    """The targets about CPU per call against each peer: every row has to meet them."""
    found: list[Target] = []
    rules: list[tuple[str, str, float, Callable[[Row], bool]]] = [
        (
            "CPU per XML-RPC call against Envoy's thinner job",
            "Envoy",
            1.0,
            lambda row: row.call.protocol == "xmlrpc",
        ),
        (
            "CPU per Luigi call against Envoy's thinner job",
            "Envoy",
            0.8,
            lambda row: row.call.protocol == "luigi",
        ),
        ("CPU per call against HAProxy's thinner job", "HAProxy", 2.5, lambda row: True),
        ("CPU per call against mitmproxy", "mitmproxy", 1 / 15, lambda row: True),
    ]
    for what, peer, limit, wanted in rules:
        ratios = {
            row: cells["Callgate"].times(cells[peer])
            for row, cells in results.items()
            if wanted(row) and {"Callgate", peer} <= cells.keys()
        }
        goal = "at most 1/15" if limit < 0.1 else f"at most {limit:g}×"
        if not ratios:
            found.append((what, goal, "not measured", None))
            continue
        say: Callable[[float], str] = (
            (lambda ratio: f"1/{1 / ratio:.1f}") if limit < 0.1 else (lambda ratio: f"{ratio:.2f}×")
        )
        parts = []
        for size, kinds in {
            "up to 900 B": (PING, MEDIUM),
            "at 100 kB": (LARGE,),
            "at 100 kB in 1,000 parts": (PARTS,),
        }.items():
            some = [ratio for row, ratio in ratios.items() if row.call.name in kinds]
            if some:
                parts.append(
                    f"{say(min(some))} to {say(max(some))} {size}"
                    if len(some) > 1
                    else f"{say(some[0])} {size}"
                )
        met = sum(ratio <= limit for ratio in ratios.values())
        found.append(
            (
                what,
                goal,
                f"{'; '.join(parts)}; {met} of {len(ratios)} rows meet it",
                met == len(ratios),
            )
        )
    return found


def throughput_targets(found: Throughput) -> list[Target]:
    """A real luigid through the gate."""
    errors = f"; {len(found.errors)} runs with errors" if found.errors else "; no errors"
    late, added = found.p99_ms, found.added_ms
    others = f"; Envoy {found.ratio['Envoy']:.2f}" if "Envoy" in found.ratio else ""
    beside = "".join(f"; {way} {added[way]:+.1f} ms" for way in (NOWHERE, "Envoy") if way in added)
    return [
        ("throughput of a real luigid through the gate, mix of ping, get_work, add_task", "at least 0.97 of direct",
         f"{found.ratio['gate']:.2f} ({found.rate['gate']:.0f} of {found.rate['direct']:.0f} calls/s){others}{errors}",
         found.ratio["gate"] >= 0.97 and not found.errors),
        (f"p99 added at half load ({found.half_rate:.0f} calls/s)", "at most 2 ms",
         f"{added['gate']:+.1f} ms ({late['direct']:.1f} direct, {late['gate']:.1f} through){beside}", added["gate"] <= 2),
    ]  # fmt: skip


def overload_targets(found: Overload) -> list[Target]:
    """More callers than the gate takes."""
    what = f"{TIMES} times as many callers as the gate takes ({TIMES * IN_FLIGHT} for {IN_FLIGHT} places): "
    errors = f"; {len(found.errors)} errors" if found.errors else ""
    return [
        (f"{what}p99 of calls that are taken", "as with as many callers as places, here at most 1.2 of that",
         f"{found.kept:.2f} of it ({found.over_ms:.0f} ms, and {found.full_ms:.0f} before and afterwards){errors}",
         found.kept <= 1.2 and not found.errors),
        (f"{what}the others are told", "at once",
         f"{found.refused:,} refusals beside {found.taken:,} calls, p50 {found.refusal_p50_ms:.1f}, p99 {found.refusal_ms:.0f} ms", None),
        (f"{what}heartbeats refused", "none before the last", f"{found.pings_refused} of {found.pings}", found.pings_refused == 0),
    ]  # fmt: skip


def largest_targets(found: Largest) -> list[Target]:
    """One caller's pings beside the largest calls of another."""
    what = "another caller's ping p99.9 while one sends the largest calls, back to back: "
    return [
        (f"{what}{name}", f"at most {TARGET_MS:.0f} ms",
         f"{late:.1f} ms (p50 {half:.1f}, longest {longest:.1f}, of {pings:,} beside {calls:,} calls)", late <= TARGET_MS)
        for name, (half, late, longest, pings, calls) in found.rows.items()
    ]  # fmt: skip


def dashboard_targets(found: Dashboards) -> list[Target]:
    """Sixteen dashboards over ten thousand tasks."""
    page = found.page_s["gate"] / found.page_s["direct"]
    ping = found.ping_p99_ms["gate"] / found.ping_p99_ms["direct"]
    page_s, ping_ms = found.page_s, found.ping_p99_ms
    errors = f"; {len(found.errors)} errors" if found.errors else ""
    what = "16 dashboards over 10,000 pending tasks while 50 workers run: "
    return [
        (f"{what}page data", "at most a third of direct",
         f"{page:.2f} of direct ({page_s['gate']:.1f} s against {page_s['direct']:.1f} s){errors}",
         page <= 1 / 3 and not found.errors),
        (f"{what}workers' ping p99", "at most half of direct",
         f"{ping:.2f} of direct ({ping_ms['gate']:.0f} ms against {ping_ms['direct']:.0f} ms)", ping <= 0.5),
    ]  # fmt: skip


def process_targets(found: Processes | None) -> list[Target]:
    """Two processes against one."""
    what = "two processes against one"
    if found is None:
        return [(what, "CPU per call within 5 %, load split within 10 %", "not built", None)]
    return [
        (f"{what}: CPU per call", "at most 5 % more",
         f"{found.more:+.1%} ({found.two_us:.0f} against {found.one_us:.0f} µs)", found.more <= 0.05),
        (f"{what}: load split", "within 10 %", f"the busier one {found.uneven:+.1%} over half", found.uneven <= 0.10),
    ]  # fmt: skip


def memory_targets(found: Memory) -> list[Target]:
    """Memory in all four ways."""
    growth = found.late_mb - found.early_mb
    return [
        ("memory under load, one process", "at most 80 MB", f"{found.peak_mb:.1f} MB at most in {found.calls:,} calls over TLS",
         found.peak_mb <= 80),
        ("memory over a million calls", "flat",
         f"{growth:+.1f} MB from call {found.early:,} to {found.calls:,} ({found.growth_mb_per_million:+.0f} MB scaled to a million)",
         growth <= 2),
        ("idle TLS connections", "5,000 at most 60 kB each", f"{found.idle:,} at {found.idle_kb:.1f} kB each", found.idle_kb <= 60),
        ("a 50 MB answer", "at most 2 MB", f"{found.answer_mb:.1f} MB for {found.answer_size_mb:.0f} MB", found.answer_mb <= 2),
    ]  # fmt: skip


def start_targets(found: tuple[float, float]) -> list[Target]:
    """Starting with a hundred policies."""
    return [
        (
            "start: `serve` ready with 100 policies",
            "at most 1 s",
            f"{found[0]:.2f} s ({found[1]:.2f} s of CPU)",
            found[0] <= 1.0,
        )
    ]


def audit_lines(found: AuditCost) -> list[Target]:
    """What the audit costs."""
    added = found.durable_us - found.nowhere_us
    return [
        ("an audited call against a journal that goes nowhere", "–",
         f"{found.durable_us:.0f} against {found.nowhere_us:.0f} µs of CPU ({added:+.0f}), p50 {found.durable_p50_ms:.1f} against "
         f"{found.nowhere_p50_ms:.1f} ms, {found.connections} connections", None),
        ("calls per fsync under load", "–", f"{found.calls_per_fsync:.1f} ({found.records_per_call:.2f} records a call)", None),
    ]  # fmt: skip


def reading_lines(found: Reading) -> list[Target]:
    """How fast the journal is read."""
    query = "not built" if found.query is None else f"{found.query:,.0f} records/s"
    return [
        (
            f"`callgate audit verify` over {found.records:,} records",
            "–",
            f"{found.verify:,.0f} records/s",
            None,
        ),
        (f"`callgate audit query` over {found.records:,} records", "–", query, None),
        (
            "the journal's size",
            "–",
            f"{found.plain_bytes:.0f} bytes a call, {found.sealed_bytes:.0f} in sealed segments (900-byte add_task)",
            None,
        ),
    ]


def target_table(targets: Sequence[Target]) -> list[str]:
    """The targets and what became of them."""
    verdicts = {True: "met", False: "**missed**", None: ""}
    return [
        *_head(["what", "target", "measured", ""]),
        *(_line([what, goal, got, verdicts[met]]) for what, goal, got, met in targets),
    ]


def write_readme(lines: Sequence[str], path: Path = ROOT / "tests" / "bench" / "README.md") -> bool:
    """Put `lines` between the markers of the README; False when it has none."""
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        return False
    before, _, rest = text.partition(BEGIN)
    path.write_text(
        f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}",
        encoding="utf-8",
    )
    return True


def keep(path: Path, results: Results, targets: Sequence[Target], about: str) -> None:
    """Write the figures of a run as JSON, every sample of them."""
    rows: dict[str, dict[str, Any]] = {
        row.title: {
            name: [
                [one.cpu_us, one.rate, one.p50_ms, one.p99_ms, one.errors, one.calls]
                for one in cell.samples
            ]
            for name, cell in cells.items()
        }
        for row, cells in results.items()
    }
    columns = ["cpu_us", "rate", "p50_ms", "p99_ms", "errors", "calls"]
    path.write_text(
        json.dumps({"about": about, "columns": columns, "rows": rows, "targets": targets}, indent=1)
    )


def _columns(results: Results) -> list[str]:
    present = {name for cells in results.values() for name in cells}
    return [name for name in _ORDER if name in present]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(["---"] * len(titles))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
