"""The numbers that a scrape shows."""

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from proxy.telemetry.metrics import Metrics


def scraped(metrics: Metrics) -> list[str]:
    """Return the lines of the exposition format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return generate_latest(registry).decode().splitlines()


def test_calls_are_counted_by_upstream_class_and_reason() -> None:
    """Every decided call is in exactly one series, and so is every rejected request."""
    metrics = Metrics()
    for _ in range(3):
        metrics.call_decided("luigi", "view", "allowed")
    metrics.call_decided("luigi", "admin", "no-policy-allows")
    metrics.request_rejected("no-credential")
    metrics.request_rejected("no-credential")
    lines = scraped(metrics)
    assert 'callgate_calls_total{class="view",reason="allowed",upstream="luigi"} 3.0' in lines
    assert (
        'callgate_calls_total{class="admin",reason="no-policy-allows",upstream="luigi"} 1.0'
        in lines
    )
    assert 'callgate_rejected_requests_total{reason="no-credential"} 2.0' in lines


def test_completed_calls_are_counted_by_outcome() -> None:
    """A failing upstream shows in a series of its own, under the reason code of the response."""
    metrics = Metrics()
    metrics.call_completed(0.1)
    metrics.call_completed(0.1, "upstream-unreachable")
    lines = scraped(metrics)
    assert 'callgate_completed_calls_total{outcome="upstream-unreachable"} 1.0' in lines
    assert 'callgate_completed_calls_total{outcome="ok"} 1.0' in lines


@pytest.mark.parametrize(
    ("seconds", "first"),
    [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (10.0, "10.0"), (11.0, "+Inf")],
)
def test_a_duration_falls_into_every_bucket_that_holds_it(seconds: float, first: str) -> None:
    """Buckets are cumulative, as Prometheus reads them: each counts what took at most its bound."""
    metrics = Metrics()
    metrics.call_completed(seconds)
    text = "\n".join(scraped(metrics))
    buckets = dict(re.findall(r'callgate_call_seconds_bucket\{le="([^"]+)"\} (\S+)', text))
    bounds = list(buckets)
    assert bounds[-1] == "+Inf"
    assert [buckets[bound] == "1.0" for bound in bounds] == [
        index >= bounds.index(first) for index in range(len(bounds))
    ]
    assert f"callgate_call_seconds_sum {seconds}" in text
    assert "callgate_call_seconds_count 1.0" in text


def test_gauges_are_read_during_a_scrape() -> None:
    """A gauge shows its value at the time of the scrape."""
    metrics = Metrics()
    values = iter([1.0, 2.0])
    metrics.gauges.append(("callgate_thing", "A thing.", lambda: next(values)))
    assert "callgate_thing 1.0" in scraped(metrics)
    assert "callgate_thing 2.0" in scraped(metrics)


def test_counters_and_labelled_gauges_are_read_by_the_scrape() -> None:
    """Parts keep their own counts, and a gauge can have a value for each of several things."""
    metrics = Metrics()
    count = 1
    metrics.counters.append(("callgate_things", "Things.", lambda: count))
    metrics.labelled_gauges.append(
        ("callgate_left_seconds", "Seconds.", "certificate", lambda: {"a": -1.0, "b": 2.0})
    )
    count = 3
    lines = scraped(metrics)
    assert "callgate_things_total 3.0" in lines
    assert 'callgate_left_seconds{certificate="a"} -1.0' in lines
    assert 'callgate_left_seconds{certificate="b"} 2.0' in lines
