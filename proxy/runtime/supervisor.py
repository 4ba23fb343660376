"""The small supervisor of `callgate serve`: it owns the listening sockets, starts the serving
processes, and replaces them.

Each slot has a socket of its own on the shared port (SO_REUSEPORT), so the kernel spreads
connections over the processes. The sockets belong to the supervisor and outlive any process: while
one is replaced, clients wait in the socket's queue instead of being refused.

* A process that dies is started again at once, or after a pause when it died young. One that cannot
start any more (its
  settings were broken meanwhile) is tried again every second; until then its socket is closed, so
  that the kernel gives its clients to the other processes.
* SIGHUP (`callgate reload`): new processes read settings, policies and certificates anew; when all
of them are ready the
  old ones hand over, that is, finish what they have. If one cannot start, the old ones stay, and
  the reason is logged.
* SIGTERM, SIGINT: the sockets close, the processes drain and end, then the supervisor.
* A process that was told to end and does not is killed when its time is up.

The supervisor runs no event loop and no threads, so a fork from it is safe. It waits for nothing
but signals and the pipes on which processes say that they serve, so no process that hangs while it
starts keeps it from anything else.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from proxy.edge.server.listener import bind
from proxy.runtime.status_file import Status, StatusFile

_YOUNG_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
_READY_SECONDS = 60.0
_LOOK_SECONDS = 0.02  # between two looks at the pipes, while a process is starting
_REST_SECONDS = 0.5
_ORDERS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_WATCHED = {*_ORDERS, signal.SIGCHLD, signal.SIGALRM}
HAND_OVER = signal.SIGUSR1
"""Tells a process to finish what it has because another has taken its place: workers are not told
to stop.
"""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What a serving process is given: its number, its listening socket, and how to say that it
    serves.

    `processes` is how many there are, and `overlap` for how many seconds those may go on serving in
    whose place they come. `ready` takes the seconds that the process may take to end once it is
    told to.
    """

    slot: int
    listening: socket.socket
    processes: int
    overlap: float
    ready: Callable[[float], None]


@dataclass(slots=True)
class _Process:
    """One serving process as the supervisor sees it. `pipe` is where it says that it serves, -1
    once it has.

    It may take `patience` seconds to end.
    """

    pid: int
    slot: int
    started: float
    pipe: int
    patience: float

    @property
    def serves(self) -> bool:
        return self.pipe < 0


