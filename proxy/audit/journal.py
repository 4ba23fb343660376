"""The front of the audit log for the event loop: records calls, and gives receipts once their records are durable.

Everything here runs in the loop's thread; the `Writer` has its own. Bodies are built here and gathered into a batch;
at the end of the loop's turn the batch goes to the writer, if that is idle, and what comes meanwhile gathers for the
next. So one fdatasync serves every call that waited for it, and handing over and waking up cost once a batch.

`decide` is the only maker of a `Receipt`. While the log cannot be written it raises Unavailable at once; what is known
about calls already under way is kept and written when the writer has recovered.
"""

import asyncio
import fcntl
import os
import re
from asyncio import AbstractEventLoop, CancelledError, Future
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from proxy.audit.files import REAL_DISK, Disk, make_directory
from proxy.audit.keys import load_hmac_key
from proxy.audit.record import Bodies, completed, note
from proxy.audit.recover import State, recover
from proxy.audit.rejections import Rejections
from proxy.audit.withhold import Json, Withholder
from proxy.audit.writer import Batch, Entry, Writer, now_ns
from proxy.errors import ConfigError, Problem, Unavailable
from proxy.model import Call, Decision, Origin, Principal, Reason, Receipt

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LINGER = 0.05  # seconds a completed record may wait for company; `audit tail -f` still feels live
_BACKLOG = 20_000  # records gathered while the disk is slow, above which rejections are only counted
_BACK_US = 1_000_000  # a clock that goes back by more than this is worth a record

_Waiter: TypeAlias = "tuple[Future[int], int, list[str | None]]"


