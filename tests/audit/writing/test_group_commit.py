import asyncio

import pytest

from proxy.audit.writing.entry import Entry
from proxy.audit.writing.group_commit import GroupCommit
from proxy.audit.writing.writer import Batch

pytestmark = pytest.mark.interpreted  # a double of the writer


class ManualWriter:
    """A writer that keeps batches until the test reports them done."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.failure: str | None = None
        self.flusher = None

    def try_begin(self, batch: Batch) -> bool:
        """Leave the batch to `enqueue`."""
        return False

    def enqueue(self, batch: Batch) -> None:
        """Keep a batch."""
        self.batches.append(batch)


def make_commits() -> tuple[GroupCommit, ManualWriter, list[tuple[int, list[str | None]]]]:
    """Return commits with a manual writer, and the list of abandoned submissions."""
    writer, abandoned = ManualWriter(), []
    commits = GroupCommit(lambda: RuntimeError("unwritable"))
    commits.attach(writer, lambda first, ids: abandoned.append((first, ids)))  # type: ignore[arg-type]  # a double
    return commits, writer, abandoned


async def iterations() -> None:
    """Let the loop run more iterations than collecting a batch takes."""
    for _ in range(10):
        await asyncio.sleep(0)


def make_entry(name: str) -> Entry:
    """Return an entry with a name as its body."""
    return Entry(0, name.encode())


def names(batch: Batch) -> list[str]:
    """Return the names of a batch's entries."""
    return [entry.body.decode() for entry in batch.entries]


async def test_one_batch_at_a_time() -> None:
    """Entries of one loop iteration form one batch; entries that arrive while it is in flight form
    the next.
    """
    commits, writer, _ = make_commits()
    first = [
        commits.submit([make_entry("a")], ["a"]),
        commits.submit([make_entry("b"), make_entry("c")], ["b", None]),
    ]
    commits.submit_lazily(make_entry("d"))
    await iterations()
    assert [names(b) for b in writer.batches] == [["a", "b", "c", "d"]]
    later = commits.submit([make_entry("e")], ["e"])
    await iterations()
    assert len(writer.batches) == 1 and not first[0].done()
    commits.done(writer.batches[0], 100)
    assert [await f for f in first] == [100, 101]
    await iterations()
    assert names(writer.batches[1]) == ["e"] and not later.done()
    commits.done(writer.batches[1], 104)
    assert await later == 104


async def test_a_failure_refuses_waiters_and_keeps_other_entries() -> None:
    """Waiters of the failed batch and of the next are refused; entries without a waiter go first
    after a resume.
    """
    commits, writer, _ = make_commits()
    waiting = commits.submit([make_entry("a")], ["a"])
    commits.submit_lazily(make_entry("b"))
    await iterations()
    also = commits.submit([make_entry("c")], ["c"])
    commits.submit_lazily(make_entry("d"))
    writer.failure = "made to fail"
    commits.done(writer.batches[0], None)
    for future in (waiting, also):
        with pytest.raises(RuntimeError, match="unwritable"):
            await future
    writer.failure = None
    commits.resumed()
    await iterations()
    assert names(writer.batches[1]) == ["b", "d"]


async def test_a_cancelled_waiter_is_reported_when_its_records_are_durable() -> None:
    """The calls of a cancelled task are reported, so that they can be closed."""
    commits, writer, abandoned = make_commits()
    future = commits.submit([make_entry("a"), make_entry("b")], ["a", None])
    await iterations()
    future.cancel()
    commits.done(writer.batches[0], 7)
    await iterations()
    assert abandoned == [(7, ["a", None])]
