"""The supervisor's status file, for `callgate reload`.

It holds the supervisor's pid, the generation in service and the result of the last reload.

The content is one line of JSON, written in place: that needs no room on a full disk. The
supervisor holds an exclusive lock on the file while it serves. The lock, not the pid, proves that
a supervisor runs: after kill -9 the pid may be another process's.

`reloads_started` and `reloads_finished` count. A reload that was requested when `reloads_started`
was n is over once `reloads_finished` is above n.

A reader takes a shared lock for a moment, to test the exclusive one. A supervisor that starts in
that moment tries again, so a reader does not keep it from starting.
"""

import errno
import fcntl
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# Bytes: less than a block, so that a reader never sees halves of two versions.
_SIZE = 256
# Attempts to lock. A reader holds its lock for microseconds, a supervisor while it serves.
_TRIES = 50
_TRY_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a supervisor.

    `last_exit_code` is that of a process which could not start in the last reload, and 0 after a
    reload that succeeded.
    """

    pid: int
    generation: int = 0
    reloads_started: int = 0
    reloads_finished: int = 0
    last_exit_code: int = 0


class StatusFileLockedError(OSError):
    """Another supervisor with these settings is running."""


class StatusFile:
    """The file as its supervisor uses it."""

    def __init__(self, path: Path) -> None:
        """Lock the file for this process.

        Raises:
            StatusFileLockedError: another supervisor has it.
            OSError: it cannot be opened.
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
                return
        os.close(self._fd)
        raise StatusFileLockedError("callgate is already running with these settings")

    def write(self, status: Status) -> None:
        """Publish a state. Raises `OSError`."""
        os.pwrite(self._fd, json.dumps(asdict(status)).ljust(_SIZE - 1).encode("ascii") + b"\n", 0)

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
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
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
