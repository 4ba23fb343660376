"""The small supervisor of `callgate serve`: it owns the listening sockets, starts the serving processes, and replaces them.

Each slot has a socket of its own on the shared port (SO_REUSEPORT), so the kernel spreads connections over the processes.
The sockets belong to the supervisor and outlive any process: while one is replaced, clients wait in the socket's queue
instead of being refused.

* A process that dies is started again at once, or after a pause when it died young.
* SIGHUP (`callgate reload`): new processes read settings, policies and certificates anew; when all of them are ready the
  old ones hand over, that is, finish what they have. If one cannot start, the old ones stay, and the reason is logged.
* SIGTERM, SIGINT: the processes drain and end, then the supervisor.

The supervisor runs no event loop and no threads, so a fork from it is safe; it only waits for signals and pipes.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from proxy.edge.listener import bind

_YOUNG_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
_READY_SECONDS = 60.0
_WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
HAND_OVER = signal.SIGUSR1
"""Tells a process to finish what it has because another has taken its place: workers are not told to stop."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What a serving process is given: its number, its listening socket, and how to say that it serves."""

    slot: int
    listening: socket.socket
    ready: Callable[[], None]


@dataclass(slots=True)
class _Process:
    """One serving process as the supervisor sees it."""

    pid: int
    slot: int
    started: float


class Supervisor:
    """Runs `processes` serving processes. `serve` is called in each, returns its exit code, and must not return early.

    `status` is a file that says which generation serves, and why the last reload was refused if it was: for `reload`.
    """

    def __init__(self, address: str, port: int, processes: int, serve: Callable[[Place], int], status: Path) -> None:
        """Bind the sockets. Raises `OSError` when the address is taken."""
        self._serve = serve
        self._status = status
        self._sockets = [bind(address, port, reuse_port=processes > 1) for _ in range(processes)]
        self._current: dict[int, _Process] = {}
        self._leaving: set[int] = set()
        self._generation = 0
        self._stopping = False
        self._restart_at: dict[int, float] = {}

    def run(self) -> int:
        """Supervise until told to stop; the exit code: 0, or that of a process that could not start in the first place."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        code = self._start_generation()
        if code:
            return code
        self._note()
        while self._current or self._leaving or not self._stopping:
            self._take(signal.sigtimedwait(_WATCHED, 0.5))
            self._reap()
            self._restart()
        self._status.unlink(missing_ok=True)
        return 0

    # -- signals

    def _take(self, info: signal.struct_siginfo | None) -> None:
        if info is None or info.si_signo == signal.SIGCHLD:
            return
        if info.si_signo == signal.SIGHUP:
            self._reload()
            return
        self._stopping = True
        self._restart_at.clear()
        for pid in [*(process.pid for process in self._current.values()), *self._leaving]:
            _signal(pid, signal.SIGTERM)

    def _reload(self) -> None:
        """Start a new generation beside the old one; let the old hand over, or let the new go, as the case may be."""
        old = dict(self._current)
        code = self._start_generation()
        if code:
            self._current = old
            _log.error("reload refused: the old processes go on serving", code=code)
            self._note(refused=code)
            return
        for process in old.values():
            self._leaving.add(process.pid)
            _signal(process.pid, HAND_OVER)
        _log.info("reloaded", generation=self._generation)
        self._note()

    # -- processes

    def _start_generation(self) -> int:
        """Start one process for each slot and wait until all serve; 0, or the exit code of the first that failed."""
        started = [self._start(slot) for slot in range(len(self._sockets))]
        codes = {process.pid: _wait_ready(process.pid, pipe) for process, pipe in started}
        failed = [code for code in codes.values() if code]
        if failed:
            for pid in [pid for pid, code in codes.items() if not code]:
                self._leaving.add(pid)
                _signal(pid, signal.SIGTERM)
            return failed[0]
        self._current = {process.slot: process for process, _ in started}
        self._generation += 1
        return 0

    def _start(self, slot: int) -> tuple[_Process, int]:
        read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(write)
            return _Process(pid, slot, time.monotonic()), read
        code = 1
        try:
            os.close(read)
            _die_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            for number, other in enumerate(self._sockets):
                if number != slot:
                    other.close()
            code = self._serve(Place(slot, self._sockets[slot], lambda: _say_ready(write)))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._leaving:
                self._leaving.discard(pid)
                continue
            for process in [p for p in self._current.values() if p.pid == pid]:
                del self._current[process.slot]
                if not self._stopping:
                    young = time.monotonic() - process.started < _YOUNG_SECONDS
                    self._restart_at[process.slot] = time.monotonic() + (_PAUSE_SECONDS if young else 0.0)
                    _log.error("process died, starting another", slot=process.slot, code=os.waitstatus_to_exitcode(status))

    def _restart(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, at in self._restart_at.items() if at <= now]:
            del self._restart_at[slot]
            process, pipe = self._start(slot)
            code = _wait_ready(process.pid, pipe)
            if code:
                self._restart_at[slot] = time.monotonic() + _PAUSE_SECONDS
                _log.error("process could not start", slot=slot, code=code)
            else:
                self._current[slot] = process

    def _note(self, *, refused: int = 0) -> None:
        text = json.dumps({"pid": os.getpid(), "generation": self._generation, "refused": refused, "at": time.time()})
        temporary = self._status.with_suffix(".new")
        temporary.write_text(text + "\n", encoding="ascii")
        temporary.chmod(0o600)
        temporary.replace(self._status)


def _say_ready(pipe: int) -> None:
    os.write(pipe, b"1")
    os.close(pipe)


def _wait_ready(pid: int, pipe: int) -> int:
    """0 once the process serves; its exit code (or 1) when it ended or took too long instead."""
    try:
        readable, _, _ = select.select([pipe], [], [], _READY_SECONDS)
        if readable and os.read(pipe, 1) == b"1":
            return 0
    finally:
        os.close(pipe)
    if not readable:
        _signal(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) or 1


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended in the same moment; it will be reaped
        os.kill(pid, number)


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the supervisor is killed (Linux): nobody would supervise it any more."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
