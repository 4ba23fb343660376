"""The one thread that writes a log. It makes records of bodies, appends them, makes them durable, then says so.

Group commit: it takes a whole batch at a time, writes it with one write and one fdatasync, and reports once. The event
loop gathers the next batch meanwhile, so that under load one fdatasync serves many calls and no call waits for another's
second one.

A failed write or fdatasync acknowledges nothing. After a failed fdatasync the kernel may have thrown the pages away and
forgotten the error, so asking again proves nothing: the file is cut back to the last acknowledged byte, read again from
disk and compared with the tree in memory, and writing goes on in a new segment whose ``gap`` record says since when and
why. Until that works (tried every `probe` seconds) every batch fails at once.

A signed checkpoint follows within a second of any record, at every rotation, at the end, and hourly when idle (an ``idle`` record
goes before it, so that silence is on record too). A checkpoint that cannot be written stops the journal as a record would.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from proxy.audit.checkpoint import Signer
from proxy.audit.compress import Compressor
from proxy.audit.files import (
    CHECKPOINT_SUFFIX,
    SEGMENT_SUFFIX,
    Disk,
    open_append,
    segment_name,
    sync_directory,
    write_whole,
)
from proxy.audit.record import Stamps, line, note
from proxy.audit.recover import State, scan

Entry: TypeAlias = tuple[int, bytes, str | None, int]
"""Microseconds since 1970, record body, id of the call it opens (or None), seq of the call it completes (or -1, or `IN_FORCE`)."""

IN_FORCE = -2
"""In place of a seq: the body says which policy set is in force, and every later segment says so again."""

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """How often things happen, in seconds: checkpoints while records arrive, signs of life when idle, tries to write again."""

    checkpoint: float = 1.0
    idle: float = 3600.0
    probe: float = 1.0


@dataclass(slots=True)
class Batch:
    """What goes to disk together. `done` is called in the writer's thread: with the seq of the first entry, or None if it failed."""

    done: "Callable[[Batch, int | None], None]"
    entries: list[Entry] = field(default_factory=list)


