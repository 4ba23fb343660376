"""Counts of calls for Prometheus: numbers about calls, never about callers.

The hot path adds to plain dictionaries. The collector turns them into metric families during a
scrape, so scrapes pay for that and not the calls. `proxy.runtime.metrics_endpoint` serves them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

# Upper bounds of the histogram's buckets, in seconds.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one process.

    `gauges` and `counters` hold a name, a help text and a function each; a scrape calls the
    function. `labelled_gauges` hold the name of a label, too, and a function that returns a value
    for each value of the label.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str, str], int] = {}
        self._rejected: dict[str, int] = {}
        self._outcomes: dict[str, int] = {}
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self.gauges: list[tuple[str, str, Callable[[], float]]] = []
        self.counters: list[tuple[str, str, Callable[[], float]]] = []
        self.labelled_gauges: list[tuple[str, str, str, Callable[[], dict[str, float]]]] = []

    def call_decided(self, upstream: str, permission: str, reason: str) -> None:
        """Count one decided call."""
        key = (upstream, permission, reason)
        self._calls[key] = self._calls.get(key, 0) + 1

    def call_completed(self, seconds: float, outcome: str = "ok") -> None:
        """Count one allowed call that was answered `seconds` after its decision.

        `outcome` is "ok", "fault" or the reason code of a failure.
        """
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def request_rejected(self, reason: str) -> None:
        """Count one request that never became a call."""
        self._rejected[reason] = self._rejected.get(reason, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families (the collector interface of prometheus_client)."""
        calls = CounterMetricFamily(
            "callgate_calls",
            "Decided calls by upstream, class and reason.",
            labels=["upstream", "class", "reason"],
        )
        for labels, count in self._calls.items():
            calls.add_metric(list(labels), count)
        yield calls
        rejected = CounterMetricFamily(
            "callgate_rejected_requests", "Requests that never became a call.", labels=["reason"]
        )
        for reason, count in self._rejected.items():
            rejected.add_metric([reason], count)
        yield rejected
        completed = CounterMetricFamily(
            "callgate_completed_calls", "Allowed calls by outcome.", labels=["outcome"]
        )
        for outcome, count in self._outcomes.items():
            completed.add_metric([outcome], count)
        yield completed
        total, buckets = 0, []
        for bound, count in zip([*map(str, _BOUNDS), "+Inf"], self._buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        yield HistogramMetricFamily(
            "callgate_call_seconds",
            "Seconds from the decision to the end of the answer.",
            buckets=buckets,
            sum_value=self._seconds,
        )
        for name, help_text, value in self.gauges:
            yield GaugeMetricFamily(name, help_text, value=value())
        for name, help_text, value in self.counters:
            yield CounterMetricFamily(name, help_text, value=value())
        for name, help_text, label, values in self.labelled_gauges:
            family = GaugeMetricFamily(name, help_text, labels=[label])
            for labelled, number in values().items():
                family.add_metric([labelled], number)
            yield family
