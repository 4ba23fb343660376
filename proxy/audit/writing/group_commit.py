"""Group commit, the event loop's half: gathers entries into batches and wakes who waits for them.

Everything here but `done` and `resumed` runs in the loop's thread, so there are no locks. One batch
is with the writer at any time; what comes meanwhile gathers for the next. A batch is handed over at
the end of the loop's turn, so that all who were just woken and record something go along. Handing
over and waking cost once a batch, and one flush serves all who wait for it.
"""

import asyncio
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Final, TypeAlias

from proxy.audit.writing.writer import Batch, Entry, Writer

MAX_DELAY_SECONDS: Final = 0.05
"""Seconds a record that nobody waits for may wait for company; `audit tail -f` still feels live."""

_TURNS: Final = 16
"""Turns of the event loop that a batch may go on growing: a bound, so that no caller waits for a
stream of others.
"""

Ids: TypeAlias = list[str | None]
"""The ids of a waiter's calls, None for a denied one."""

_Waiter: TypeAlias = tuple["Future[int]", int, Ids]


class GroupCommit:
    """The way of entries to the writer. `unwritable` makes the error that a waiter gets when its
    batch failed.
    """

    def __init__(self, unwritable: Callable[[], Exception]) -> None:
        """Made before the writer, which reports back here; see `attach`."""
        self.entries: list[Entry] = []
        self.loop: AbstractEventLoop | None = None
        self._unwritable = unwritable
        self._writer: Writer
        self._waiters: list[_Waiter] = []
        self._sent: list[_Waiter] = []
        self._busy = self._scheduled = self._lingering = False
        self._gathered = self._turns = self._loop_thread = 0
        self._idle: Future[None] | None = None
        self._abandoned: Callable[[int, Ids], None]
        self.on_resumed: Callable[[], None] = lambda: None

    def attach(self, writer: Writer, abandoned: Callable[[int, Ids], None]) -> None:
        """Set the writer, and what is called with first seq and ids when a waiter had left before
        its batch was durable.
        """
        self._writer = writer
        self._abandoned = abandoned

    def running_loop(self) -> AbstractEventLoop:
        """Return the one loop this journal is used on."""
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            self._loop_thread = get_ident()
            if self._writer.flusher is not None:
                self.loop.add_reader(self._writer.flusher.fileno(), self._writer.flushed)
        return self.loop

    def submit(self, entries: Sequence[Entry], ids: Ids) -> "Future[int]":
        """Gather entries, one for each of `ids`; the future gives the seq of the first once all are
        durable.
        """
        loop = self.loop or self.running_loop()
        future: Future[int] = loop.create_future()
        self._waiters.append((future, len(self.entries), ids))
        self.entries += entries
        if not self._busy and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._gather)
        return future

    def submit_lazily(self, entry: Entry) -> None:
        """Gather an entry that nobody waits for: it goes with the next batch, or on its own after a
        moment.
        """
        self.entries.append(entry)
        if not self._lingering and not self._busy:
            self._lingering = True
            (self.loop or self.running_loop()).call_later(MAX_DELAY_SECONDS, self._linger)

    async def flush(self) -> None:
        """Wait until the writer has taken all that is gathered, or has failed."""
        loop = self.running_loop()
        while self._writer.failure is None and (self._busy or self.entries):
            if not self._busy:
                self._hand_over()
            if self._busy:  # else it failed at once
                self._idle = loop.create_future()
                await self._idle

    def detach(self) -> None:
        """Stop looking at the writer's flushes: the journal ends."""
        if self.loop is not None and self._writer.flusher is not None:
            # uvloop's answers None where asyncio's says whether it was there
            remove: Callable[[int], object] = self.loop.remove_reader
            remove(self._writer.flusher.fileno())

    def done(self, batch: Batch, first: int | None) -> None:
        """Take a batch back. Called in the loop's thread or in the writer's."""
        assert self.loop is not None  # nothing is handed over without a loop
        if get_ident() == self._loop_thread:
            self._finished(batch, first)
        else:
            self.loop.call_soon_threadsafe(self._finished, batch, first)

    def resumed(self) -> None:
        """Go on after a failure. Called in the writer's thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        self.on_resumed()
        self._linger()

    def _linger(self) -> None:
        self._lingering = False
        if not self._busy and not self._scheduled:
            self._hand_over()

    def _gather(self) -> None:
        """Hand over once a turn of the loop has brought nobody else who waits, or after `_TURNS` of
        them.

        Under load that doubles the records that share a commit, and so halves what waking the two
        threads costs each; a single caller waits one empty turn of the loop (5 us) longer.
        """
        waiting = len(self._waiters)
        if waiting > self._gathered and self._turns < _TURNS:
            self._gathered = waiting
            self._turns += 1
            self.running_loop().call_soon(self._gather)
            return
        self._gathered = self._turns = 0
        self._hand_over()

    def _hand_over(self) -> None:
        self._scheduled = False
        if self._busy or not self.entries:
            return
        # since they were gathered: who waits is told now, not when the log goes on
        if self._writer.failure is not None:
            self._refuse_gathered()
            return
        batch = Batch(self.done, self.entries)
        self.entries = []
        self._sent, self._waiters = self._waiters, []
        self._busy = True
        if not self._writer.begin(batch):
            self._writer.put(batch)

    def _finished(self, batch: Batch, first: int | None) -> None:
        self._busy = False
        waiters, self._sent = self._sent, []
        if first is None:
            self._failed(batch, waiters)
        else:
            for future, index, ids in waiters:
                if future.done():  # its task was cancelled meanwhile
                    self._abandoned(first + index, ids)
                else:
                    future.set_result(first + index)
        loop = self.running_loop()
        if self._waiters:
            self._scheduled = True
            loop.call_soon(self._gather)
        elif self.entries and not self._lingering:
            self._lingering = True
            loop.call_later(MAX_DELAY_SECONDS, self._linger)
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _failed(self, batch: Batch, waiters: list[_Waiter]) -> None:
        """Refuse all who wait; keep what nobody waits for, in order, until the log can be written
        again.
        """
        kept = self._refuse(batch.entries, waiters)
        self._refuse_gathered()
        self.entries = kept + self.entries

    def _refuse_gathered(self) -> None:
        waiters, self._waiters = self._waiters, []
        self.entries = self._refuse(self.entries, waiters)

    def _refuse(self, entries: list[Entry], waiters: list[_Waiter]) -> list[Entry]:
        """Refuse `waiters`; return those of their `entries` that nobody waits for."""
        for future, _, _ in waiters:
            if not future.done():
                future.set_exception(self._unwritable())
        awaited = {index + number for _, index, ids in waiters for number in range(len(ids))}
        return [entry for index, entry in enumerate(entries) if index not in awaited]