class Writer:
    """Owns the files of one log and the tree. Made with a recovered state; `start` begins the thread."""

    def __init__(
        self,
        directory: Path,
        signer: Signer,
        state: State,
        *,
        disk: Disk,
        segment_bytes: int,
        compress: bool,
        timing: Timing,
        clock: Callable[[], int],
        resumed: Callable[[], None],
    ) -> None:
        """Take over the log that `signer` signs. `clock` gives nanoseconds since 1970; `resumed` is called from the thread."""
        self.failure: str | None = None
        self.refused = 0  # calls ever answered 503 for a failure; the event loop alone counts
        self.told = 0  # how many of them gap records have told of; this thread alone counts, but while it is at rest
        self.commits = 0
        self._directory = directory
        self._signer = signer
        self._state = state
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._compressor = Compressor(directory) if compress else None
        self._timing = timing
        self._clock = clock
        self._signed = -1  # size of the tree last signed
        self._signed_at = self._active_at = time.monotonic()
        self._resumed = resumed
        self._since = 0
        self._policy = b""
        self._fd = -1
        self._day = -1
        self._stamp = Stamps()
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"audit-{directory.name}", daemon=True)
        if state.number and not state.sealed:
            self._fd = open_append(self._path(state.number))
            self._day = state.time // DAY_US

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._state.tree.size

    @property
    def last_time(self) -> int:
        """The time of the last record in microseconds since 1970: no later one may have an earlier time."""
        return self._state.time

    def open_calls(self) -> dict[int, str]:
        """Return the calls decided and not completed, by seq. For when the writer is at rest."""
        return dict(self._state.open)

    def start(self, entries: list[Entry]) -> None:
        """Write the first entries and a checkpoint at once, in the caller's thread (raises OSError), then start the thread."""
        self._write(entries)
        self._checkpoint()
        self._thread.start()

    def put(self, batch: Batch | None) -> None:
        """Hand a batch over; None ends the thread once everything before it is written."""
        self._queue.put(batch)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                batch = self._queue.get(timeout=self._patience())
            except Empty:
                self._alone()
                continue
            if batch is None:
                break
            first: int | None = None
            if self.failure is None:
                try:
                    first = self._write(batch.entries)
                except Exception as error:  # whatever it was, this batch is not durable
                    self._fail(error)
            batch.done(batch, first)
            if time.monotonic() - self._signed_at >= self._timing.checkpoint:
                self._alone()
        with suppress(OSError):
            if self.failure is None:
                self._checkpoint()
        if self._fd >= 0:
            os.close(self._fd)

    def _patience(self) -> float:
        """Return how long to wait for a batch before something is to be done without one."""
        if self.failure is not None:
            return self._timing.probe
        now = time.monotonic()
        if self._signed != self._state.tree.size:
            return max(0.0, self._signed_at + self._timing.checkpoint - now)
        return max(0.0, self._active_at + self._timing.idle - now)

    def _alone(self) -> None:
        """Do what is due without a batch: try to write again, or sign, or say that nothing happened."""
        if self.failure is not None:
            self._try_resume()
            return
        try:
            if self._signed != self._state.tree.size:
                self._checkpoint()
            elif time.monotonic() - self._active_at >= self._timing.idle:
                idle = note("idle", {"since": self._stamp(self._state.time).decode()})
                self._write([(self._clock() // 1000, idle, None, -1)])
                self._checkpoint()
        except Exception as error:
            self._fail(error)

    def _write(self, entries: list[Entry]) -> int:
        """Append entries durably; return the seq of the first. State changes only after the last step that can fail."""
        if self._fd < 0 or self._state.offset >= self._segment_bytes or entries[-1][0] // DAY_US > self._day:
            self._begin_segment(entries[0][0])
            self._day = entries[-1][0] // DAY_US
        self._append(self._fd, self._state.offset, entries)
        return self._state.tree.size - len(entries)

    def _append(self, fd: int, offset: int, entries: list[Entry]) -> None:
        state, stamp = self._state, self._stamp
        tree, prev, last = state.tree.copy(), state.prev, state.time
        seq = tree.size
        parts = []
        for moment, body, _, _ in entries:
            if moment > last:
                last = moment
            text = line(seq, prev, stamp(last), body)
            leaf = sha256(b"\x00" + text).digest()
            tree.append(leaf)
            prev = leaf[:8].hex().encode()
            parts.append(text)
            seq += 1
        parts.append(b"")
        data = b"\n".join(parts)
        write_whole(self._disk, fd, data)
        self.commits += 1
        self._active_at = time.monotonic()
        calls, seq = state.open, state.tree.size
        for _, body, opens, closes in entries:
            if opens is not None:
                calls[seq] = opens
            elif closes >= 0:
                calls.pop(closes, None)
            elif closes == IN_FORCE:
                self._policy = body
            seq += 1
        state.tree, state.prev, state.time, state.offset = tree, prev, last, offset + len(data)

    def _begin_segment(self, moment: int, more: tuple[Entry, ...] = ()) -> None:
        """Begin the next segment with its first record. What stands under its name already was never acknowledged."""
        state = self._state
        self._checkpoint()
        number = state.number + 1
        tree = {"size": state.tree.size, "root": state.tree.root().hex(), "edge": [part.hex() for part in state.tree.edge]}
        head = note(
            "segment",
            {"log": self._signer.origin, "segment": number, "tree": tree, "open": [[seq, call_id] for seq, call_id in state.open.items()]},  # type: ignore[dict-item]  # mypy does not see list[str] as list[Json]
        )
        if self._policy:
            head = b'%b,"policy":{%b}' % (head[:-1], self._policy.partition(b",")[2])
        fd = open_append(self._path(number))
        try:
            os.ftruncate(fd, 0)
            sync_directory(self._directory)
            self._append(fd, 0, [(moment, head, None, -1), *more])
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        state.number, state.sealed = number, False
        self._day = state.time // DAY_US
        if self._compressor is not None and number > 1:
            self._compressor.start(number)

    def _checkpoint(self) -> None:
        """Sign the tree as it is, beside the present segment, unless that is done."""
        state = self._state
        if self._signed == state.tree.size or not state.number:
            return
        path = self._path(state.number).with_suffix(CHECKPOINT_SUFFIX)
        fd = open_append(path)
        try:
            end = os.fstat(fd).st_size
            try:
                write_whole(self._disk, fd, self._signer.sign(state.tree.size, state.tree.root()) + b"\n")
            except OSError:
                os.ftruncate(fd, end)
                raise
        finally:
            os.close(fd)
        if not end:
            sync_directory(self._directory)
        self._signed, self._signed_at = state.tree.size, time.monotonic()

    def _fail(self, error: Exception) -> None:
        self._since = max(self._clock() // 1000, self._state.time)
        self.failure = f"{type(error).__name__}: {os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error}"

    def _try_resume(self) -> None:
        try:
            self._abandon()
            moment = self._clock() // 1000
            refused = self.refused - self.told
            gap = note("gap", {"since": self._stamp(self._since).decode(), "error": self.failure, "refused": refused})
            self._begin_segment(moment, ((moment, gap, None, -1),))
        except Exception as error:  # still failing: the next probe tries again
            self._fail_again(error)
            return
        self.told += refused
        self.failure = None
        self._resumed()

    def _fail_again(self, error: Exception) -> None:
        since = self._since
        self._fail(error)
        self._since = since

    def _abandon(self) -> None:
        """Cut the segment back to what was acknowledged and prove from the disk that it is whole."""
        state = self._state
        if not state.number or state.sealed:
            return
        path = self._path(state.number)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.ftruncate(fd, state.offset)
            self._disk.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # read the disk again, not the memory of it
        finally:
            os.close(fd)
        found = scan(path, state.number)
        if found is None or found.tree.size != state.tree.size or found.tree.root() != state.tree.root():
            raise OSError("the acknowledged records cannot be read back; see callgate audit verify")

    def _path(self, number: int) -> Path:
        return self._directory / f"{segment_name(number)}{SEGMENT_SUFFIX}"


def now_ns() -> int:
    """Return the wall clock in nanoseconds since 1970."""
    return time.time_ns()
