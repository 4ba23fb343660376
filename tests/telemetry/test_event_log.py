"""Events are limited in rate and counted beyond the limit."""

import asyncio
import io
import json
from collections.abc import Callable

import pytest

from proxy.telemetry.event_log import EventLog
from proxy.telemetry.logging import configure_logging


class ManualClock:
    """A clock that a test advances, with its timers."""

    def __init__(self) -> None:
        self.now = 1000.9
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self.timers.append((self.now + seconds, function))

    def advance(self, seconds: float) -> None:
        """Call the functions whose time has come."""
        self.now += seconds
        due = [function for at, function in self.timers if at <= self.now]
        self.timers = [(at, function) for at, function in self.timers if at > self.now]
        for function in due:
            function()


pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.fixture
def written() -> io.StringIO:
    """Configure logging to a stream in memory, and return it."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    return stream


def lines(stream: io.StringIO, event: str) -> list[dict[str, object]]:
    """Return the lines about one event."""
    return [
        line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == event
    ]


def deny(log: EventLog, principal: str, number: int) -> None:
    """Log one denied call."""
    log.denied(f"R{number}", principal, "luigi", "pause", "no-permit")


def test_a_flood_of_denied_calls_writes_a_few_lines_and_a_count(
    written: io.StringIO,
) -> None:
    """28,000 denied calls of one principal give 5 lines a second and a summary with its name."""
    clock = ManualClock()
    log = EventLog(clock.time, clock.call_later)
    for second in range(3):
        for number in range(28_000):
            deny(log, "local|loud", number)
        assert len(lines(written, "denied")) == 5 * (second + 1)
        clock.advance(1.0)
    more = lines(written, "more calls denied")
    assert [(line["count"], line["principals"], line["top_key"]) for line in more] == [
        (27_995, 1, "local|loud")
    ] * 3
    assert not clock.timers


def test_a_flood_of_one_principal_does_not_hide_another(written: io.StringIO) -> None:
    """The first denied calls of each principal are written."""
    clock = ManualClock()
    log = EventLog(clock.time, clock.call_later)
    for number in range(1000):
        deny(log, "local|loud", number)
    deny(log, "local|quiet", 1000)
    assert [line["principal"] for line in lines(written, "denied")] == ["local|loud"] * 5 + [
        "local|quiet"
    ]


def test_denied_calls_of_many_principals_have_a_total_limit(written: io.StringIO) -> None:
    """Many tokens fill the log no faster than one."""
    clock = ManualClock()
    log = EventLog(clock.time, clock.call_later)
    for number in range(1000):
        deny(log, f"local|{number}", number)
    clock.advance(1.0)
    assert len(lines(written, "denied")) == 50
    assert [
        (line["count"], line["principals"]) for line in lines(written, "more calls denied")
    ] == [(950, 950)]


def test_an_unreachable_upstream_does_not_flood_the_log(written: io.StringIO) -> None:
    """10,000 failed calls give 2 lines and a summary with the upstream.

    Failures of another upstream, or for another reason, are written at once.
    """
    clock = ManualClock()
    log = EventLog(clock.time, clock.call_later)
    for number in range(10_000):
        log.upstream_failed(f"R{number}", "luigi", "ping", "upstream-unreachable")
    log.upstream_failed("R10000", "luigi", "ping", "upstream-timeout")
    log.upstream_failed("R10001", "processes", "getState", "upstream-unreachable")
    clock.advance(1.0)
    seen = [
        (line["level"], line["upstream"], line["reason"])
        for line in lines(written, "upstream failed")
    ]
    dead = ("warning", "luigi", "upstream-unreachable")
    assert seen == [
        dead,
        dead,
        ("warning", "luigi", "upstream-timeout"),
        ("warning", "processes", "upstream-unreachable"),
    ]
    [more] = lines(written, "more calls failed")
    assert (more["level"], more["count"], more["top_key"]) == (
        "warning",
        9998,
        "luigi: upstream-unreachable",
    )
    assert not clock.timers


def test_failures_of_many_upstreams_have_a_total_limit(written: io.StringIO) -> None:
    """The lines of one second are bounded however many upstreams fail."""
    clock = ManualClock()
    log = EventLog(clock.time, clock.call_later)
    for number in range(100):
        log.upstream_failed(f"R{number}", f"upstream{number}", "ping", "upstream-timeout")
    assert len(lines(written, "upstream failed")) == 20


def test_a_repeated_internal_error_does_not_flood_the_log(written: io.StringIO) -> None:
    """The first lines are complete; a summary has the class and the place of the others.

    An error of another class or from another place is written at once.
    """
    clock = ManualClock()
    log = EventLog(clock.time, clock.call_later)
    for number in range(10_000):
        log.internal_error(f"R{number}", "KeyError", ["handle:100", "decode:7"])
    log.internal_error("R10000", "KeyError", ["handle:100", "encode:9"])
    log.internal_error("R10001", "ValueError", ["handle:100", "decode:7"])
    clock.advance(1.0)
    assert [line["ref"] for line in lines(written, "internal error")] == [
        "R0",
        "R1",
        "R10000",
        "R10001",
    ]
    assert lines(written, "internal error")[0]["at"] == ["handle:100", "decode:7"]
    [more] = lines(written, "more errors")
    assert (more["level"], more["count"], more["top_key"]) == (
        "error",
        9998,
        "internal error: KeyError decode:7",
    )
    for number in range(100):
        log.internal_error(f"S{number}", "KeyError", [f"handle:{number}"])
    assert len(lines(written, "internal error")) == 4 + 20
    clock.advance(1.0)
    assert not clock.timers


async def test_the_summary_is_written_without_a_further_event() -> None:
    """The event loop writes the summary a second later, and the next event gets a line again."""
    summarized = asyncio.Event()

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            if "more requests rejected" in text:
                summarized.set()
            return super().write(text)

    stream = Watched()
    configure_logging("info", "json", stream)
    log = EventLog()
    for number in range(100):
        log.rejected(f"R{number}", "192.0.2.1", "no-credential")
    assert len(lines(stream, "rejected")) == 20
    await asyncio.wait_for(summarized.wait(), 30)
    assert [line["count"] for line in lines(stream, "more requests rejected")] == [80]
    log.rejected("R100", "192.0.2.1", "no-credential")
    assert len(lines(stream, "rejected")) == 21
