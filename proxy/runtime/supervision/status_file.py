"""The supervisor's status file, for `callgate reload`.

It holds the supervisor's pid, the generation in service and the result of the last reload, with
the reasons of a refused one.

The first block is one line of JSON, the status; the blocks after it are the report of the last
reload. All of them are allocated when the file is locked and later written in place: that needs no
room on a full disk (but for file systems that copy on write, which keep a reserve). If a report
cannot be written all the same, the status says that there is none, and the log has the reasons. The
report is written first, and the status has its digest, so a reader takes no half of a report.

The supervisor holds an exclusive lock on the file while it serves. The lock, not the pid, proves
that a supervisor runs: after kill -9 the pid may be another process's.

`reloads_started` and `reloads_finished` count. A reload that was requested when `reloads_started`
was n is over once `reloads_finished` is above n.

A reader takes a shared lock for a moment, to test the exclusive one. A supervisor that starts in
that moment tries again, so a reader does not keep it from starting.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from proxy.runtime.supervision.announcement import MAX_BYTES, Report

# Bytes of the status: one page, so that a reader never sees halves of two versions.
_SIZE = 4096
# Attempts to lock. A reader holds its lock for microseconds, a supervisor while it serves.
_TRIES = 50
_TRY_SECONDS = 0.01
# A pipe that the owner of the directory put in its place keeps no reader waiting.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a supervisor.

    `last_exit_code` is that of a process which could not start in the last reload, and 0 after a
    reload that succeeded. `unapplied` is the number of things that are not in force after it.
    `config` is the settings file, and `report` the digest of the last report (empty: there is none,
    or it could not be written).
    """

    pid: int
    generation: int = 0
    reloads_started: int = 0
    reloads_finished: int = 0
    last_exit_code: int = 0
    unapplied: int = 0
    config: str = field(default="", compare=False)
    report: str = field(default="", compare=False)


class StatusFileLockedError(OSError):
    """Another supervisor with these settings is running."""


class StatusFile:
    """The file as its supervisor uses it."""

    def __init__(self, path: Path) -> None:
        """Lock the file for this process.

        Raises:
            StatusFileLockedError: another supervisor has it.
            OSError: it cannot be opened, or there is no room for it.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_TRY_SECONDS)
            else:
                # A killed supervisor left its state behind.
                os.ftruncate(self._fd, 0)
                self._allocate()
                return
        self.close()
        raise StatusFileLockedError("callgate is already running with these settings")

    def _allocate(self) -> None:
        try:
            if os.pwrite(self._fd, b" " * (_SIZE + MAX_BYTES), 0) < _SIZE + MAX_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self.release()
            raise

    def write(self, status: Status, report: Report | None = None) -> None:
        """Publish a state, with the report of the reload that has ended.

        Raises:
            OSError: the state is not published. A report that cannot be written is left out.
        """
        digest = ""
        if report is not None:
            with contextlib.suppress(OSError):
                data = report.encode().ljust(MAX_BYTES)
                if os.pwrite(self._fd, data, _SIZE) == len(data):
                    digest = sha256(data).hexdigest()
            status = replace(status, report=digest)
        text = json.dumps(asdict(status))
        if len(text) >= _SIZE:
            text = json.dumps(asdict(replace(status, config="")))
        os.pwrite(self._fd, text.ljust(_SIZE - 1).encode("ascii") + b"\n", 0)

    def release(self) -> None:
        """Empty and unlock the file, so that the next supervisor can start. Safe to call twice."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            self.close()

    def close(self) -> None:
        """Close an inherited descriptor: the lock stays with the supervisor."""
        fd, self._fd = self._fd, -1
        os.close(fd)


def read_status(path: Path) -> Status | None:
    """Return the state that a running supervisor published, or None when none is running.

    Raises:
        PermissionError: the file belongs to another user.
    """
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(fd, _SIZE, 0)
        else:
            return None  # unlocked: its supervisor was killed
    finally:
        os.close(fd)
    try:
        return Status(**json.loads(text))
    except (ValueError, TypeError):
        return None


def read_report(path: Path, status: Status) -> Report | None:
    """Return the report that belongs to `status`; None if there is none.

    Raises:
        OSError: the file cannot be read.
    """
    fd = os.open(path, _READ)
    try:
        data = os.pread(fd, MAX_BYTES, _SIZE)
    finally:
        os.close(fd)
    if not status.report or sha256(data).hexdigest() != status.report:
        return None  # another reload is writing its own
    try:
        return Report.decode(data)
    except ValueError:
        return None


def signal_supervisor(path: Path, number: signal.Signals) -> Status | None:
    """Send a signal to the running supervisor, and to no other process.

    A pid in a file proves nothing: the file may be another user's, and the pid another process's. A
    pidfd is opened first, and the file is read again: its lock is still held, so the process had
    not ended. The process must belong to the owner of the file, so the owner of a forged file can
    only have a process of their own signalled.

    Returns:
        The state from before the signal; None when no supervisor runs, and nothing was signalled.

    Raises:
        PermissionError: the file or the process belongs to another user.
    """
    before = read_status(path)
    if before is None:
        return None
    try:
        pidfd = os.pidfd_open(before.pid)
    except ProcessLookupError:
        return None
    try:
        again = read_status(path)
        if again is None or again.pid != before.pid:
            return None
        if Path(f"/proc/{before.pid}").stat().st_uid != path.lstat().st_uid:
            message = f"the process {before.pid} is not of the user that {path} belongs to"
            raise PermissionError(errno.EPERM, message)
        signal.pidfd_send_signal(pidfd, number)
        return before
    finally:
        os.close(pidfd)
