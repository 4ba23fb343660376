"""The supervisor of `callgate serve`: starts the serving processes and replaces them.

It owns the listening sockets. Each slot has sockets of its own on the shared ports (SO_REUSEPORT),
so the kernel spreads connections over the processes. The sockets outlive any process: while one is
replaced, clients wait in the socket's queue instead of being refused.

* A process that dies is started again at once, or after a pause when it died young. A process that
  cannot start (its settings were broken meanwhile) is tried again every second. Until then its
  sockets are closed, so that the kernel gives its clients to the other processes.
* SIGHUP (`callgate reload`) starts a new generation, which reads settings, policies and
  certificates anew. When all of it is ready, the old generation retires: it finishes the calls it
  has. If one process cannot start, the old generation stays. The reasons are logged, and published
  for `callgate reload`. So is what of the new settings does not take effect.
* SIGTERM and SIGINT close the sockets; the processes drain and end, then the supervisor.
* A process that does not end within its time is killed.

The supervisor runs no event loop and no threads, so a fork from it is safe. It blocks in one
`select` over a wake-up socket for signals, a pidfd for each process and a readiness pipe for each
process that is starting, until the next deadline. A process that hangs while it starts delays
nothing else.
"""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import structlog

from proxy.edge.server.listener import bind
from proxy.errors import Problem
from proxy.runtime.supervision.announcement import LogSettings, Report
from proxy.runtime.supervision.reload_result import (
    READY_SECONDS,
    joined_report,
    log_problems,
    report_of,
)
from proxy.runtime.supervision.signal_wakeup import SignalWakeup
from proxy.runtime.supervision.status_file import Status, StatusFile
from proxy.runtime.supervision.systemd_notify import SystemdNotifier
from proxy.runtime.supervision.worker_process import (
    RETIRE,
    WorkerProcess,
    WorkerSlot,
    fork_worker,
)

