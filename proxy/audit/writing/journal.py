"""The front of the audit log: records calls, and returns receipts once their records are durable.

Only `decide` makes a `Receipt`. While the log cannot be written, `decide` raises Unavailable at
once; outcomes of calls already forwarded are kept in memory and written when the log is writable
again. `GroupCommit` batches the entries, `Writer` writes them.
"""

import os
from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from proxy.audit.format.policy_snapshots import save_snapshot
from proxy.audit.format.record import RecordEncoder, encode_completed, encode_event
from proxy.audit.redaction.redactor import Json, Redactor
from proxy.audit.writing.denial_summaries import DenialSummaries
from proxy.audit.writing.disk import Disk
from proxy.audit.writing.entry import Entry, EntryKind
from proxy.audit.writing.group_commit import GroupCommit, Ids
from proxy.audit.writing.heartbeat_windows import (
    WINDOW_SECONDS,
    Window,
    decision_fingerprint,
    encode_opening,
    window_key,
)
from proxy.audit.writing.kernel_fdatasync import REAL_DISK
from proxy.audit.writing.keys import load_hmac_key, load_signing_key
from proxy.audit.writing.opening import (
    check_origin_name,
    lock_log,
    opening_entries,
    unknown_outcome,
    unwritable_log,
)
from proxy.audit.writing.pending_counts import PendingCounts
from proxy.audit.writing.record_clock import RecordClock
from proxy.audit.writing.recovery import recover
from proxy.audit.writing.refused_calls import RefusedCalls, encode_gap
from proxy.audit.writing.rejection_summaries import RejectionSummaries
from proxy.audit.writing.signer import Signer
from proxy.audit.writing.writer import Timing, Writer, now_ns
from proxy.common.durable_files import make_directory
from proxy.errors import Unavailable
from proxy.model import Call, Decision, Peer, Principal, Reason, Receipt

# Entries waiting for a slow disk above which rejections are counted and not recorded.
_MAX_BACKLOG: Final = 20_000

# Seconds to wait before the next try, for a caller that was refused.
_RETRY_AFTER: Final = 5


