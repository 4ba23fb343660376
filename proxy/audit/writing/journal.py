"""The front of the audit log: records calls and gives receipts once their records are durable.

`decide` is the only maker of a `Receipt`. While the log cannot be written it raises Unavailable at
once; what is known about calls already under way is kept and written when the writer has recovered.
`GroupCommit` gathers, `Writer` writes.
"""

import fcntl
import os
import re
from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from proxy.audit.format.policy_snapshots import save_snapshot
from proxy.audit.format.record import (
    RecordEncoder,
    TimestampEncoder,
    encode_completed,
    encode_event,
    encode_json,
)
from proxy.audit.redaction.redactor import Json, Redactor
from proxy.audit.writing.disk import Disk
from proxy.audit.writing.group_commit import GroupCommit, Ids
from proxy.audit.writing.heartbeat_windows import (
    WINDOW_SECONDS,
    HeartbeatWindows,
    Window,
    decision_fingerprint,
    window_key,
    worst_outcome,
)
from proxy.audit.writing.kernel_fdatasync import REAL_DISK
from proxy.audit.writing.keys import load_hmac_key, load_signing_key
from proxy.audit.writing.recovery import LogState, recover
from proxy.audit.writing.rejection_summaries import RejectionSummaries
from proxy.audit.writing.signer import Signer
from proxy.audit.writing.writer import IN_FORCE, Entry, Timing, Writer, now_ns
from proxy.common.durable_files import make_directory
from proxy.errors import ConfigError, Problem, Unavailable
from proxy.model import Call, Decision, Peer, Principal, Reason, Receipt

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
# records gathered while the disk is slow, above which rejections are only counted
_BACKLOG = 20_000
_BACK_US = 1_000_000  # a clock that goes back by more than this is worth a record


class LogInUseError(ConfigError):  # noqa: N818  (it says what is the case; ConfigError is the class of error)
    """Another process writes this log; a log of another name in the same directory would be free."""