# Seconds. A process that dies sooner after its start is started again only after the pause.
CRASH_LOOP_SECONDS = 5.0
RESTART_PAUSE_SECONDS = 1.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Supervisor:
    """Runs `processes` serving processes.

    `serve` is called in each of them and returns its exit code. `status` is how `callgate reload`
    learns the state, and `config` the settings file for it. `on_log_settings` takes over the log
    settings of a new generation. After `run`, `problems` are those of a first generation that could
    not start.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        processes: int,
        serve: Callable[[WorkerSlot], int],
        status: StatusFile,
        *,
        shutdown_timeout: float = 30.0,
        notifier: SystemdNotifier | None = None,
        config: str = "",
        on_log_settings: Callable[[LogSettings], None] = lambda _: None,
    ) -> None:
        """Bind the sockets of every slot to `addresses` (host and port).

        `shutdown_timeout` is in seconds, and holds for a process that has not announced its own.
        Raises `OSError` when an address is taken.
        """
        self._serve = serve
        self._addresses, self._reuse_port = tuple(addresses), processes > 1
        self._sockets: list[tuple[socket.socket, ...]] = [self._bind() for _ in range(processes)]
        self._file = status
        self._notifier = notifier or SystemdNotifier()
        self._shutdown_timeout = shutdown_timeout
        self._status = Status(os.getpid(), config=config)
        self._on_log_settings = on_log_settings
        self.problems: tuple[Problem, ...] = ()
        self._start_error: Problem | None = None  # of the last process that could not be started
        self._logged = Report()  # why the last process could not be started again
        self._current: dict[int, WorkerProcess] = {}  # by slot
        self._next: dict[int, WorkerProcess] | None = None  # the generation that is starting
        self._reload_pending = False  # a reload was asked for while another was under way
        self._terminating: dict[int, tuple[WorkerProcess, float]] = {}  # by pid, with its deadline
        self._restart_at: dict[int, float] = {}  # by slot
        self._stopping = False
        self._code = 0
        self._selector = selectors.DefaultSelector()
        self._signals = SignalWakeup()

    def run(self) -> int:
        """Supervise until a signal to stop.

        Returns:
            0, or the exit code of a process that could not start in the first place.

        """
        self._signals.heed()
        self._selector.register(self._signals, selectors.EVENT_READ, self._read_signals)
        self._publish_status()
        self._begin_generation()
        while not self._stopping or self._all() or self._terminating:
            for key, _ in self._selector.select(self._seconds_to_next_deadline()):
                # An earlier callback of this round may have closed the file of a later one.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            self._promote_generation()
            self._restart()
            self._kill_overdue()
        return self._code

    def _bind(self, *, listen: bool = True) -> tuple[socket.socket, ...]:
        bound: list[socket.socket] = []
        try:
            for host, port in self._addresses:
                bound.append(bind(host, port, reuse_port=self._reuse_port, listen=listen))
        except OSError:
            for each in bound:
                each.close()
            raise
        return tuple(bound)

    def _all(self) -> list[WorkerProcess]:
        return [*self._current.values(), *(self._next or {}).values()]

    def _deadlines(self) -> Iterator[float]:
        yield from self._restart_at.values()
        yield from (deadline for _, deadline in self._terminating.values())
        yield from (each.started + READY_SECONDS for each in self._all() if not each.serves)

    def _seconds_to_next_deadline(self) -> float | None:
        deadline = min(self._deadlines(), default=None)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    # -- signals

    def _read_signals(self) -> None:
        for number in self._signals.read():
            self._handle_signal(number)

    def _handle_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop()
        elif number == signal.SIGHUP and not self._stopping:
            self._reload()

    def _reload(self) -> None:
        self._notifier.reloading()
        if self._next is not None:
            self._reload_pending = True  # the one under way may have read what has changed since
            return
        self._publish_status(reloads_started=self._status.reloads_started + 1)
        self._begin_generation()

    def _stop(self) -> None:
        """Accept no more clients and tell every process to end; a second time, tell them again."""
        for slot in range(len(self._sockets)):
            self._close(slot)
        for process, _ in self._terminating.values():
            process.send_signal(signal.SIGTERM)
        for process in self._all():
            self._terminate(process, signal.SIGTERM)
        self._current, self._next, self._restart_at = {}, None, {}
        if not self._stopping:
            self._notifier.stopping()
            self._file.release()
        self._stopping = True

    def _terminate(self, process: WorkerProcess, number: signal.Signals) -> None:
        """Tell a process to end by `number`; by SIGTERM if it does not serve yet."""
        if not process.serves:
            self._close_readiness(process)
            number = signal.SIGTERM
        deadline = time.monotonic() + process.shutdown_timeout
        self._terminating[process.pid] = (process, deadline)
        process.send_signal(number)

    # -- generations

    def _begin_generation(self) -> None:
        """Start one process for each slot; those of the present generation go on serving."""
        self._next = {}
        for slot in range(len(self._sockets)):
            process = self._start(slot)
            if process is None:
                assert self._start_error is not None
                self._abandon_generation(1, Report((self._start_error,)))
                return
            self._next[slot] = process

    def _promote_generation(self) -> None:
        """Retire the old generation once all of the new one serve."""
        if self._next is None or not all(process.serves for process in self._next.values()):
            return
        old, self._current, self._next = self._current, self._next, None
        self._restart_at.clear()
        self._logged = Report()
        report = joined_report(old.values(), self._current.values())
        for process in old.values():
            self._terminate(process, RETIRE)
        for process in self._current.values():
            if process.announcement is not None and process.announcement.log is not None:
                self._on_log_settings(process.announcement.log)
                break
        if old:
            _log.info("reloaded", generation=self._status.generation + 1)
        if report.unapplied:
            settings = [problem.location for problem in report.unapplied]
            what = "changed settings need a restart" if old else "settings not in force"
            _log.warning(what, settings=settings)
        self._finish_reload(0, report)

    def _abandon_generation(self, code: int, report: Report) -> None:
        """End the new generation, of which one process could not start, and keep the old one."""
        failed, self._next = self._next or {}, None
        for process in failed.values():
            self._terminate(process, RETIRE)  # some may have accepted clients already
        if not self._status.generation:
            self._code, self.problems = code, report.problems
            self._stop()
            return
        _log.error("reload failed: the previous processes are still serving", code=code)
        log_problems("reload refused", report)
        self._finish_reload(code, report)

    def _finish_reload(self, exit_code: int, report: Report) -> None:
        self._publish_status(
            report,
            generation=self._status.generation + (not exit_code),
            reloads_finished=self._status.reloads_started,
            last_exit_code=exit_code,
            unapplied=0 if exit_code else len(report.unapplied) + report.omitted,
        )
        if self._reload_pending:
            self._reload_pending = False
            self._publish_status(reloads_started=self._status.reloads_started + 1)
            self._begin_generation()
            return
        text = f"generation {self._status.generation} is serving"
        if exit_code:
            text = f"reload failed; {text}"
        elif report.unapplied:
            text += "; some changed settings need a restart"
        self._notifier.ready(text)

    def _publish_status(self, report: Report | None = None, **changed: int) -> None:
        self._status = replace(self._status, **changed)  # type: ignore[arg-type]  # members are int
        try:
            self._file.write(self._status, report)
        except OSError as error:  # serving goes on; a reload will time out
            _log.error("status file not written", error=error.strerror)

    # -- processes

    def _start(self, slot: int) -> WorkerProcess | None:
        """Start a process for `slot`.

        Returns:
            None when its sockets cannot be bound again, or the system gives no process.

        """
        timeouts: list[float] = []
        if self._next is not None:
            timeouts = [process.shutdown_timeout for process in self._current.values()]
        try:
            # Sockets that have to be bound again belong to a process that could not start: they
            # accept no clients before it can.
            listening = self._sockets[slot] = self._sockets[slot] or self._bind(listen=False)
            process = fork_worker(
                lambda ready: self._serve(
                    WorkerSlot(
                        slot, listening, len(self._sockets), max(timeouts, default=0.0), ready
                    )
                ),
                slot,
                prepare=lambda: self._close_inherited(slot),
                shutdown_timeout=self._shutdown_timeout,
            )
        except OSError as error:
            message = f"a process cannot be started: {error.strerror or error}"
            hint = "Free the address, or raise the limits of processes and open files."
            self._start_error = Problem(f"slot {slot}", message, hint)
            return None
        ended, ready = partial(self._reap, process), partial(self._poll_readiness, process)
        self._selector.register(process.pidfd, selectors.EVENT_READ, ended)
        self._selector.register(process.readiness, selectors.EVENT_READ, ready)
        return process

    def _close_inherited(self, slot: int) -> None:
        """In a new process: close what is the supervisor's or another process's."""
        self._file.close()
        self._signals.close()
        self._selector.close()
        for number in range(len(self._sockets)):
            if number != slot:
                self._close(number)
        processes = [*self._all(), *(process for process, _ in self._terminating.values())]
        for process in processes:
            os.close(process.pidfd)
            if not process.serves:
                os.close(process.readiness)

    def _close(self, slot: int) -> None:
        listening, self._sockets[slot] = self._sockets[slot], ()
        for each in listening:
            each.close()

    def _close_readiness(self, process: WorkerProcess) -> None:
        if process.readiness in self._selector.get_map():
            self._selector.unregister(process.readiness)
        os.close(process.readiness)
        process.readiness = -1

    def _poll_readiness(self, process: WorkerProcess) -> None:
        """Read what a starting process announces; with nothing, it is about to end."""
        if not process.receive():
            return
        self._selector.unregister(process.readiness)
        announcement = process.announcement
        if announcement is not None and announcement.serves:
            process.shutdown_timeout = announcement.shutdown_timeout
            self._close_readiness(process)
        # Otherwise its pidfd will say how it ended, or READY_SECONDS will pass.

    def _reap(self, process: WorkerProcess) -> None:
        self._selector.unregister(process.pidfd)
        _, status = os.waitpid(process.pid, 0)
        os.close(process.pidfd)
        if not process.serves and process.readiness in self._selector.get_map():
            self._poll_readiness(process)
        served = process.serves
        if not served:
            self._close_readiness(process)
        if self._terminating.pop(process.pid, None) is None:
            self._died(process, os.waitstatus_to_exitcode(status), served=served)

    def _died(self, process: WorkerProcess, code: int, *, served: bool) -> None:
        if self._next is not None and self._next.get(process.slot) is process:
            del self._next[process.slot]
            self._abandon_generation(code or 1, report_of(process, code))
            return
        del self._current[process.slot]
        if not served:
            self._not_restarted(process.slot, code, report_of(process, code))
            return
        now = time.monotonic()
        young = now - process.started < CRASH_LOOP_SECONDS
        self._restart_at[process.slot] = now + (RESTART_PAUSE_SECONDS if young else 0.0)
        _log.error("process died, starting another", slot=process.slot, code=code)

    def _not_restarted(self, slot: int, code: int, report: Report) -> None:
        # With no other process its clients would not be served any sooner; a process of the next
        # generation may have the sockets already.
        if self._current and slot not in (self._next or {}):
            self._close(slot)
        self._restart_at[slot] = time.monotonic() + RESTART_PAUSE_SECONDS
        _log.error("process could not start", slot=slot, code=code)
        if report != self._logged:  # it is tried every second
            self._logged = report
            log_problems("process could not start", report)

    def _restart(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, at in self._restart_at.items() if at <= now]:
            del self._restart_at[slot]
            process = self._start(slot)
            if process is None:
                assert self._start_error is not None
                self._not_restarted(slot, 1, Report((self._start_error,)))
            else:
                self._current[slot] = process

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for process in self._all():
            if not process.serves and process.started + READY_SECONDS <= now:
                process.started = now  # the next deadline, should it not die of this
                process.overdue = True
                process.send_signal(signal.SIGKILL)
        for process, deadline in list(self._terminating.values()):
            if deadline <= now:
                _log.error("process did not end in time, killing it", pid=process.pid)
                self._terminating[process.pid] = (process, now + self._shutdown_timeout)
                process.send_signal(signal.SIGKILL)
