"""Writes batches on the event loop when nothing can block, on a background thread otherwise.

Group commit: one batch is written with one write and made durable with one flush; the event loop
collects the next batch meanwhile (`proxy.audit.writing.group_commit`). Appending and signing need
the *turn*, a lock. The event loop never waits for it.

    event loop                       kernel                 thread
    ----------                       ------                 ------
    try_begin(batch)
      acquire the turn, or False
      turn taken, log failed,
      checkpoint due, or a new
      segment needed: enqueue --------------------------->  _append(batch)
      otherwise:                                              acquire the turn, waiting
      prepare, write                                          append: begin a segment if needed,
      flusher.start -------------->  fdatasync                  write, fdatasync, accept
      (the loop keeps the turn)          |                    release the turn
    on_flushed  <------------------  eventfd readable         batch.done(first seq)
      accept                                                _housekeeping, when due
      release the turn                                        acquire the turn, waiting
      batch.done(first seq)                                   checkpoint, idle record, or probe
      wake the thread, if it has                              release the turn
      a checkpoint to plan

States of the log, by `failure`:

    WRITABLE (None)  --- any write, flush, rotation or checkpoint fails --->  FAILED (a text)
    FAILED           --- a probe succeeds: `resume_in_new_segment` --------->  WRITABLE

| failure of                   | noticed in              | effect                         |
|------------------------------|-------------------------|--------------------------------|
| write, `flusher.start`       | loop, `try_begin`       | batch refused, FAILED (1)      |
| the kernel's flush           | loop, `on_flushed`      | batch refused, FAILED (1)      |
| append, rotation             | thread, `_append`       | batch refused, FAILED          |
| checkpoint, idle record      | thread, `_housekeeping` | FAILED                         |
| a probe                      | thread, `_try_resume`   | FAILED since the first failure |
| a batch sent while FAILED    | thread, `_append`       | batch refused                  |

A refused batch is reported by ``batch.done(batch, None)``. (1) The thread is woken to plan probes,
one every `Timing.probe`. If `flusher.start` failed, all later batches go to the thread.

A failed write or flush acknowledges nothing. When the log is writable again, `resumed` tells the
event loop, and what was kept is written.

A signed checkpoint follows within a second of any record, at every rotation, at the end, and hourly
when idle; an ``idle`` record precedes that one, so that silence is on record too.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Literal

from proxy.audit.format.record import encode_event
from proxy.audit.writing.disk import Disk, Flusher
from proxy.audit.writing.entry import Entry
from proxy.audit.writing.recovery import LogState
from proxy.audit.writing.refused_calls import RefusedCalls
from proxy.audit.writing.segment_appender import PreparedBatch, SegmentAppender
from proxy.audit.writing.signer import Signer

# In place of a batch: the thread recomputes how long it may sleep.
_WAKE: Final = "wake"


@dataclass(frozen=True, slots=True)
class Timing:
    """Intervals in seconds: checkpoints while records arrive, idle records, and write probes."""

    checkpoint: float = 1.0
    idle: float = 3600.0
    probe: float = 1.0


@dataclass(slots=True)
class Batch:
    """Entries that are written together.

    `done` is called on the loop or the thread: with the seq of the first entry, or None on failure.
    """

    done: "Callable[[Batch, int | None], None]"
    entries: list[Entry] = field(default_factory=list)


class Writer:
    """The only writer of one log, from a recovered state on. `start` begins the thread."""

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
        refusals: RefusedCalls,
        resumed: Callable[[], None],
    ) -> None:
        """Continue the log that `signer` signs.

        `clock` returns nanoseconds since 1970; `refusals` counts what a failure refuses; `resumed`
        is called on the thread.
        """
        self.failure: str | None = None
        self.refusals = refusals
        self.origin = signer.origin
        # Makes files durable by the kernel; None where the kernel cannot.
        self.flusher: Flusher | None = None
        self._kernel_flushes = True
        self._appender = SegmentAppender(
            directory, signer, state, disk=disk, segment_bytes=segment_bytes, compress=compress
        )
        self._disk = disk
        self._timing = timing
        self._clock = clock
        self._resumed = resumed
        self._failed_since = 0
        self._turn = threading.Lock()
        self._flushing: tuple[Batch, PreparedBatch] | None = None
        self._queue: SimpleQueue[Batch | Literal["wake"] | None] = SimpleQueue()
        self._background = threading.Thread(
            target=self._run, name=f"audit-{directory.name}", daemon=True
        )

    @property
    def size(self) -> int:
        """The number of durable records."""
        return self._appender.state.tree.size

    @property
    def commits(self) -> int:
        """The number of flushes that made records durable."""
        return self._appender.commits

    @property
    def last_time(self) -> int:
        """The time of the last record in microseconds since 1970; no later record is earlier."""
        return self._appender.state.time

    def open_calls(self) -> dict[int, str]:
        """Return the ids of open calls by seq. Call it only while no batch is under way."""
        return dict(self._appender.state.open)

    def start(self, entries: list[Entry]) -> None:
        """Write the first entries and a checkpoint in the caller's thread, then start the thread.

        Raises:
            OSError: they are not durable.

        """
        self._appender.append(entries)
        self._appender.sign()
        self.flusher = self._disk.flusher(self._appender.fd)
        self._background.start()

    # -- the event loop's path

    def try_begin(self, batch: Batch) -> bool:
        """Begin to write `batch` and return at once; `on_flushed` ends it. Event loop only.

        Return False if the thread has the turn or something to do first: then `enqueue` the batch.
        """
        flusher, appender = self.flusher, self._appender
        if flusher is None or not self._kernel_flushes or not self._turn.acquire(blocking=False):
            return False
        if (
            self.failure is not None
            or self._checkpoint_due()
            or not appender.belongs_to_segment(batch.entries)
        ):
            self._turn.release()
            return False
        try:
            prepared = appender.prepare(batch.entries)
            appender.write(prepared)
            self._kernel_flushes = False  # stays so if the next line raises
            flusher.start(appender.fd)
            self._kernel_flushes = True
        except Exception as error:
            self._fail(error)
            self._turn.release()
            self._queue.put(_WAKE)
            batch.done(batch, None)
        else:
            self._flushing = batch, prepared
        return True

    def on_flushed(self) -> None:
        """End the batch that was begun: the flusher has its result. Event loop only."""
        if self._flushing is None or self.flusher is None:
            return
        (batch, prepared), self._flushing = self._flushing, None
        appender = self._appender
        first: int | None = appender.state.tree.size
        wake = appender.signed_size == first  # the thread has planned no checkpoint yet
        try:
            self.flusher.finish()
            appender.accept(prepared, appender.state.offset)
        except Exception as error:
            self._fail(error)
            first, wake = None, True
        self._turn.release()
        if wake:
            self._queue.put(_WAKE)
        batch.done(batch, first)

    # -- the thread's path

    def enqueue(self, batch: Batch | None) -> None:
        """Give the thread a batch; None ends the thread after everything enqueued before."""
        self._queue.put(batch)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._background.join()

    def save_refusals(self, unwritten: Iterable[Entry] = ()) -> None:
        """Save how many calls were refused and not reported, for the next process of this log.

        For the thread, or the loop when the thread has ended. `unwritten` are entries that this
        process will not write any more.
        """
        self.refusals.take_back(unwritten)
        error = self.failure or "refused while the process ended"
        self.refusals.save(self._failed_since, error)

    def _run(self) -> None:
        while True:
            try:
                batch = self._queue.get(timeout=self._next_timeout())
            except Empty:
                self._housekeeping()
                continue
            if batch is None:
                break
            if batch != _WAKE:
                self._append(batch)
                if self._checkpoint_due():
                    self._housekeeping()
        with self._turn:
            with suppress(OSError):
                if self.failure is None:
                    self._appender.sign()
            self.save_refusals()
            self._appender.close()
            if self.flusher is not None:
                self.flusher.close()

    def _append(self, batch: Batch) -> None:
        first: int | None = None
        with self._turn:
            if self.failure is None:
                try:
                    first = self._appender.append(batch.entries)
                except Exception as error:
                    self._fail(error)
        batch.done(batch, first)

    def _checkpoint_due(self) -> bool:
        appender = self._appender
        return (
            appender.signed_size != appender.state.tree.size
            and time.monotonic() - appender.signed_at >= self._timing.checkpoint
        )

    def _next_timeout(self) -> float:
        """Return the seconds until `_housekeeping` is due."""
        if self.failure is not None:
            return self._timing.probe
        now, appender = time.monotonic(), self._appender
        if appender.signed_size != appender.state.tree.size:
            return max(0.0, appender.signed_at + self._timing.checkpoint - now)
        return max(0.0, appender.active_at + self._timing.idle - now)

    def _housekeeping(self) -> None:
        """Probe a failed log, or else sign a checkpoint or write an idle record, if one is due."""
        appender = self._appender
        with self._turn:
            if self.failure is not None:
                self._try_resume()
                return
            try:
                if appender.signed_size != appender.state.tree.size:
                    appender.sign()
                elif time.monotonic() - appender.active_at >= self._timing.idle:
                    since = appender.timestamp(appender.state.time).decode()
                    idle = encode_event("idle", {"since": since})
                    appender.append([Entry(self._clock() // 1000, idle)])
                    appender.sign()
            except Exception as error:
                self._fail(error)
            self.save_refusals()

    def _fail(self, error: Exception) -> None:
        self._failed_since = max(self._clock() // 1000, self._appender.state.time)
        text = str(error)
        if isinstance(error, OSError) and error.errno:
            text = os.strerror(error.errno)
        self.failure = f"{type(error).__name__}: {text}"

    def _try_resume(self) -> None:
        """Probe a failed log; on success the log is writable."""
        refused = self.refusals.pending
        since = self._failed_since
        try:
            self._appender.resume_in_new_segment(
                since, self._clock() // 1000, self.failure or "", refused
            )
        except Exception as error:
            self._fail(error)
            self._failed_since = since
            self.save_refusals()
            return
        self.refusals.reported += refused
        self.save_refusals()
        self.failure = None
        self._resumed()


def now_ns() -> int:
    """Return the wall clock in nanoseconds since 1970."""
    return time.time_ns()