class Journal:
    """One log, written by this process alone. Open with `Journal.open`, use on one event loop, end
    with `close`.
    """

    def __init__(self, directory: Path, lock: int, writer: Writer, commits: GroupCommit, bodies: RecordEncoder, rejections: RejectionSummaries,
                 clock: Callable[[], int]) -> None:  # fmt: skip
        """Wired by `open`."""
        self.directory = directory
        self._lock = lock
        self._writer = writer
        self._commits = commits
        self._bodies = bodies
        self._rejections = rejections
        self._windows = HeartbeatWindows()
        self._clock = clock
        self._stamp = TimestampEncoder()
        self._last = writer.last_time
        self._behind = self._sweeping = self._closed = self._ended = False
        commits.attach(writer, self._abandoned)
        commits.on_resumed = self._tell_the_rest

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
    ) -> "Journal":
        """Open the log of instance `name` under the audit `directory`, recover it, and record that
        a process writes it now.

        `origin_prefix` and `name` make the log's origin name, ``origin_prefix/name``; a log keeps the origin_prefix it began
        with. `signing_key` is a PEM; without it the key beside the log signs. Sealed segments are
        compressed in the background if `compress`. `clock` gives nanoseconds since 1970. Blocks;
        raises ConfigError when the log cannot be used.
        """
        if not _NAME.fullmatch(name) or not _SITE.fullmatch(origin_prefix):
            raise ConfigError(
                [
                    Problem(
                        "audit",
                        f"{origin_prefix!r}/{name!r} is no name of a log",
                        "use letters, digits, '.', '_' and '-'",
                    )
                ]
            )
        log = directory / name
        try:
            make_directory(log)
            lock = _lock(log)
            try:
                redactor = Redactor(
                    load_hmac_key(directory),
                    max_text_bytes=max_text_bytes,
                    extra_secret_names=redact_arguments,
                )
                state = recover(log)
                origin_prefix = state.origin.rpartition("/")[0] or origin_prefix
                signer = Signer(
                    f"{origin_prefix}/{name}",
                    load_signing_key(directory, origin_prefix, signing_key),
                )
                commits = GroupCommit(lambda: journal._unwritable())
                writer = Writer(log, signer, state, disk=disk, clock=clock, segment_bytes=segment_bytes, compress=compress,
                                timing=timing or Timing(), resumed=commits.resumed)  # fmt: skip
                journal = cls(
                    log,
                    lock,
                    writer,
                    commits,
                    RecordEncoder(redactor),
                    rejections or RejectionSummaries(),
                    clock,
                )
                writer.start(_opening(state, software, max(clock() // 1000, state.time)))
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else type(error).__name__
            remedy = "free or repair the disk, or mend the directory's owner"
            raise ConfigError(
                [Problem(str(log), f"the audit log cannot be written: {why}", remedy)]
            ) from None
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

    @property
    def commits(self) -> int:
        """How many fdatasyncs have made records durable: `size` over this is how many records share
        one.
        """
        return self._writer.commits

    async def decide(
        self, request_id: str, principal: Principal, origin: Peer, decided: Sequence[tuple[Call, Decision]], now_ns: int,
        heartbeat: str | None = None,
    ) -> list[Receipt | None]:  # fmt: skip
        """Record decisions durably, all in one commit; return a receipt for each allowed call and
        None for each denied one.

        `now_ns` is a monotonic time in nanoseconds, passed on in the receipts. `heartbeat` is the
        worker id of a single call that the catalog marks as a heartbeat: it rides on an open
        window, without waiting for the disk, or opens one
        (`proxy.audit.writing.heartbeat_windows`). Raise Unavailable(AUDIT_UNWRITABLE) when the
        records are not durable: then nothing may be sent. When the caller's task is cancelled while
        it waits, the calls are closed as failed (client-gone), since nobody is left to send them.
        """
        if self._writer.failure is not None or self._closed:
            # which is told when the log goes on, and then tells of this refusal
            self._commits.running_loop()
            raise self._unwritable()
        moment = self._now()
        body = self._bodies.decided
        window = b""
        if heartbeat is not None and len(decided) == 1:
            receipt = self._ride(heartbeat, principal, origin, *decided[0], moment, now_ns)
            if receipt is not None:
                return [receipt]
            if decided[0][1].allowed:
                window = b',"window":' + encode_json(
                    {"seconds": WINDOW_SECONDS, "worker": heartbeat[:256]}
                )
        ids: Ids
        if len(decided) == 1:
            call, decision = decided[0]
            ids = [request_id if decision.allowed else None]
            entries: list[Entry] = [
                (moment, body(request_id, principal, origin, call, decision, window), ids[0], -1)
            ]
        else:
            ids = []
            entries = []
            for number, (call, decision) in enumerate(decided):
                call_id = f"{request_id}.{number}"
                ids.append(call_id if decision.allowed else None)
                entries.append(
                    (moment, body(call_id, principal, origin, call, decision), ids[-1], -1)
                )
        future = self._commits.submit(entries, ids)
        try:
            first = await future
        except CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._abandoned(future.result(), ids)
            raise
        if window and heartbeat is not None:
            self._open_window(first, request_id, heartbeat, principal, origin, *decided[0], moment)
        if len(ids) == 1:
            return [None if ids[0] is None else Receipt(ids[0], first, now_ns)]
        return [
            None if call_id is None else Receipt(call_id, first + number, now_ns)
            for number, call_id in enumerate(ids)
        ]

    def completed(
        self, receipt: Receipt, *, outcome: str, status: int, sent: int, duration_us: int
    ) -> None:
        """Record what came of a call, once. `outcome` is "ok", "fault" or the reason code of a
        failure. Durable with the next commit.

        Once the log has ended it says of every call what came of it: nothing is added to that.
        """
        if self._ended:
            return
        if receipt.seq in self._windows.by_seq and self._windows.completed(receipt.seq, outcome):
            return
        body = encode_completed(receipt.call_id, receipt.seq, outcome, status, sent, duration_us)
        self._commits.submit_lazily((self._now(), body, None, receipt.seq))

    def rejected(self, request_id: str, origin: Peer, reason: Reason, detail: str = "", *, principal: Principal | None = None,
                 upstream: str | None = None) -> None:  # fmt: skip
        """Record a request that never became a call. Never waits, bounded in memory.

        Many from one address are summed up when nobody was identified; who has a name answers for
        each.
        """
        room = self._writer.failure is None and len(self._commits.entries) < _BACKLOG
        now = self._commits.running_loop().time()
        if (principal is not None and room) or self._rejections.admit(
            origin.address, reason.value, now, room=room
        ):
            self._add(
                self._bodies.rejected(request_id, reason, detail, origin, principal, upstream)
            )
        self._watch()

    def policy_in_force(self, policy_hash: str, files: Mapping[str, str]) -> None:
        """Record that from here on a policy set decides. Its texts (by file name) are kept beside
        the log by the set's hash.

        Raise Unavailable(AUDIT_UNWRITABLE) when they cannot be kept: then the set should not come
        into force.
        """
        try:
            texts = save_snapshot(self.directory.parent, policy_hash, files)
        except OSError:
            raise Unavailable(
                Reason.AUDIT_UNWRITABLE,
                "the policy set cannot be kept beside the log",
                retry_after=5,
            ) from None
        names: list[Json] = [*sorted(files)]
        self._add(
            encode_event("policy", {"hash": policy_hash, "files": names, "texts_sha256": texts}),
            closes=IN_FORCE,
        )

    def record_event(self, stage: str, members: Mapping[str, Json]) -> None:
        """Record something about the log itself, such as that segments were archived."""
        self._add(encode_event(stage, members))

    async def close(self) -> None:
        """Write all that is known, close calls still open as unknown, and end the log in order.
        Safe to call twice.
        """
        if self._closed:
            return
        self._closed = True
        loop = self._commits.running_loop()
        self._tell_the_rest()
        await self._commits.flush()
        # From here to `_ended` nobody else has a turn: who completes a call later comes too late,
        # and its record would be a second one.
        self._sum_up(loop.time(), force=True)
        # the windows', and what a full disk has kept back
        known = {closes for _, _, _, closes in self._commits.entries}
        for seq, call_id in sorted(self._writer.open_calls().items()):
            if seq not in known:
                self._add(encode_completed(call_id, seq, "unknown", 0, 0, 0), closes=seq)
        self._add(encode_event("closed", {}))
        self._ended = True
        await self._commits.flush()
        self._commits.detach()
        self._writer.put(None)
        await loop.run_in_executor(None, self._writer.join)
        os.close(self._lock)

    def _now(self) -> int:
        """Return the time to record. A clock that goes back cannot disorder the log: time stands
        still until it has caught up.
        """
        moment = self._clock() // 1000
        if moment >= self._last:
            self._last = moment
            self._behind = False
        elif not self._behind and self._last - moment > _BACK_US:
            self._behind = True
            self._commits.submit_lazily(
                (self._last, encode_event("clock", {"behind_us": self._last - moment}), None, -1)
            )
        return self._last

    def _add(self, body: bytes, closes: int = -1) -> None:
        if self._ended:
            return
        self._commits.submit_lazily((self._now(), body, None, closes))

    def _ride(
        self,
        worker: str,
        principal: Principal,
        origin: Peer,
        call: Call,
        decision: Decision,
        moment: int,
        now_ns: int,
    ) -> Receipt | None:
        key, standing = (
            window_key(principal, worker, call, origin),
            decision_fingerprint(principal, decision),
        )
        window = self._windows.join(key, standing, self._commits.running_loop().time(), moment)
        return None if window is None else Receipt(window.call_id, window.seq, now_ns)

    def _open_window(self, seq: int, call_id: str, worker: str, principal: Principal, origin: Peer, call: Call, decision: Decision,
                     moment: int) -> None:  # fmt: skip
        ends = self._commits.running_loop().time() + WINDOW_SECONDS
        key, standing = (
            window_key(principal, worker, call, origin),
            decision_fingerprint(principal, decision),
        )
        self._windows.open(Window(key, call_id, seq, standing, ends, moment, moment))
        self._watch()

    def _abandoned(self, first: int, ids: Ids) -> None:
        for number, call_id in enumerate(ids):
            if call_id is not None:
                self._add(
                    encode_completed(call_id, first + number, Reason.CLIENT_GONE, 0, 0, 0),
                    closes=first + number,
                )

    def _unwritable(self) -> Unavailable:
        self._writer.refused += 1
        return Unavailable(
            Reason.AUDIT_UNWRITABLE, "the audit log cannot be written", retry_after=5
        )

    def _tell_the_rest(self) -> None:
        """Record the calls that were refused while the gap record was on its way: none may go
        uncounted.
        """
        writer = self._writer
        rest = writer.refused - writer.told
        if rest and writer.failure is None:
            writer.told += rest
            self._add(
                encode_event(
                    "gap",
                    {
                        "since": "",
                        "error": "refused while the log was being resumed",
                        "refused": rest,
                    },
                )
            )

    def _watch(self) -> None:
        """Look once a second, while there is something that ends by itself."""
        if not self._sweeping:
            self._sweeping = True
            self._commits.running_loop().call_later(1.0, self._sweep)

    def _sweep(self) -> None:
        if self._closed:
            return
        loop = self._commits.running_loop()
        # else the counts stay where they are, so that none is lost
        if self._writer.failure is None:
            self._sum_up(loop.time())
        self._sweeping = self._rejections.watching or len(self._windows) > 0
        if self._sweeping:
            loop.call_later(1.0, self._sweep)

    def _sum_up(self, now: float, *, force: bool = False) -> None:
        for summary in self._rejections.expired(now, force=force):
            self._add(encode_event("rejected", {"summary": summary}))
        for window in self._windows.expired(now, force=force):
            outcomes: dict[str, Json] = dict(sorted(window.outcomes.items()))
            first, last = self._stamp(window.first).decode(), self._stamp(window.last).decode()
            members: dict[str, Json] = {
                "id": window.call_id, "decided_seq": window.seq, "outcome": worst_outcome(window.outcomes),
                "window": {"calls": window.calls, "first": first, "last": last, "outcomes": outcomes},
            }  # fmt: skip
            self._add(encode_event("completed", members), closes=window.seq)


def _lock(log: Path) -> int:
    """Take the log for this process alone; raise ConfigError when another has it."""
    fd = os.open(log / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        remedy = "give each process an instance name of its own"
        raise LogInUseError(
            [Problem(str(log), "another process is writing this log", remedy)]
        ) from None
    return fd


def _opening(state: LogState, software: str, moment: int) -> list[Entry]:
    """Return what a process writes first: that it is here, what it found, and the end of the calls
    its predecessor left open.
    """
    recovered: Json = (
        {"torn_bytes": state.torn_bytes, "unknown": len(state.open)}
        if state.torn_bytes or state.open
        else None
    )
    opened = encode_event(
        "opened", {"software": software, "pid": os.getpid(), "recovered": recovered}
    )
    closing: list[Entry] = [
        (moment, encode_completed(call_id, seq, "unknown", 0, 0, 0), None, seq)
        for seq, call_id in sorted(state.open.items())
    ]
    return [(moment, opened, None, -1), *closing]
