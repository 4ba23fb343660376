"""What is counted now and recorded later, over a loop whose time a test moves."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import cast

from proxy.audit.writing.denial_summaries import DenialSummaries
from proxy.audit.writing.entry import EntryKind
from proxy.audit.writing.pending_counts import PendingCounts
from proxy.audit.writing.rejection_summaries import RejectionSummaries
from proxy.model import Reason
from tests.support.audit import ALICE, DENY, HERE, call


class Loop:
    """The part of an event loop that sweeps need."""

    def __init__(self) -> None:
        self.now = 0.0
        self.later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        """Return the time."""
        return self.now

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Note a call."""
        self.later.append((self.now + seconds, function))

    def advance(self, seconds: int) -> None:
        """Let the time pass, second by second."""
        for _ in range(seconds):
            self.now += 1.0
            due = [each for each in self.later if each[0] <= self.now]
            self.later = [each for each in self.later if each[0] > self.now]
            for _, function in due:
                function()


class Counts:
    """Counts under test, with what they record."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.writable = True
        self.written: list[bytes] = []
        self.counts = PendingCounts(
            RejectionSummaries(each=1),
            DenialSummaries(1),
            loop=lambda: cast(AbstractEventLoop, self.loop),
            clock=lambda: 1_767_225_600_000_000 + int(self.loop.now * 1_000_000),
            writable=lambda: self.writable,
            submit=self._submit,
        )

    def _submit(self, body: bytes, kind: EntryKind, seq: int) -> None:
        assert (kind, seq) == (EntryKind.EVENT, -1)
        self.written.append(body)

    def flood(self) -> None:
        """Refuse ten calls of a principal and ten requests without one."""
        for _ in range(10):
            self.counts.admit_denied(ALICE, HERE, call("pause", "admin"), DENY)
            self.counts.admit_rejected(None, HERE, None, Reason.NO_CREDENTIAL, room=True)


def test_summaries_come_when_their_windows_end_and_then_the_sweep_rests() -> None:
    """Ten seconds for an address, a minute for a principal; without anything to end, no sweep."""
    counts = Counts()
    counts.flood()
    counts.loop.advance(11)
    assert len(counts.written) == 1 and b'"count":9' in counts.written[0]
    counts.loop.advance(50)
    assert len(counts.written) == 2 and b'"decision":"deny"' in counts.written[1]
    assert counts.loop.later == []
    counts.flood()
    assert len(counts.loop.later) == 1


def test_while_the_log_cannot_be_written_the_counts_stay() -> None:
    """They come with the first sweep afterwards."""
    counts = Counts()
    counts.flood()
    counts.writable = False
    counts.loop.advance(100)
    assert counts.written == []
    counts.writable = True
    counts.loop.advance(1)
    assert len(counts.written) == 2


def test_after_the_end_nothing_is_swept() -> None:
    """`record` with `force` writes what is open; a sweep that is due later writes nothing."""
    counts = Counts()
    counts.flood()
    counts.counts.stop()
    counts.counts.record(counts.loop.now, force=True)
    assert len(counts.written) == 2
    counts.flood()
    counts.loop.advance(100)
    assert len(counts.written) == 2
