"""Counts calls by principal, method and result, and refusals by reason.

Heartbeat windows and floods count as the calls that they cover.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.audit.reading.query import CallRecord
from proxy.audit.reading.records import RejectedRecord
from proxy.audit.reading.rows import principal_name


@dataclass(slots=True)
class Stats:
    """Counters over calls: `calls` counts what was decided, `rejected` what became no call."""

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
        self.first = min(self.first or record.time, record.time)
        self.last = max(self.last, record.time)
        self.results[call.result] += count
        if isinstance(record, RejectedRecord):
            self.rejected += count
            if record.summary is None:
                self.refusals[call.reason] += 1
            else:
                self.refusals.update(record.summary.reasons)
            return
        self.calls += count
        self.principals[principal_name(record.principal)] += count
        named = record.upstream, record.method
        self.methods["(others)" if None in named else " ".join(map(str, named))] += count
        if not record.allowed:
            self.refusals[call.reason] += count


def count(calls: Iterable[CallRecord]) -> Stats:
    """Count all of them."""
    stats = Stats()
    for call in calls:
        stats.add(call)
    return stats
