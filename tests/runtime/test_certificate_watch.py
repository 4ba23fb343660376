"""Certificates that change, and certificates whose end is near."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.cli.demo.certificate import make_self_signed
from proxy.edge.tls import ReloadingCertificate
from proxy.edge.validity import Validity
from proxy.runtime.certificate_watch import CertificateWatch, ClientCertificate

DAY = 86_400.0


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ending(after: float, clock: Callable[[], float]) -> ClientCertificate:
    """Return a certificate that ends so many seconds later."""
    return ClientCertificate(Validity(0.0, clock() + after))


def test_a_certificate_that_ends_soon_is_reported_once_a_day() -> None:
    """A warning from two weeks before, and an error once it has ended; never a flood."""
    clock = Clock(1e9)
    watch = CertificateWatch({"listeners[0].certificate": ending(16 * DAY, clock)}, clock=clock)
    levels = []
    for _ in range(18 * 24):
        with capture_logs() as logs:
            watch.check()
            watch.check()
        levels += [(log["log_level"], log["event"]) for log in logs]
        assert all(log["certificate"] == "listeners[0].certificate" for log in logs)
        clock.now += 3600
    assert levels.count(("warning", "certificate ends soon")) in (13, 14)
    assert levels.count(("error", "certificate has expired")) in (2, 3)
    assert len(levels) <= 16


def test_a_clock_that_is_set_back_does_not_silence_the_report() -> None:
    """A report is due again at any time before the last one."""
    clock = Clock(1e9)
    watch = CertificateWatch({"a": ending(DAY, clock)}, clock=clock)
    watch.check()
    clock.now -= 10 * DAY
    with capture_logs() as logs:
        watch.check()
    assert [log["event"] for log in logs] == ["certificate ends soon"]


def test_one_of_several_processes_reports() -> None:
    """All of them have the metric."""
    clock = Clock(1e9)
    watch = CertificateWatch({"a": ending(DAY, clock)}, reports=False, clock=clock)
    with capture_logs() as logs:
        watch.check()
    assert not logs
    assert watch.seconds_left() == {"a": DAY}


def test_the_metric_is_below_zero_once_a_certificate_has_ended() -> None:
    """An alert on less than two weeks covers both."""
    clock = Clock(1e9)
    watch = CertificateWatch({"a": ending(10.0, clock), "b": ending(100.0, clock)}, clock=clock)
    clock.now += 20.0
    assert watch.seconds_left() == {"a": -10.0, "b": 80.0}


@pytest.mark.parametrize("days", [91, -2], ids=["expired", "not yet valid"])
def test_a_pair_outside_its_time_is_an_error_in_the_log_and_not_taken(
    days: int, tmp_path: Path
) -> None:
    """The old pair stays, the error is logged once and says what is wrong."""
    made = make_self_signed(["localhost"], tmp_path, now=time.time() - DAY)
    watched = ReloadingCertificate(made.certificate, made.key)
    before = watched.validity
    watch = CertificateWatch({"listeners[0].certificate": watched})
    make_self_signed(["localhost"], tmp_path, now=time.time() - days * DAY)
    with capture_logs() as logs:
        for _ in range(5):
            watch.check()
    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("error", "certificate not reloaded")
    ]
    assert logs[0]["location"] == str(made.certificate)
    assert "UTC" in logs[0]["message"]
    assert watched.validity == before
    make_self_signed(["localhost"], tmp_path, now=time.time())
    with capture_logs() as logs:
        watch.check()
    assert [log["event"] for log in logs] == ["certificate reloaded"]
    assert watched.validity != before
