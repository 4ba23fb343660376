import asyncio

import pytest

from proxy.audit.writing.entry import Entry
from proxy.audit.writing.group_commit import GroupCommit
from proxy.audit.writing.writer import Batch

pytestmark = pytest.mark.interpreted  # a hand in the place of the writer


class Hand:
    """Takes batches in the writer's place and gives them back when told to."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.failure: str | None = None
        self.flusher = None

    def try_begin(self, batch: Batch) -> bool:
        """Leave it to `enqueue`."""
        return False

    def enqueue(self, batch: Batch) -> None:
        """Take a batch."""
        self.batches.append(batch)


def made() -> tuple[GroupCommit, Hand, list[tuple[int, list[str | None]]]]:
    """Commits with a writer by hand, and what was reported as abandoned."""
    hand, left = Hand(), []
    commits = GroupCommit(lambda: RuntimeError("unwritable"))
    commits.attach(hand, lambda first, ids: left.append((first, ids)))  # type: ignore[arg-type]  # the hand stands in for a writer
    return commits, hand, left


async def turns() -> None:
    """Let the loop go round a few times: more than it takes to gather a batch."""
    for _ in range(10):
        await asyncio.sleep(0)


def entry(name: str) -> Entry:
    """An entry that can be told from others."""
    return Entry(0, name.encode())


def names(batch: Batch) -> list[str]:
    """The names of a batch's entries."""
    return [entry.body.decode() for entry in batch.entries]


async def test_one_batch_at_a_time() -> None:
    """What comes in one turn of the loop goes together; what comes while a batch is away waits for
    the next, with the rest.
    """
    commits, hand, _ = made()
    first = [
        commits.submit([entry("a")], ["a"]),
        commits.submit([entry("b"), entry("c")], ["b", None]),
    ]
    commits.submit_lazily(entry("d"))
    await turns()
    assert [names(b) for b in hand.batches] == [["a", "b", "c", "d"]]
    later = commits.submit([entry("e")], ["e"])
    await turns()
    assert len(hand.batches) == 1 and not first[0].done()
    commits.done(hand.batches[0], 100)
    assert [await f for f in first] == [100, 101]
    await turns()
    assert names(hand.batches[1]) == ["e"] and not later.done()
    commits.done(hand.batches[1], 104)
    assert await later == 104


async def test_a_failure_refuses_who_waits_and_keeps_what_nobody_waits_for() -> None:
    """Waiters of the failed batch and of the one gathering are refused; the others' entries go
    first when it works again.
    """
    commits, hand, _ = made()
    waiting = commits.submit([entry("a")], ["a"])
    commits.submit_lazily(entry("b"))
    await turns()
    also = commits.submit([entry("c")], ["c"])
    commits.submit_lazily(entry("d"))
    hand.failure = "made to fail"
    commits.done(hand.batches[0], None)
    for future in (waiting, also):
        with pytest.raises(RuntimeError, match="unwritable"):
            await future
    hand.failure = None
    commits.resumed()
    await turns()
    assert names(hand.batches[1]) == ["b", "d"]


async def test_who_left_is_reported_when_the_record_is_durable() -> None:
    """A cancelled waiter's calls are named once they are on disk, so that they can be closed."""
    commits, hand, left = made()
    future = commits.submit([entry("a"), entry("b")], ["a", None])
    await turns()
    future.cancel()
    commits.done(hand.batches[0], 7)
    await turns()
    assert left == [(7, ["a", None])]
