"""Counts: who called what how often, and what was refused. Heartbeat windows and floods count as
the calls they stand for.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.audit.reading.query import CallRecord
from proxy.audit.reading.rows import principal_name


@dataclass(slots=True)
class Stats:
    """Counters over calls. `calls` counts what was decided, `rejected` what never became a call."""

    calls: int = 0
    rejected: int = 0
    principals: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    first: str = ""
    last: str = ""

    def add(self, call: CallRecord) -> None:
        """Count one call."""
        count, record = call.calls, call.decided
        time = str(record.get("time", ""))
        self.first = min(self.first or time, time)
        self.last = max(self.last, time)
        self.results[call.result] += count
        if call.result == "rejected":
            self.rejected += count
            inner = record.get("summary")
            if isinstance(inner, dict):
                self.refusals.update(
                    {str(reason): int(n) for reason, n in dict(inner.get("reasons", {})).items()}
                )
            else:
                self.refusals[call.reason] += 1
            return
        self.calls += count
        self.principals[principal_name(record)] += count
        self.methods[f"{record.get('upstream')} {record.get('method')}"] += count
        if call.result == "deny":
            self.refusals[call.reason] += count


def count(calls: Iterable[CallRecord]) -> Stats:
    """Count all of them."""
    stats = Stats()
    for call in calls:
        stats.add(call)
    return stats


def bar(value: int, largest: int, width: int = 30) -> str:
    """Return a bar of at most `width` cells, in eighths of a cell, at least a sliver for anything
    above zero.
    """
    eighths = 0 if largest <= 0 else max(1 if value else 0, round(value * width * 8 / largest))
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")