class Journal:
    """One log, written by this process alone.

    `open` it, use it on one event loop, `close` it. `origin` is its name in checkpoints.
    """

    def __init__(
        self,
        directory: Path,
        lock: int,
        writer: Writer,
        commits: GroupCommit,
        encoder: RecordEncoder,
        rejections: RejectionSummaries,
        denials: DenialSummaries,
        clock: Callable[[], int],
    ) -> None:
        """Take the parts that `open` made."""
        self.directory, self.origin = directory, writer.origin
        self._lock = lock
        self._writer = writer
        self._commits = commits
        self._encoder = encoder
        self._clock = RecordClock(clock, writer.last_time, self._record_step_back)
        self._counts = PendingCounts(
            rejections,
            denials,
            loop=commits.running_loop,
            clock=self._clock.now,
            writable=lambda: writer.failure is None,
            submit=self._submit,
        )
        self._windows = self._counts.windows
        self._closed = self._ended = self._finished = False
        commits.attach(writer, self._record_abandoned)
        commits.on_resumed = self._report_refused

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        name: str,
        origin_prefix: str = "callgate",
        software: str = "callgate",
        signing_key: bytes | None = None,
        segment_bytes: int = 64 * 1024 * 1024,
        compress: bool = True,
        max_text_bytes: int = 1024,
        redact_arguments: Sequence[str] = (),
        clock: Callable[[], int] = now_ns,
        disk: Disk = REAL_DISK,
        timing: Timing | None = None,
        rejections: RejectionSummaries | None = None,
        denials_per_minute: int = 60,
    ) -> "Journal":
        """Open and recover the log `name` under the audit `directory`, and record that. Blocks.

        Args:
            directory: The audit directory, with the keys of all its logs.
            name: The instance name of the log.
            origin_prefix: First part of the origin name ``<origin_prefix>/<name>``; a log keeps the
                one that it began with.
            software: Name and version of this program, for the ``opened`` record.
            signing_key: A private key in PEM; the one in `directory` if None.
            segment_bytes: Size at which a segment is sealed.
            compress: Whether to compress sealed segments in the background.
            max_text_bytes: Length above which a text is recorded as length and hash.
            redact_arguments: Names of further arguments that are recorded as keyed hashes.
            clock: Returns nanoseconds since 1970.
            disk: The system calls to write with.
            timing: Intervals of checkpoints, idle records and probes.
            rejections: Limits of rejections recorded one by one.
            denials_per_minute: Refusals of one principal recorded one by one.

        Raises:
            ConfigError: the log cannot be used.
            LogInUseError: another process writes it.

        """
        check_origin_name(origin_prefix, name)
        log = directory / name
        try:
            make_directory(log)
            lock = lock_log(log)
            try:
                redactor = Redactor(
                    load_hmac_key(directory),
                    max_text_bytes=max_text_bytes,
                    extra_secret_names=redact_arguments,
                )
                state = recover(log)
                prefix = state.origin.rpartition("/")[0] or origin_prefix
                signer = Signer(
                    f"{prefix}/{name}", load_signing_key(directory, prefix, signing_key)
                )
                refusals = RefusedCalls(log)
                unreported = refusals.open()
                commits = GroupCommit(lambda: journal._unwritable())
                writer = Writer(
                    log,
                    signer,
                    state,
                    disk=disk,
                    clock=clock,
                    segment_bytes=segment_bytes,
                    compress=compress,
                    timing=timing or Timing(),
                    refusals=refusals,
                    resumed=commits.resumed,
                )
                encoder = RecordEncoder(redactor)
                rejections = rejections or RejectionSummaries()
                denials = DenialSummaries(denials_per_minute)
                journal = cls(log, lock, writer, commits, encoder, rejections, denials, clock)
                micros = max(clock() // 1000, state.time)
                writer.start(opening_entries(state, software, micros, unreported))
                writer.save_refusals()  # they are reported now
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise unwritable_log(log, error) from None
        return journal

    @property
    def writable(self) -> bool:
        """Whether calls can be recorded now, for readiness."""
        return self._writer.failure is None and not self._closed

    @property
    def failure(self) -> str | None:
        """The error that keeps the log from being written, for the operator's log, or None."""
        return self._writer.failure

    @property
    def size(self) -> int:
        """The number of durable records."""
        return self._writer.size

    @property
    def commits(self) -> int:
        """The number of flushes; `size` over this is the number of records that share one."""
        return self._writer.commits

    async def decide(
        self,
        request_id: str,
        principal: Principal,
        peer: Peer,
        decisions: Sequence[tuple[Call, Decision]],
        now_ns: int,
        heartbeat: str | None = None,
    ) -> list[Receipt | None]:
        """Record decisions durably, in one commit; return a receipt for each allowed call.

        A denied call has None in its place. Beyond a rate it is counted, and has no record of its
        own (`denial_summaries`). Calls of a cancelled task complete as ``client-gone``.

        Args:
            request_id: The id of the request; the calls of a batch get ``.0``, ``.1``… appended.
            principal: The caller.
            peer: Where the request came from.
            decisions: Each call with its decision.
            now_ns: A monotonic time in nanoseconds, for the receipts.
            heartbeat: The worker id of a single call that the catalog marks as a heartbeat; opens a
                window, or joins one without a disk wait (`proxy.audit.writing.heartbeat_windows`).

        Raises:
            Unavailable: the records are not durable (AUDIT_UNWRITABLE); nothing may be forwarded.

        """
        if not decisions:  # a batch whose entries are all rejected: no entry would end the wait
            return []
        if self._writer.failure is not None or self._closed:
            self._commits.running_loop()  # so that `resumed` can report this refusal
            raise self._unwritable()
        micros = self._clock.now()
        opening: Window | None = None
        member = b""
        if heartbeat is not None and len(decisions) == 1:
            call, decision = decisions[0]
            key = window_key(principal, heartbeat, call, peer)
            fingerprint = decision_fingerprint(principal, decision)
            now = self._commits.running_loop().time()
            window = self._windows.join(key, fingerprint, now, micros)
            if window is not None:
                return [Receipt(window.call_id, window.seq, now_ns)]
            if decision.allowed and self._windows.has_room:
                opening = Window(key, request_id, -1, fingerprint, now, micros, micros)
                member = encode_opening(heartbeat)
        ids: Ids = []
        entries = []
        counted: set[int] = set()  # the places of denied calls without a record
        for number, (call, decision) in enumerate(decisions):
            if not decision.allowed and not self._counts.admit_denied(
                principal, peer, call, decision
            ):
                counted.add(number)
                continue
            call_id = request_id if len(decisions) == 1 else f"{request_id}.{number}"
            body = self._encoder.decided(call_id, principal, peer, call, decision, member)
            if decision.allowed:
                ids.append(call_id)
                entries.append(Entry(micros, body, EntryKind.OPENS, call_id))
            else:
                ids.append(None)
                entries.append(Entry(micros, body))
        if not entries:
            return [None] * len(decisions)
        future = self._commits.submit(entries, ids)
        try:
            first = await future
        except CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._record_abandoned(future.result(), ids)
            raise
        if opening is not None:
            opening.seq = first
            opening.ends = self._commits.running_loop().time() + WINDOW_SECONDS
            self._windows.open(opening)
            self._counts.start_sweeping()
        receipts = [
            None if call_id is None else Receipt(call_id, first + number, now_ns)
            for number, call_id in enumerate(ids)
        ]
        for number in sorted(counted) if counted else ():
            receipts.insert(number, None)
        return receipts

    def completed(
        self, receipt: Receipt, *, outcome: str, status: int, sent: int, duration_us: int
    ) -> None:
        """Record the outcome of a call, once; durable with the next commit.

        `outcome` is "ok", "fault" or the reason code of a failure. After `close` has recorded the
        outcomes of all calls, nothing is added.
        """
        if self._ended:
            return
        if receipt.seq in self._windows.by_seq and self._windows.completed(receipt.seq, outcome):
            return
        body = encode_completed(receipt.call_id, receipt.seq, outcome, status, sent, duration_us)
        self._commits.submit_lazily(
            Entry(self._clock.now(), body, EntryKind.CLOSES, seq=receipt.seq)
        )

    def rejected(
        self,
        request_id: str,
        peer: Peer,
        reason: Reason,
        detail: str = "",
        *,
        principal: Principal | None = None,
        upstream: str | None = None,
    ) -> None:
        """Record a request that became no call. Never waits, and takes bounded memory.

        Beyond a rate they are summed up: by principal, or by address where there is none.
        """
        room = self._writer.failure is None and len(self._commits.entries) < _MAX_BACKLOG
        if self._counts.admit_rejected(principal, peer, upstream, reason, room=room):
            self._submit(
                self._encoder.rejected(request_id, reason, detail, peer, principal, upstream)
            )

    def policy_in_force(self, policy_hash: str, files: Mapping[str, str]) -> None:
        """Record that a policy set decides from here on, and save its texts next to the log.

        Raises:
            Unavailable: they cannot be saved (AUDIT_UNWRITABLE); the set must not come into force.

        """
        try:
            texts_sha256 = save_snapshot(self.directory.parent, policy_hash, files)
        except OSError:
            detail = "the policy set cannot be saved next to the log"
            raise Unavailable(Reason.AUDIT_UNWRITABLE, detail, retry_after=_RETRY_AFTER) from None
        names: list[Json] = [*sorted(files)]
        members: dict[str, Json] = {
            "hash": policy_hash,
            "files": names,
            "texts_sha256": texts_sha256,
        }
        self._submit(encode_event("policy", members), EntryKind.POLICY)

    def record_event(self, stage: str, members: Mapping[str, Json]) -> None:
        """Record an event of the log itself, such as that segments were archived."""
        self._submit(encode_event(stage, members))

    async def close(self) -> None:
        """Write all entries, close open calls as unknown, and end the log. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._counts.stop()
        loop = self._commits.running_loop()
        self._report_refused()
        await self._commits.flush()
        # From here to `_ended` there is no await: an outcome that arrives later would be a second
        # one for its call.
        self._counts.record(loop.time(), force=True)
        # The outcomes of windows, and those that a full disk has kept back.
        pending = {e.seq for e in self._commits.entries if e.kind == EntryKind.CLOSES}
        for seq, call_id in sorted(self._writer.open_calls().items()):
            if seq not in pending:
                self._commits.submit_lazily(unknown_outcome(self._clock.now(), seq, call_id))
        self._report_refused()
        self._submit(encode_event("closed", {}))
        self._ended = True
        await self._commits.flush()
        self._commits.detach()
        self._writer.enqueue(None)
        await loop.run_in_executor(None, self._writer.join)
        self._writer.save_refusals(self._commits.entries)  # what a full disk has kept back
        self._finished = True
        os.close(self._lock)

    def _record_step_back(self, micros: int, behind_us: int) -> None:
        self._commits.submit_lazily(Entry(micros, encode_event("clock", {"behind_us": behind_us})))

    def _submit(self, body: bytes, kind: EntryKind = EntryKind.EVENT, seq: int = -1) -> None:
        if not self._ended:
            self._commits.submit_lazily(Entry(self._clock.now(), body, kind, seq=seq))

    def _record_abandoned(self, first: int, ids: Ids) -> None:
        for seq, call_id in enumerate(ids, first):
            if call_id is not None:
                body = encode_completed(call_id, seq, Reason.CLIENT_GONE, 0, 0, 0)
                self._submit(body, EntryKind.CLOSES, seq)

    def _unwritable(self) -> Unavailable:
        self._writer.refusals.refused += 1
        if self._finished:  # the next process of the log reports it
            self._writer.save_refusals()
        return Unavailable(
            Reason.AUDIT_UNWRITABLE, "the audit log cannot be written", retry_after=_RETRY_AFTER
        )

    def _report_refused(self) -> None:
        """Record the calls that were refused while the ``gap`` record was being written."""
        rest = self._writer.refusals.pending
        if rest and self._writer.failure is None:
            self._writer.refusals.reported += rest
            self._submit(encode_gap("", "refused while the log was being resumed", rest))
