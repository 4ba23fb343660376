"""Signals as bytes in a socket, for a program that waits in one `select`."""

import contextlib
import signal
import socket

from proxy.runtime.supervision.worker_process import ORDERS, RETIRE


class SignalWakeup:
    """The reading end of a socket to which Python writes the number of each signal.

    The handlers themselves do nothing.
    """

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return self._reading.fileno()

    def heed(self) -> None:
        """Have the supervisor's signals wake the selector."""
        # A parent may have left it ignored; the kernel would then reap children unseen.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # For serving processes; it may be sent to all of a process group.
        signal.signal(RETIRE, signal.SIG_IGN)
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in ORDERS:
            signal.signal(number, _do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*ORDERS, signal.SIGCHLD})

    def read(self) -> bytes:
        """Return the numbers of the signals that have come."""
        with contextlib.suppress(BlockingIOError):
            return self._reading.recv(4096)
        return b""

    def close(self) -> None:
        """Close both ends, in a process that heeds signals by itself."""
        self._reading.close()
        self._writing.close()


def _do_nothing(_number: int, _frame: object) -> None:
    """Let Python write the signal's number to the socket."""