class Supervisor:
    """Runs `processes` serving processes. `serve` is called in each, returns its exit code, and
    must not return early.

    `status` tells `callgate reload` what is the case. A process that was told to end may take as
    long as it said, and before it has said that, `patience` seconds.
    """

    def __init__(
        self,
        address: str,
        port: int,
        processes: int,
        serve: Callable[[Place], int],
        status: StatusFile,
        *,
        patience: float = 30.0,
    ) -> None:
        """Bind the sockets. Raises `OSError` when the address is taken."""
        self._serve = serve
        self._address, self._port, self._reuse_port = address, port, processes > 1
        self._sockets: list[socket.socket | None] = [self._bind() for _ in range(processes)]
        self._file = status
        self._patience = patience
        self._status = Status(os.getpid())
        self._current: dict[int, _Process] = {}  # by slot
        self._next: dict[int, _Process] | None = None  # the generation that is starting
        self._again = False  # a reload was asked for while another was under way
        self._leaving: dict[int, float] = {}  # when each process that was told to end is killed
        self._restart_at: dict[int, float] = {}  # by slot
        self._stopping = False
        self._code = 0

    def run(self) -> int:
        """Supervise until told to stop; the exit code: 0, or that of a process that could not start
        in the first place.
        """
        # ignored, as a parent may have left it, the kernel would reap unseen
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # is for serving processes, and may be sent to all of a group
        signal.signal(HAND_OVER, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self._say()
        self._begin_generation()
        while not self._stopping or self._all() or self._leaving:
            starting = any(not process.serves for process in self._all())
            self._take(_next_signal(_LOOK_SECONDS if starting else _REST_SECONDS))
            self._listen()
            self._reap()
            self._settle()
            self._restart()
            self._kill_overdue()
        return self._code

    def _bind(self, *, listen: bool = True) -> socket.socket:
        return bind(self._address, self._port, reuse_port=self._reuse_port, listen=listen)

    def _all(self) -> list[_Process]:
        return [*self._current.values(), *(self._next or {}).values()]

    # -- signals

    def _take(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop()
        elif number != signal.SIGHUP:
            return
        elif self._next is not None:
            self._again = True  # the one under way may have read what has changed since
        elif not self._stopping:
            self._say(begun=self._status.begun + 1)
            self._begin_generation()

    def _stop(self) -> None:
        """Take no more clients; tell every process to end. A second time, tell them once more."""
        for slot in range(len(self._sockets)):
            self._close(slot)
        for pid in self._leaving:
            _signal(pid, signal.SIGTERM)
        for process in self._all():
            self._dismiss(process, signal.SIGTERM)
        self._current, self._next, self._restart_at = {}, None, {}
        if not self._stopping:
            self._file.leave()
        self._stopping = True

    def _dismiss(self, process: _Process, number: signal.Signals) -> None:
        """Tell a process to end. One that does not serve yet has nothing to finish and knows no
        other signal.
        """
        if not process.serves:
            os.close(process.pipe)
            process.pipe, number = -1, signal.SIGTERM
        self._leaving[process.pid] = time.monotonic() + process.patience
        _signal(process.pid, number)

    # -- generations

    def _begin_generation(self) -> None:
        """Start one process for each slot, beside those that serve."""
        self._next = {}
        for slot in range(len(self._sockets)):
            process = self._start(slot)
            if process is None:
                self._refuse(1)
                return
            self._next[slot] = process

    def _settle(self) -> None:
        """Once all of the new generation serve, the old one hands over."""
        if self._next is None or not all(process.serves for process in self._next.values()):
            return
        old, self._current, self._next = self._current, self._next, None
        self._restart_at.clear()
        for process in old.values():
            self._dismiss(process, HAND_OVER)
        if old:
            _log.info("reloaded", generation=self._status.generation + 1)
        self._finished(0)

    def _refuse(self, code: int) -> None:
        """A process of the new generation could not start: let the others of it go, and everything
        else be as it was.
        """
        failed, self._next = self._next or {}, None
        for process in failed.values():
            self._dismiss(process, HAND_OVER)  # some may have taken clients already
        if not self._status.generation:
            self._code = code
            self._stop()
            return
        _log.error("reload refused: the old processes go on serving", code=code)
        self._finished(code)

    def _finished(self, refused: int) -> None:
        generation = self._status.generation + (not refused)
        self._say(generation=generation, done=self._status.begun, refused=refused)
        if self._again:
            self._again = False
            self._say(begun=self._status.begun + 1)
            self._begin_generation()

    def _say(self, **changed: int) -> None:
        now = self._status
        members = {
            "generation": now.generation,
            "begun": now.begun,
            "done": now.done,
            "refused": now.refused,
            **changed,
        }
        self._status = Status(now.pid, **members)
        try:
            self._file.write(self._status)
        except OSError as error:  # serving goes on; a reload will wait in vain
            _log.error("status not written", why=error.strerror)

    # -- processes

    def _start(self, slot: int) -> _Process | None:
        """Fork a process for `slot`; None when its socket cannot be bound again or the system has
        no process to give.
        """
        try:
            # One that has to be bound again is that of a process which could not start: no clients
            # before it can.
            listening = self._sockets[slot] = self._sockets[slot] or self._bind(listen=False)
            read, write = os.pipe()
        except OSError as error:
            _log.error("process could not start", slot=slot, why=error.strerror)
            return None
        _flush()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(read)
            os.close(write)
            _log.error("process could not start", slot=slot, why=error.strerror)
            return None
        if pid:
            os.close(write)
            return _Process(pid, slot, time.monotonic(), read, self._patience)
        code = 1
        try:
            os.close(read)
            _die_with(parent)
            self._forget_all_but(slot)
            # is for the supervisor, and may be sent to all of a group
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(HAND_OVER, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            overlap = (
                0.0
                if self._next is None
                else max((process.patience for process in self._current.values()), default=0.0)
            )
            code = self._serve(
                Place(slot, listening, len(self._sockets), overlap, partial(_say_ready, write))
            )
        except BaseException:
            traceback.print_exc()
        finally:
            _flush()
            os._exit(code)

    def _forget_all_but(self, slot: int) -> None:
        """In a new process: close what is the supervisor's or another process's."""
        self._file.close()
        for number in range(len(self._sockets)):
            if number != slot:
                self._close(number)
        for process in self._all():
            if not process.serves:
                os.close(process.pipe)

    def _close(self, slot: int) -> None:
        listening, self._sockets[slot] = self._sockets[slot], None
        if listening is not None:
            listening.close()

    def _listen(self) -> None:
        """Hear which of the starting processes serve; kill those that have had their time."""
        now = time.monotonic()
        starting = [process for process in self._all() if not process.serves]
        readable, _, _ = select.select([process.pipe for process in starting], [], [], 0)
        for process in starting:
            if process.pipe in readable and (said := os.read(process.pipe, 64)):
                os.close(process.pipe)
                process.pipe, process.patience = -1, float(said)
            elif now > process.started + _READY_SECONDS:
                _signal(process.pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._leaving.pop(pid, None) is None:
                self._died(pid, os.waitstatus_to_exitcode(status))

    def _died(self, pid: int, code: int) -> None:
        for process in (self._next or {}).values():
            if process.pid == pid:
                assert self._next is not None
                del self._next[process.slot]
                if not process.serves:
                    os.close(process.pipe)
                self._refuse(code or 1)
                return
        for process in [process for process in self._current.values() if process.pid == pid]:
            del self._current[process.slot]
            now = time.monotonic()
            if process.serves:
                young = now - process.started < _YOUNG_SECONDS
                self._restart_at[process.slot] = now + (_PAUSE_SECONDS if young else 0.0)
                _log.error("process died, starting another", slot=process.slot, code=code)
            else:
                os.close(process.pipe)
                self._not_restarted(process.slot, code)

    def _not_restarted(self, slot: int, code: int) -> None:
        # else nobody would serve its clients any sooner, or the next one has it
        if self._current and slot not in (self._next or {}):
            self._close(slot)
        self._restart_at[slot] = time.monotonic() + _PAUSE_SECONDS
        _log.error("process could not start", slot=slot, code=code)

    def _restart(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, at in self._restart_at.items() if at <= now]:
            del self._restart_at[slot]
            process = self._start(slot)
            if process is None:
                self._not_restarted(slot, 1)
            else:
                self._current[slot] = process

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for pid in [pid for pid, at in self._leaving.items() if at <= now]:
            _log.error("process did not end in time, killing it", pid=pid)
            self._leaving[pid] = now + self._patience
            _signal(pid, signal.SIGKILL)


def _next_signal(seconds: float) -> int:
    """Wait for one of the `_WATCHED` signals, which are blocked; SIGALRM when `seconds` have
    passed.

    Not by `signal.sigtimedwait`: when the process is stopped for longer than its time (SIGSTOP, a
    debugger, a container that is paused), CPython's returns memory that nobody has written to,
    which may read as any signal (seen from 3.6 to 3.13).
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    # Orders first: the kernel gives the lowest number, and in every turn that takes long that would
    # be the alarm, not SIGTERM.
    waiting = signal.sigpending() & _ORDERS
    if not waiting:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    return signal.sigwaitinfo(waiting or _WATCHED).si_signo


def _say_ready(pipe: int, patience: float) -> None:
    # it was told to end meanwhile, and will hear that next
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, str(patience).encode())
    os.close(pipe)


def _flush() -> None:
    """Write out what is buffered, if that is possible: a process that parts from this one would
    write it once more.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended in the same moment; it will be reaped
        os.kill(pid, number)


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the supervisor is killed (Linux): nobody would
    supervise it any more.
    """
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