class Journal:
    """One log, written by this process alone. Open with `Journal.open`, use on one event loop, end with `close`."""

    def __init__(self, directory: Path, origin: str, lock: int, state: State, withholder: Withholder, *, disk: Disk,
                 clock: Callable[[], int], segment_bytes: int, probe: float, rejections: Rejections) -> None:  # fmt: skip
        """Wired by `open`."""
        self.directory = directory
        self.origin = origin
        self._lock = lock
        self._clock = clock
        self._last = state.time
        self._behind = False
        self._bodies = Bodies(withholder)
        self._rejections = rejections
        self._loop: AbstractEventLoop | None = None
        self._batch = Batch(self._done)
        self._waiters: list[_Waiter] = []
        self._sent: list[_Waiter] = []
        self._busy = self._scheduled = self._lingering = self._sweeping = self._closed = False
        self._idle: Future[None] | None = None
        self._writer = Writer(
            directory, origin, state, disk=disk, segment_bytes=segment_bytes, probe=probe, clock=clock, resumed=self._resumed_in_thread
        )  # fmt: skip

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        name: str,
        site: str = "callgate",
        software: str = "callgate",
        clock: Callable[[], int] = now_ns,
        disk: Disk = REAL_DISK,
        segment_bytes: int = 64 * 1024 * 1024,
        text_limit: int = 1024,
        secret_names: Sequence[str] = (),
        probe: float = 1.0,
        rejections: Rejections | None = None,
    ) -> "Journal":
        """Open the log of instance `name` under the audit `directory`, recover it, and record that a process writes it now.

        `site` and `name` make the log's origin name, ``site/name``. `clock` gives nanoseconds since 1970; `probe` is the
        seconds between attempts to write again after a failure. Blocks; raises ConfigError when the log cannot be used.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError([Problem("audit", f"{name!r} is no instance name", "use letters, digits, '.', '_' and '-'")])
        log = directory / name
        try:
            make_directory(log)
            lock = _lock(log)
            try:
                key = load_hmac_key(directory)
                state = recover(log)
                opened, state_time = _opening(state, software), max(clock() // 1000, state.time)
                unknown = sorted(state.open.items())
                withholder = Withholder(key, text_limit=text_limit, extra_names=secret_names)
                journal = cls(
                    log, f"{site}/{name}", lock, state, withholder, disk=disk, clock=clock, segment_bytes=segment_bytes,
                    probe=probe, rejections=rejections or Rejections(),
                )  # fmt: skip
                closing = [(state_time, completed(call_id, seq, "unknown", 0, 0, 0), None, seq) for seq, call_id in unknown]
                journal._writer.start([(state_time, opened, None, -1), *closing])
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else type(error).__name__
            remedy = "free or repair the disk, or mend the directory's owner"
            raise ConfigError([Problem(str(log), f"the audit log cannot be written: {why}", remedy)]) from None
        return journal

    @property
    def writable(self) -> bool:
        """Whether calls can be recorded now: what readiness asks."""
        return self._writer.failure is None and not self._closed

    @property
    def failure(self) -> str | None:
        """Why the log cannot be written, for the operator's log; None when it can."""
        return self._writer.failure

    @property
    def size(self) -> int:
        """How many records the log durably holds."""
        return self._writer.size

    async def decide(
        self, request_id: str, principal: Principal, origin: Origin, decided: Sequence[tuple[Call, Decision]], now_ns: int
    ) -> list[Receipt | None]:
        """Record decisions durably, all in one commit; return a receipt for each allowed call and None for each denied one.

        `now_ns` is a monotonic time in nanoseconds, passed on in the receipts. Raise Unavailable(AUDIT_UNWRITABLE) when
        the records are not durable: then nothing may be sent. When the caller's task is cancelled while it waits, the
        calls are closed as failed (client-gone), since nobody is left to send them.
        """
        if self._writer.failure is not None or self._closed:
            raise self._unwritable()
        loop = self._loop
        if loop is None:
            loop = self._attach()
        moment = self._now()
        entries = self._batch.entries
        index = len(entries)
        body = self._bodies.decided
        ids: list[str | None]
        if len(decided) == 1:
            call, decision = decided[0]
            ids = [request_id if decision.allowed else None]
            entries.append((moment, body(request_id, principal, origin, call, decision), ids[0], -1))
        else:
            ids = []
            for number, (call, decision) in enumerate(decided):
                call_id = f"{request_id}.{number}"
                opens = call_id if decision.allowed else None
                ids.append(opens)
                entries.append((moment, body(call_id, principal, origin, call, decision), opens, -1))
        future: Future[int] = loop.create_future()
        self._waiters.append((future, index, ids))
        if not self._busy and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._hand_over)
        try:
            first = await future
        except CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._abandoned(future.result(), ids)
            raise
        return [None if call_id is None else Receipt(call_id, first + number, now_ns) for number, call_id in enumerate(ids)]

    def completed(self, receipt: Receipt, *, outcome: str, status: int, sent: int, duration_us: int) -> None:
        """Record what came of a call. `outcome` is "ok", "fault" or the reason code of a failure. Durable with the next commit."""
        body = completed(receipt.call_id, receipt.sequence, outcome, status, sent, duration_us)
        self._add(body, closes=receipt.sequence)

    def rejected(self, request_id: str, origin: Origin, reason: Reason, detail: str = "", *, principal: Principal | None = None,
                 upstream: str | None = None) -> None:  # fmt: skip
        """Record a request that never became a call; many from one address are summed up. Never waits, bounded in memory."""
        loop = self._loop or self._attach()
        room = self._writer.failure is None and len(self._batch.entries) < _BACKLOG
        if self._rejections.admit(origin.address, reason.value, loop.time(), room=room):
            self._add(self._bodies.rejected(request_id, reason, detail, origin, principal, upstream))
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(1.0, self._sweep)

    def policy_in_force(self, policy_hash: str, files: Mapping[str, str]) -> None:
        """Record that from here on a policy set decides, named by its hash. `files` are its texts by file name."""
        names: list[Json] = [*sorted(files)]
        self._add(note("policy", {"hash": policy_hash, "files": names}))

    async def close(self) -> None:
        """Write all that is known, close calls still open as unknown, and end the log in order. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        loop = self._loop or self._attach()
        for summary in self._rejections.due(loop.time(), all_of_them=True):
            self._add(note("rejected", {"summary": summary}))
        await self._settle()
        open_calls = sorted(self._writer.open_calls().items())
        for seq, call_id in open_calls:
            self._add(completed(call_id, seq, "unknown", 0, 0, 0), closes=seq)
        self._add(note("closed", {}))
        await self._settle()
        self._writer.put(None)
        await loop.run_in_executor(None, self._writer.join)
        os.close(self._lock)

    def _attach(self) -> AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _now(self) -> int:
        """Return the time to record. A clock that goes back cannot disorder the log: time stands still until it has caught up."""
        moment = self._clock() // 1000
        if moment >= self._last:
            self._last = moment
            self._behind = False
        elif not self._behind and self._last - moment > _BACK_US:
            self._behind = True
            self._batch.entries.append((self._last, note("clock", {"behind_us": self._last - moment}), None, -1))
        return self._last

    def _add(self, body: bytes, closes: int = -1) -> None:
        """Gather a record that nobody waits for."""
        self._batch.entries.append((self._now(), body, None, closes))
        if not self._lingering and not self._busy:
            self._lingering = True
            (self._loop or self._attach()).call_later(_LINGER, self._linger)

    def _linger(self) -> None:
        self._lingering = False
        if not self._busy and not self._scheduled:
            self._hand_over()

    def _hand_over(self) -> None:
        self._scheduled = False
        if self._busy or not self._batch.entries or self._writer.failure is not None:
            return
        batch, self._batch = self._batch, Batch(self._done)
        self._sent, self._waiters = self._waiters, []
        self._busy = True
        self._writer.put(batch)

    def _done(self, batch: Batch, first: int | None) -> None:
        """Called in the writer's thread."""
        assert self._loop is not None  # nothing is handed over without a loop
        self._loop.call_soon_threadsafe(self._finished, batch, first)

    def _finished(self, batch: Batch, first: int | None) -> None:
        self._busy = False
        waiters, self._sent = self._sent, []
        if first is None:
            self._failed(batch, waiters)
        else:
            for future, index, ids in waiters:
                if future.done():  # cancelled meanwhile
                    self._abandoned(first + index, ids)
                else:
                    future.set_result(first + index)
        loop = self._loop
        assert loop is not None
        if self._waiters:
            self._scheduled = True
            loop.call_soon(self._hand_over)  # after the tasks just woken, so that what they record goes along
        elif self._batch.entries and not self._lingering:
            self._lingering = True
            loop.call_later(_LINGER, self._linger)
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _failed(self, batch: Batch, waiters: list[_Waiter]) -> None:
        """Refuse all who wait; keep the records nobody waits for, in order, for when the log can be written again."""
        refused = [*waiters, *self._waiters]
        self._waiters = []
        for future, _, _ in refused:
            if not future.done():
                future.set_exception(self._unwritable())
        kept = _unawaited(batch.entries, waiters) + _unawaited(self._batch.entries, refused[len(waiters) :])
        self._batch.entries = kept

    def _abandoned(self, first: int, ids: list[str | None]) -> None:
        for number, call_id in enumerate(ids):
            if call_id is not None:
                self._add(completed(call_id, first + number, Reason.CLIENT_GONE, 0, 0, 0), closes=first + number)

    def _unwritable(self) -> Unavailable:
        self._writer.refused += 1
        return Unavailable(Reason.AUDIT_UNWRITABLE, "the audit log cannot be written", retry_after=5)

    def _resumed_in_thread(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._linger)

    def _sweep(self) -> None:
        loop = self._loop
        assert loop is not None
        if self._closed:
            return
        if self._writer.failure is None:  # else the windows stay open, so that their counts are not lost
            for summary in self._rejections.due(loop.time()):
                self._add(note("rejected", {"summary": summary}))
        self._sweeping = self._rejections.watching
        if self._sweeping:
            loop.call_later(1.0, self._sweep)

    async def _settle(self) -> None:
        """Wait until the writer has taken all that is gathered, or failed."""
        loop = self._loop
        assert loop is not None
        while self._writer.failure is None and (self._busy or self._batch.entries):
            if not self._busy:
                self._hand_over()
            self._idle = loop.create_future()
            await self._idle


def _unawaited(entries: list[Entry], waiters: Sequence[_Waiter]) -> list[Entry]:
    awaited = {index + number for _, index, ids in waiters for number in range(len(ids))}
    return [entry for index, entry in enumerate(entries) if index not in awaited]


def _lock(log: Path) -> int:
    """Take the log for this process alone; raise ConfigError when another has it."""
    fd = os.open(log / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        remedy = "give each process an instance name of its own"
        raise ConfigError([Problem(str(log), "another process is writing this log", remedy)]) from None
    return fd


def _opening(state: State, software: str) -> bytes:
    recovered: Json = {"cut": state.cut, "unknown": len(state.open)} if state.cut or state.open else None
    return note("opened", {"software": software, "pid": os.getpid(), "recovered": recovered})
