"""The file by which `callgate reload` finds a running gate and learns what became of its wish.

One line of JSON, written in place by the supervisor, which holds a lock on the file for as long as
it serves. The lock, not the number in it, says that a gate runs: after kill -9 the number may be
another process's by now. Writing in place needs no room on a full disk, and a change is never in
doubt: `begun` counts the reloads that were begun, `done` those that were finished, so a wish made
when `begun` was n is answered once `done` is above n.

Whoever reads holds a shared lock for a moment, to see whether the file is held. A supervisor that
begins in that moment tries again, since a reader must not keep a gate from starting.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# bytes; less than a block, so that what is read is one version, not a half of each of two
_SIZE = 256
_TRIES = 50  # readers hold the file for microseconds, a supervisor for as long as it serves
_TRY_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Status:
    """What the supervisor says: its process id, the generation that serves, reloads begun and done,
    and why the last was refused.

    `refused` is the exit code of a process of the last reload that could not start, 0 when all of
    them serve.
    """

    pid: int
    generation: int = 0
    reloads_started: int = 0
    reloads_finished: int = 0
    last_exit_code: int = 0


class StatusInUse(OSError):  # noqa: N818  (it says what is the case)
    """Another supervisor with these settings serves."""


class StatusFile:
    """The supervisor's end of the file."""

    def __init__(self, path: Path) -> None:
        """Take the file for this process. Raises `StatusInUse` when another has it, and `OSError`."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_TRY_SECONDS)
            else:
                # what a killed one left must not be taken for what this one says
                os.ftruncate(self._fd, 0)
                return
        os.close(self._fd)
        raise StatusInUse("a gate with these settings is running already")

    def write(self, status: Status) -> None:
        """Say what is the case now. Raises `OSError`."""
        os.pwrite(self._fd, json.dumps(asdict(status)).ljust(_SIZE - 1).encode("ascii") + b"\n", 0)

    def release(self) -> None:
        """Let the file go, so that the next supervisor may begin. It stays, empty. May be called
        twice.
        """
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            self.close()

    def close(self) -> None:
        """Forget the file, in a process that got it from the supervisor: the lock is the
        supervisor's.
        """
        fd, self._fd = self._fd, -1
        os.close(fd)


def read_status(path: Path) -> Status | None:
    """What the supervisor that holds the file says; None when no gate with these settings serves.
    Raises `PermissionError`.
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
            return None  # nobody holds it: whoever wrote it has been killed
    finally:
        os.close(fd)
    try:
        return Status(**json.loads(text))
    except (ValueError, TypeError):
        return None
