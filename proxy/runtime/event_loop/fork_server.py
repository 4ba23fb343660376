"""The fork server: a small process that forks another one for each large call.

The serving process forks it at its start, while it has one thread and no log is open. It serves no
client, holds no connection, and ends when the serving process does. For each job it gets one end of
a socket pair, and forks a process that takes the job from there, returns the result, and ends. So
memory of a large call is given back at once, and a call that crashes its process harms no other.

A guard stands between the two. It starts another server when one is killed, which the serving
process cannot do: it has threads and open connections by then. The guard itself uses no memory to
speak of, so the kernel does not choose it.

A job's process has a lower priority than the serving one, at most `CPU_SECONDS`, and is the first
that the kernel ends when memory is short.
"""

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from proxy.runtime.event_loop import messages
from proxy.runtime.event_loop.large_call_handler import LargeCallHandler

# CPU time of one job. The largest call allowed takes a second or two.
CPU_SECONDS = 20
# Time of one job: its serving process may be slow to send, or gone.
_JOB_SECONDS = 60
# Seconds until a killed server is started again.
_RESTART_SECONDS = 0.1
_NICENESS = 5
_OOM_SCORE = b"500"


def start(make_handler: Callable[[], LargeCallHandler]) -> tuple[int, socket.socket]:
    """Fork the guard and the server; return the guard's process id and the socket that takes jobs.

    `make_handler` is called in the server, before its first job.
    """
    ours, theirs = socket.socketpair()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # A signal to the child is not to be written to the wake-up descriptor of the parent's loop.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if pid == 0:
        try:
            _guard(theirs, make_handler)
        finally:
            os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return pid, ours


def _guard(control: socket.socket, make_handler: Callable[[], LargeCallHandler]) -> NoReturn:
    """Keep a server running until `control` is closed."""
    _leave_the_parent(control.fileno())
    while True:
        with contextlib.suppress(OSError):  # no process: try again
            pid = os.fork()
            if pid == 0:
                try:
                    _serve(control, make_handler)
                finally:
                    os._exit(1)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
                os._exit(0)
        time.sleep(_RESTART_SECONDS)


def _serve(control: socket.socket, make_handler: Callable[[], LargeCallHandler]) -> NoReturn:
    """Fork a process for each end of a socket pair that arrives, until `control` is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets the ended ones
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(_OOM_SCORE)
    handler: LargeCallHandler | None = None
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            os._exit(0)
        if handler is None:
            handler = make_handler()
        with contextlib.suppress(OSError):  # no process: the other end finds its own closed
            if os.fork() == 0:
                try:
                    control.close()
                    _run(socket.socket(fileno=descriptors[0]), handler)
                finally:
                    os._exit(0)
        os.close(descriptors[0])


def _leave_the_parent(kept: int) -> None:
    """Give up what was inherited: signals, sockets, locks of logs."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # it ends with its parent
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _run(connection: socket.socket, handler: LargeCallHandler) -> None:
    """Handle one job."""
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_JOB_SECONDS)
    lengths = _receive(
        connection, messages.lengths_size(_receive(connection, messages.COUNT_BYTES))
    )
    job = messages.decode([_receive(connection, size) for size in messages.read_lengths(lengths)])
    for part in messages.encode(handler.handle(job)):
        connection.sendall(part)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Return the next `size` bytes. Raises `EOFError` when there are fewer."""
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return bytes(data)
