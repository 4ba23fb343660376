"""One serving process as its supervisor sees it, and the fork that starts it.

The caller of `fork_worker` must run no threads and no event loop: the child goes on with a copy of
the caller's memory in one thread.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import structlog

from proxy.errors import Problem
from proxy.runtime.supervision.announcement import MAX_BYTES, Announcement, failure

ORDERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that the supervisor obeys."""

RETIRE = signal.SIGUSR1
"""Tells a process to finish what it has because a successor serves: workers are not sent away."""


_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """What a serving process is given.

    `listening` holds one socket for each listener, in the order of the settings. `processes` is the
    number of slots. The predecessor may go on serving for `predecessor_timeout` seconds. `announce`
    tells the supervisor that the process serves, or why it cannot; later calls do nothing.
    """

    slot: int
    listening: tuple[socket.socket, ...]
    processes: int
    predecessor_timeout: float
    announce: Callable[[Announcement], None]


@dataclass(slots=True)
class WorkerProcess:
    """One serving process as the supervisor sees it.

    `pidfd` becomes readable when it ends. `readiness` is the pipe on which it announces that it
    serves, and -1 afterwards. It may take `shutdown_timeout` seconds to end. `announcement` is what
    it announced, and `overdue` whether it did not do so in time.
    """

    pid: int
    pidfd: int
    slot: int
    started: float
    readiness: int
    shutdown_timeout: float
    announcement: Announcement | None = None
    overdue: bool = False
    _received: bytes = b""

    @property
    def serves(self) -> bool:
        """Whether it has announced that it serves."""
        return self.readiness < 0

    def receive(self) -> bool:
        """Read what it announces; return whether nothing more is to come."""
        try:
            data = os.read(self.readiness, 2 * MAX_BYTES)
        except BlockingIOError:
            return False
        self._received += data
        if self._received.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                self.announcement = Announcement.decode(self._received)
            return True
        return not data

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has just ended gets none."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


# SIGHUP is for the supervisor, and may be sent to all of a process group.
_CHILD_HANDLERS = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_IGN,
    RETIRE: signal.SIG_DFL,
}


def fork_worker(
    serve: Callable[[Callable[[Announcement], None]], int],
    slot: int,
    *,
    prepare: Callable[[], None],
    shutdown_timeout: float,
) -> WorkerProcess:
    """Fork a process that calls `prepare`, then `serve`, and leaves with the exit code of that.

    `serve` gets the function that tells the supervisor of it (see `WorkerSlot.announce`). An error
    of `serve` is logged and announced.

    Raises:
        OSError: the system gives no process, pipe or pidfd.

    """
    read, write = os.pipe()
    os.set_blocking(read, False)
    _flush()
    parent = os.getpid()
    # Until the child has handlers of its own, a signal to it would be written to the wake-up file
    # descriptor, which is the supervisor's: signals wait meanwhile.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(read)
        os.close(write)
        raise
    if pid == 0:
        os.close(read)
        _run(parent, prepare, serve, _Pipe(write).announce)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(write)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        os.close(read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return WorkerProcess(pid, pidfd, slot, time.monotonic(), read, shutdown_timeout)


def _run(
    parent: int,
    prepare: Callable[[], None],
    serve: Callable[[Callable[[Announcement], None]], int],
    announce: Callable[[Announcement], None],
) -> NoReturn:
    """Serve in the forked process, and leave it."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number, handler in _CHILD_HANDLERS.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ORDERS)
        _die_with(parent)
        prepare()
        code = serve(announce)
    except BaseException as error:
        _log.critical("process crashed", exc_info=True)
        announce(failure([_crash(error)]))
    finally:
        _flush()
        os._exit(code)


def _crash(error: BaseException) -> Problem:
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    hint = "Report it with the line of the log that says process crashed."
    return Problem("callgate serve", text, hint)


class _Pipe:
    """The end of the pipe on which a process announces something, once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def announce(self, announcement: Announcement) -> None:
        """Announce it, and close the pipe."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        # The supervisor has closed its end when it is about to terminate this process.
        with contextlib.suppress(BrokenPipeError):
            os.write(fd, announcement.encode())
        os.close(fd)


def _flush() -> None:
    """Write out what is buffered, if possible: a forked process would write it once more."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the supervisor is killed (Linux, prctl(2))."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
