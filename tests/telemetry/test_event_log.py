import asyncio
import io
import json
from collections.abc import Callable

import pytest

from proxy.telemetry.event_log import EventLog
from proxy.telemetry.logging import configure_logging


class Hand:
    """A clock that is moved by hand, and what waits for it."""

    def __init__(self) -> None:
        """Start anywhere."""
        self.now = 1000.9
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def clock(self) -> float:
        """Tell the time."""
        return self.now

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Remember what to call, and when."""
        self.waiting.append((self.now + seconds, function))

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        due = [function for at, function in self.waiting if at <= self.now]
        self.waiting = [(at, function) for at, function in self.waiting if at > self.now]
        for function in due:
            function()


pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.fixture
def written() -> io.StringIO:
    """Give what is logged."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    return stream


def lines(stream: io.StringIO, event: str) -> list[dict[str, object]]:
    """Give the lines about one event."""
    return [
        line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == event
    ]


def deny(log: EventLog, principal: str, number: int) -> None:
    """Write of one call that was denied."""
    log.denied(f"R{number}", principal, "luigi", "pause", "no-permit")


def test_a_flood_of_denied_calls_has_a_bounded_number_of_lines_and_a_count(
    written: io.StringIO,
) -> None:
    """One token, 28,000 denied calls: a few lines a second, no more, and the number of the rest,
    whose principal is named.
    """
    hand = Hand()
    log = EventLog(hand.clock, hand.later)
    for second in range(3):
        for number in range(28_000):
            deny(log, "local|loud", number)
        assert len(lines(written, "denied")) == 5 * (second + 1)
        hand.move(1.0)
    more = lines(written, "more calls denied")
    assert [(line["count"], line["principals"], line["top_key"]) for line in more] == [
        (27_995, 1, "local|loud")
    ] * 3
    assert not hand.waiting


def test_the_denied_calls_of_another_are_still_seen(written: io.StringIO) -> None:
    """Noise must not hide somebody else's first refusal."""
    hand = Hand()
    log = EventLog(hand.clock, hand.later)
    for number in range(1000):
        deny(log, "local|loud", number)
    deny(log, "local|quiet", 1000)
    assert [line["principal"] for line in lines(written, "denied")] == ["local|loud"] * 5 + [
        "local|quiet"
    ]


def test_many_principals_together_are_bounded_too(written: io.StringIO) -> None:
    """Whoever holds many tokens fills the log no faster."""
    hand = Hand()
    log = EventLog(hand.clock, hand.later)
    for number in range(1000):
        deny(log, f"local|{number}", number)
    hand.move(1.0)
    assert len(lines(written, "denied")) == 50
    assert [
        (line["count"], line["principals"]) for line in lines(written, "more calls denied")
    ] == [(950, 950)]


def test_a_dead_upstream_does_not_flood_the_log(written: io.StringIO) -> None:
    """Ten thousand failed calls: a few lines, a count that names the upstream, and whatever else
    fails is seen at once.
    """
    hand = Hand()
    log = EventLog(hand.clock, hand.later)
    for number in range(10_000):
        log.upstream_failed(f"R{number}", "luigi", "ping", "upstream-unreachable")
    log.upstream_failed("R10000", "luigi", "ping", "upstream-timeout")
    log.upstream_failed("R10001", "processes", "getState", "upstream-unreachable")
    hand.move(1.0)
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
    assert not hand.waiting


def test_failures_of_many_sorts_are_bounded_too(written: io.StringIO) -> None:
    """However many upstreams die at once, the lines of one second are few."""
    hand = Hand()
    log = EventLog(hand.clock, hand.later)
    for number in range(100):
        log.upstream_failed(f"R{number}", f"upstream{number}", "ping", "upstream-timeout")
    assert len(lines(written, "upstream failed")) == 20


def test_an_error_that_a_caller_can_repeat_does_not_flood_the_log(written: io.StringIO) -> None:
    """The first lines are whole, the rest is a count that names kind and place; an error elsewhere
    is seen at once.
    """
    hand = Hand()
    log = EventLog(hand.clock, hand.later)
    for number in range(10_000):
        log.internal_error(f"R{number}", "KeyError", ["handle:100", "decode:7"])
    log.internal_error("R10000", "KeyError", ["handle:100", "encode:9"])
    log.internal_error("R10001", "ValueError", ["handle:100", "decode:7"])
    hand.move(1.0)
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
    hand.move(1.0)
    assert not hand.waiting


async def test_the_count_is_written_though_nothing_follows() -> None:
    """A flood that stops leaves its number behind, on the loop that runs the gate, and the next
    second has lines again.
    """
    told = asyncio.Event()

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            if "more requests rejected" in text:
                told.set()
            return super().write(text)

    stream = Watched()
    configure_logging("info", "json", stream)
    log = EventLog()
    for number in range(100):
        log.rejected(f"R{number}", "192.0.2.1", "no-credential")
    assert len(lines(stream, "rejected")) == 20
    await asyncio.wait_for(told.wait(), 30)
    assert [line["count"] for line in lines(stream, "more requests rejected")] == [80]
    log.rejected("R100", "192.0.2.1", "no-credential")
    assert len(lines(stream, "rejected")) == 21
