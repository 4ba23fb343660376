"""Group commit, the event loop's half: collects entries into batches and resolves their futures.

The writer has one batch at a time; entries that arrive meanwhile form the next. One flush serves
every call of a batch, and so do one hand-over and one wake-up.

All methods but `done` and `resumed` run on the event loop, so there are no locks.
"""

import asyncio
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Final, TypeAlias

from proxy.audit.writing.entry import Entry
from proxy.audit.writing.writer import Batch, Writer

# Seconds that an entry without a waiter may wait for others; `callgate audit tail --follow` still
# shows it at once.
MAX_DELAY_SECONDS: Final = 0.05

# Loop iterations during which a batch may grow: bounds the delay of its first caller while others
# keep arriving.
_MAX_ITERATIONS: Final = 16

Ids: TypeAlias = list[str | None]
"""The ids of the calls of one submission, None for a denied call."""

_Waiter: TypeAlias = tuple["Future[int]", int, Ids]
"""A future, the index of its first entry in the batch, and its ids."""


class GroupCommit:
    """The queue of entries in front of a `Writer`."""

    def __init__(self, unwritable: Callable[[], Exception]) -> None:
        """Wait for `attach`. `unwritable` makes the exception for the waiters of a failed batch."""
        self.entries: list[Entry] = []
        self.loop: AbstractEventLoop | None = None
        self.on_resumed: Callable[[], None] = lambda: None
        self._unwritable = unwritable
        self._writer: Writer
        self._abandoned: Callable[[int, Ids], None]
        self._waiters: list[_Waiter] = []
        self._waiters_in_flight: list[_Waiter] = []
        self._in_flight = self._scheduled = self._delayed = False
        self._seen_waiters = self._iterations = self._loop_thread = 0
        self._idle: Future[None] | None = None

    def attach(self, writer: Writer, abandoned: Callable[[int, Ids], None]) -> None:
        """Set the writer, and the callback for submissions whose task was cancelled before `done`.

        `abandoned` gets the seq of the first entry and the ids.
        """
        self._writer = writer
        self._abandoned = abandoned

    def running_loop(self) -> AbstractEventLoop:
        """Return the one event loop of this journal."""
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            self._loop_thread = get_ident()
            if self._writer.flusher is not None:
                self.loop.add_reader(self._writer.flusher.fileno(), self._writer.on_flushed)
        return self.loop

    def submit(self, entries: Sequence[Entry], ids: Ids) -> "Future[int]":
        """Add entries, one for each of `ids`; the future resolves to the seq of the first.

        It resolves once all are durable, and raises what `unwritable` made if they are not.
        """
        loop = self.loop or self.running_loop()
        future: Future[int] = loop.create_future()
        self._waiters.append((future, len(self.entries), ids))
        self.entries += entries
        if not self._in_flight and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._collect)
        return future

    def submit_lazily(self, entry: Entry) -> None:
        """Add an entry that goes with the next batch, at the latest after `MAX_DELAY_SECONDS`."""
        self.entries.append(entry)
        if not self._delayed and not self._in_flight:
            self._delayed = True
            (self.loop or self.running_loop()).call_later(MAX_DELAY_SECONDS, self._send_delayed)

    async def flush(self) -> None:
        """Wait until every entry is durable, or the log has failed."""
        loop = self.running_loop()
        while self._writer.failure is None and (self._in_flight or self.entries):
            if not self._in_flight:
                self._send()
            if self._in_flight:  # otherwise the batch failed at once
                self._idle = loop.create_future()
                await self._idle

    def detach(self) -> None:
        """Stop watching the writer's flushes."""
        if self.loop is not None and self._writer.flusher is not None:
            # uvloop's remove_reader returns None where asyncio's returns a bool.
            remove: Callable[[int], object] = self.loop.remove_reader
            remove(self._writer.flusher.fileno())

    def done(self, batch: Batch, first: int | None) -> None:
        """Take the result of a batch. Called on the loop or on the writer's thread."""
        assert self.loop is not None  # a batch is sent on a loop only
        if get_ident() == self._loop_thread:
            self._finish(batch, first)
        else:
            self.loop.call_soon_threadsafe(self._finish, batch, first)

    def resumed(self) -> None:
        """Continue after a failure. Called on the writer's thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self.on_resumed()
        self._send_delayed()

    def _send_delayed(self) -> None:
        self._delayed = False
        if not self._in_flight and not self._scheduled:
            self._send()

    def _collect(self) -> None:
        """Send the batch after a loop iteration without a new waiter, or `_MAX_ITERATIONS`."""
        # PERF: one quiet iteration doubles the records of a commit under load, and so halves the
        # cost of wake-ups; it adds 5 us to a single call (add_task, 900 B).
        waiters = len(self._waiters)
        if waiters > self._seen_waiters and self._iterations < _MAX_ITERATIONS:
            self._seen_waiters = waiters
            self._iterations += 1
            self.running_loop().call_soon(self._collect)
            return
        self._seen_waiters = self._iterations = 0
        self._send()

    def _send(self) -> None:
        self._scheduled = False
        if self._in_flight or not self.entries:
            return
        if self._writer.failure is not None:
            self._refuse_collected()
            return
        batch = Batch(self.done, self.entries)
        self.entries = []
        self._waiters_in_flight, self._waiters = self._waiters, []
        self._in_flight = True
        if not self._writer.try_begin(batch):
            self._writer.enqueue(batch)

    def _finish(self, batch: Batch, first: int | None) -> None:
        self._in_flight = False
        waiters, self._waiters_in_flight = self._waiters_in_flight, []
        if first is None:
            self._fail(batch, waiters)
        else:
            for future, index, ids in waiters:
                if future.done():  # its task was cancelled meanwhile
                    self._abandoned(first + index, ids)
                else:
                    future.set_result(first + index)
        loop = self.running_loop()
        if self._waiters:
            self._scheduled = True
            loop.call_soon(self._collect)
        elif self.entries and not self._delayed:
            self._delayed = True
            loop.call_later(MAX_DELAY_SECONDS, self._send_delayed)
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _fail(self, batch: Batch, waiters: list[_Waiter]) -> None:
        """Refuse all waiters; keep the other entries, in order, until the log is writable."""
        unawaited = self._refuse(batch.entries, waiters)
        self._refuse_collected()
        self.entries = unawaited + self.entries

    def _refuse_collected(self) -> None:
        waiters, self._waiters = self._waiters, []
        self.entries = self._refuse(self.entries, waiters)

    def _refuse(self, entries: list[Entry], waiters: list[_Waiter]) -> list[Entry]:
        """Refuse `waiters`; return those of their `entries` that have no waiter."""
        for future, _, _ in waiters:
            if not future.done():
                future.set_exception(self._unwritable())
        awaited = {index + number for _, index, ids in waiters for number in range(len(ids))}
        return [entry for index, entry in enumerate(entries) if index not in awaited]
