"""Who writes a log when: the event loop as a rule, a thread of its own for all that may take
longer.

Group commit: a whole batch is appended with one write and made durable with one flush, and reported
once. The event loop gathers the next batch meanwhile, so that under load one flush serves many
calls and no call waits for another's second one. There are two roads for a batch:

* `begin` on the event loop: the write goes to the page cache, and the kernel does the flush and
says when it is done
  (`proxy.audit.writing.kernel_fdatasync`). Nobody waits, and no thread takes part.
* `put`, the thread: everything that is rare or waits for the disk. It begins segments, signs
checkpoints, tries to go on
  after a failure, and takes every batch where the kernel cannot do the flush.

One of the two is at work at any time: who appends or signs holds the turn. The event loop never
waits for it, since it can hand its batch to the thread.

A failed write or flush acknowledges nothing; until the log has been proved and goes on in a new
segment (tried every `probe` seconds, `Appender.go_on`) every batch fails at once.

A signed checkpoint follows within a second of any record, at every rotation, at the end, and hourly
when idle (an ``idle`` record goes before it, so that silence is on record too). A checkpoint that
cannot be written stops the journal as a record would.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Literal

from proxy.audit.format.record import encode_event
from proxy.audit.writing.disk import Disk, Flusher
from proxy.audit.writing.recovery import LogState
from proxy.audit.writing.segment_appender import IN_FORCE, Appender, Entry, Prepared
from proxy.audit.writing.signer import Signer

__all__ = ["IN_FORCE", "Batch", "Entry", "Timing", "Writer", "now_ns"]

_LOOK: Final = "look"  # in place of a batch: the thread is to find out anew what it waits for


@dataclass(frozen=True, slots=True)
class Timing:
    """How often things happen, in seconds: checkpoints while records arrive, signs of life when
    idle, tries to write again.
    """

    checkpoint: float = 1.0
    idle: float = 3600.0
    probe: float = 1.0


@dataclass(slots=True)
class Batch:
    """What goes to disk together. `done` is called in either thread: with the seq of the first
    entry, or None if it failed.
    """

    done: "Callable[[Batch, int | None], None]"
    entries: list[Entry] = field(default_factory=list)


class Writer:
    """Owns one log. Made with a recovered state; `start` begins the thread."""

    def __init__(
        self,
        directory: Path,
        signer: Signer,
        state: LogState,
        *,
        disk: Disk,
        segment_bytes: int,
        compress: bool,
        timing: Timing,
        clock: Callable[[], int],
        resumed: Callable[[], None],
    ) -> None:
        """Take over the log that `signer` signs. `clock` gives nanoseconds since 1970; `resumed` is
        called from the thread.
        """
        self.failure: str | None = None
        self.refused = 0  # calls ever answered 503 for a failure; the event loop alone counts
        # how many of them gap records have told of; the thread alone counts, but while it is at
        # rest
        self.told = 0
        self.flusher: Flusher | None = None  # how the kernel does the flush; None when it cannot
        self._kernel_takes = True  # flushes, as far as is known
        self._log = Appender(
            directory, signer, state, disk=disk, segment_bytes=segment_bytes, compress=compress
        )
        self._disk = disk
        self._timing = timing
        self._clock = clock
        self._resumed = resumed
        self._since = 0
        self._turn = threading.Lock()
        self._flying: tuple[Batch, Prepared] | None = None
        self._queue: SimpleQueue[Batch | Literal["look"] | None] = SimpleQueue()
        self._keeper = threading.Thread(
            target=self._run, name=f"audit-{directory.name}", daemon=True
        )

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._log.state.tree.size

    @property
    def commits(self) -> int:
        """How many flushes have made records durable."""
        return self._log.commits

    @property
    def last_time(self) -> int:
        """The time of the last record in microseconds since 1970: no later one may have an earlier
        time.
        """
        return self._log.state.time

    def open_calls(self) -> dict[int, str]:
        """Return the calls decided and not completed, by seq. For when the writer is at rest."""
        return dict(self._log.state.open)

    def start(self, entries: list[Entry]) -> None:
        """Write the first entries and a checkpoint at once, in the caller's thread (raises
        OSError), then start the thread.
        """
        self._log.append(entries)
        self._log.sign()
        self.flusher = self._disk.flusher(self._log.fd)
        self._keeper.start()

    # -- the event loop's road

    def begin(self, batch: Batch) -> bool:
        """Begin to write `batch` without waiting; `flushed` has to be called when the flusher says
        so. Event loop only.

        False when it is the thread's turn, or something for the thread to do: then `put` takes the
        batch.
        """
        flusher, log = self.flusher, self._log
        if flusher is None or not self._kernel_takes or not self._turn.acquire(blocking=False):
            return False
        if self.failure is not None or self._sign_due() or not log.fits(batch.entries):
            self._turn.release()
            return False
        try:
            prepared = log.prepare(batch.entries)
            log.write(prepared)
            self._kernel_takes = False
            flusher.start(log.fd)
            self._kernel_takes = True
        # whatever it was, this batch is not durable; if the kernel takes no flush, the thread takes
        # the next
        except Exception as error:
            self._fail(error)
            self._turn.release()
            self._queue.put(_LOOK)
            batch.done(batch, None)
        else:
            self._flying = batch, prepared
        return True

    def flushed(self) -> None:
        """Take the kernel's word for the batch that was begun, and report it. Event loop only."""
        if self._flying is None or self.flusher is None:
            return
        (batch, prepared), self._flying = self._flying, None
        log = self._log
        first: int | None = log.state.tree.size
        look = log.signed == first  # until now there was nothing to sign
        try:
            self.flusher.finish()
            log.accept(prepared, log.state.offset)
        except Exception as error:
            self._fail(error)
            first, look = None, True
        self._turn.release()
        if look:
            self._queue.put(_LOOK)
        batch.done(batch, first)

    # -- the thread's road

    def put(self, batch: Batch | None) -> None:
        """Hand a batch over; None ends the thread once everything before it is written."""
        self._queue.put(batch)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._keeper.join()

    def _run(self) -> None:
        while True:
            try:
                batch = self._queue.get(timeout=self._patience())
            except Empty:
                self._alone()
                continue
            if batch is None:
                break
            if batch != _LOOK:
                self._take(batch)
                if self._sign_due():
                    self._alone()
        with self._turn:
            with suppress(OSError):
                if self.failure is None:
                    self._log.sign()
            self._log.close()
            if self.flusher is not None:
                self.flusher.close()

    def _take(self, batch: Batch) -> None:
        first: int | None = None
        with self._turn:
            if self.failure is None:
                try:
                    first = self._log.append(batch.entries)
                except Exception as error:
                    self._fail(error)
        batch.done(batch, first)

    def _sign_due(self) -> bool:
        log = self._log
        return (
            log.signed != log.state.tree.size
            and time.monotonic() - log.signed_at >= self._timing.checkpoint
        )

    def _patience(self) -> float:
        """Return how long to wait for a batch before something is to be done without one."""
        if self.failure is not None:
            return self._timing.probe
        now, log = time.monotonic(), self._log
        if log.signed != log.state.tree.size:
            return max(0.0, log.signed_at + self._timing.checkpoint - now)
        return max(0.0, log.active_at + self._timing.idle - now)

    def _alone(self) -> None:
        """Do what is due without a batch: try to write again, or sign, or say that nothing
        happened.
        """
        log = self._log
        with self._turn:
            if self.failure is not None:
                self._try_resume()
                return
            try:
                if log.signed != log.state.tree.size:
                    log.sign()
                elif time.monotonic() - log.active_at >= self._timing.idle:
                    idle = encode_event("idle", {"since": log.stamp(log.state.time).decode()})
                    log.append([(self._clock() // 1000, idle, None, -1)])
                    log.sign()
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._since = max(self._clock() // 1000, self._log.state.time)
        self.failure = f"{type(error).__name__}: {os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error}"

    def _try_resume(self) -> None:
        refused = self.refused - self.told
        try:
            self._log.go_on(self._since, self._clock() // 1000, self.failure or "", refused)
        except Exception as error:  # still failing: the next probe tries again
            since = self._since
            self._fail(error)
            self._since = since
            return
        self.told += refused
        self.failure = None
        self._resumed()


def now_ns() -> int:
    """Return the wall clock in nanoseconds since 1970."""
    return time.time_ns()
