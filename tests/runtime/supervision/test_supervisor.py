"""The supervisor of serving processes, as a real process with a tiny server in place of the gate."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from proxy.runtime.supervision.status_file import Status, StatusFile, read_report, read_status
from proxy.runtime.supervision.worker_process import RETIRE
from tests.support.paths import ROOT

WAIT = 20.0  # seconds after which a wait has failed; none is meant to come near it
T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, log: Path = Path(os.devnull)) -> T:
    """The first true value of `condition`; a failure says what stands in `log`."""
    deadline = time.monotonic() + WAIT
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}\n{log.read_text()}"
        time.sleep(0.01)
    return value


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def runs(pid: int) -> bool:
    """Whether a process lives, and is no zombie."""
    try:
        return _state(pid) != "Z"
    # the latter when it is reaped between the opening and the reading
    except (FileNotFoundError, ProcessLookupError):
        return False


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


class Supervised:
    """A supervisor under test."""

    def __init__(self, directory: Path, processes: int, patience: float, ignoring: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.log = directory / "log"
        (directory / "settings").write_text("one")
        self.seen: set[int] = set()
        command = [
            sys.executable,
            "-m",
            "tests.runtime.supervision.supervised",
            str(directory),
            str(self.port),
            str(processes),
            str(patience),
        ]
        if ignoring:
            command = ["env", f"--ignore-signal={ignoring}", *command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.serves(1)

    def status(self) -> Status | None:
        """What its status file says."""
        return read_status(self.directory / "status")

    def serves(self, generation: int) -> None:
        """Wait until a generation serves. A supervisor that has ended is an error."""

        def said() -> bool:
            assert self.process.poll() is None, (
                f"ended with {self.process.returncode}\n{self.log.read_text()}"
            )
            status = self.status()
            return status is not None and status.generation == generation

        until(said, f"generation {generation}", self.log)

    def ask(self) -> tuple[int, int, str]:
        """Slot, process id and settings of whoever answers. A connection that is refused or cut is
        an error.
        """
        with socket.create_connection(("127.0.0.1", self.port), WAIT) as client:
            answer = b"".join(iter(lambda: client.recv(100), b"")).decode()
        slot, pid, settings = answer.split(" ", 2)
        self.seen.add(int(pid))
        return int(slot), int(pid), settings

    def pids(self, count: int) -> dict[int, int]:
        """The process of each slot, once all `count` have answered."""
        found: dict[int, int] = {}

        def all_answered() -> bool:
            slot, pid, _ = self.ask()
            found[slot] = pid
            return len(found) == count

        until(all_answered, "every slot answered")
        return found

    def children(self) -> set[int]:
        """Every process that it has started and not yet buried."""
        return set(
            map(
                int,
                Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
                .read_text()
                .split(),
            )
        )

    def ended(self) -> dict[int, str]:
        """The processes that have ended in order, and the signal that each was told with."""
        with contextlib.suppress(FileNotFoundError):
            return {
                int(pid): name
                for pid, name in map(str.split, (self.directory / "ended").read_text().splitlines())
            }
        return {}

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.process.terminate()
        return self.process.wait(WAIT)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator["Start"]:
    """Starts a supervisor; at the end none of its processes may live."""
    started: list[Supervised] = []

    def start(processes: int, patience: float = 15.0, ignoring: str = "") -> Supervised:
        started.append(Supervised(tmp_path, processes, patience, ignoring))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(WAIT)
        until(lambda one=one: not any(map(runs, one.seen)), "no process is left")  # type: ignore[misc]  # mypy cannot infer its type


Start = Callable[..., Supervised]


def test_what_its_parent_ignores_is_heeded_all_the_same(supervised: Start) -> None:
    """Started by somebody who ignores signals (`trap ""`, nohup), it still sees processes die,
    reloads and ends.
    """
    gate = supervised(1, ignoring="CHLD,ALRM,HUP,INT,TERM")
    first = gate.pids(1)[0]
    os.kill(first, signal.SIGKILL)
    until(lambda: gate.pids(1) != {0: first}, "it sees that a process has died")
    gate.process.send_signal(signal.SIGHUP)
    gate.serves(2)
    assert gate.stop() == 0


def test_a_supervisor_that_was_stopped_goes_on(supervised: Start) -> None:
    """SIGSTOP and SIGCONT (a debugger, a container that is paused) are no order to end or to
    reload, however long they are apart.
    """
    gate = supervised(1)
    first = gate.pids(1)[0]
    for _ in range(3):
        gate.process.send_signal(signal.SIGSTOP)
        until(lambda: _state(gate.process.pid) == "T", "it is stopped")
        time.sleep(0.7)  # longer than it waits for anything
        gate.process.send_signal(signal.SIGCONT)
    assert gate.pids(1) == {0: first}
    os.kill(first, signal.SIGKILL)
    until(lambda: gate.pids(1) != {0: first}, "it supervises on")
    assert (status := gate.status()) and (status.generation, status.reloads_started) == (1, 0)


def test_a_process_that_dies_is_replaced(supervised: Start) -> None:
    """After kill -9 of every process, one after the other, every slot is served again, and the log
    tells of it.
    """
    gate = supervised(2)
    first = gate.pids(2)
    for slot, pid in first.items():
        os.kill(pid, signal.SIGKILL)
        until(lambda slot=slot, pid=pid: gate.pids(2)[slot] != pid, "the slot has another process")  # type: ignore[misc]  # as above
    assert not set(first.values()) & set(gate.pids(2).values())
    assert gate.log.read_text().count("process died, starting another") == 2
    assert gate.stop() == 0


def test_clients_wait_while_their_process_is_replaced(supervised: Start) -> None:
    """With one process, a client that comes while it is dead is not refused: it is answered by the
    next.
    """
    gate = supervised(1)
    _, pid, _ = gate.ask()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not runs(pid), "it is dead")
    assert gate.ask()[1] != pid


def test_a_reload_replaces_every_process_and_refuses_no_client(supervised: Start) -> None:
    """New processes read the settings anew; the old are told to hand over, not to end; every
    connection meanwhile is answered.
    """
    gate = supervised(2)
    old = set(gate.pids(2).values())
    (gate.directory / "settings").write_text("two")
    gate.process.send_signal(signal.SIGHUP)
    until(
        lambda: gate.ask()[2] == "two" and old <= set(gate.ended()), "the old processes have ended"
    )
    assert {name for pid, name in gate.ended().items() if pid in old} == {"SIGUSR1"}
    assert not old & set(gate.pids(2).values())
    assert gate.status() == Status(
        gate.process.pid, generation=2, reloads_started=1, reloads_finished=1
    )


def test_a_refused_reload_changes_nothing(supervised: Start) -> None:
    """When new processes cannot start, the same old ones go on, and the status says with which code
    the new ones left.
    """
    gate = supervised(2)
    old = gate.pids(2)
    (gate.directory / "settings").write_text("broken")
    gate.process.send_signal(signal.SIGHUP)
    status = until(
        lambda: (found := gate.status()) and found.reloads_finished == 1 and found,
        "the reload was refused",
    )
    assert status == Status(
        gate.process.pid, generation=1, reloads_started=1, reloads_finished=1, last_exit_code=7
    )
    assert gate.pids(2) == old
    (gate.directory / "settings").write_text("three")
    gate.process.send_signal(signal.SIGHUP)
    gate.serves(2)
    until(lambda: set(old.values()) <= set(gate.ended()), "the old processes hand over")
    assert not set(gate.pids(2).values()) & set(old.values())


def events(gate: Supervised) -> list[dict[str, Any]]:
    """Every line of the log, each of which is an event in JSON."""
    return [json.loads(line) for line in gate.log.read_text().splitlines()]


def refused(gate: Supervised) -> Status:
    """Wait until the first reload is over; return the status."""

    def over() -> Status | None:
        status = gate.status()
        return status if status is not None and status.reloads_finished == 1 else None

    return until(over, "the reload was refused")


@pytest.mark.parametrize("count", [1, 3, 500])
def test_the_reasons_of_a_refused_reload_are_published_and_logged(
    supervised: Start, count: int
) -> None:
    """As structured events and nothing else, and in the status file; however many there are, both
    are bounded, and say how many there was no room for.
    """
    gate = supervised(2)
    (gate.directory / "settings").write_text(f"refused {count}")
    gate.process.send_signal(signal.SIGHUP)
    status = refused(gate)
    assert (status.generation, status.last_exit_code) == (1, 2)
    report = read_report(gate.directory / "status", status)
    assert report is not None
    assert len(report.problems) + report.omitted == count
    assert report.problems[0].location == "settings:0"
    assert report.problems[0].hint == "Write it otherwise."
    until(lambda: "reload refused" in gate.log.read_text(), "it is logged")
    logged = [event for event in events(gate) if event["event"] == "reload refused"]
    assert [event["location"] for event in logged if "location" in event] == [
        problem.location for problem in report.problems
    ]
    assert sum(event.get("more_problems", 0) for event in logged) == report.omitted


def test_what_is_not_in_force_is_published_and_logged(supervised: Start) -> None:
    """The new generation serves, and the status file has what needs a restart, once for all."""
    gate = supervised(2)
    (gate.directory / "settings").write_text("partly")
    gate.process.send_signal(signal.SIGHUP)
    gate.serves(2)
    status = gate.status()
    assert status is not None and (status.last_exit_code, status.unapplied) == (0, 1)
    report = read_report(gate.directory / "status", status)
    assert report is not None
    assert [problem.location for problem in report.unapplied] == ["listeners"]
    [event] = [each for each in events(gate) if "restart" in each["event"]]
    assert event["settings"] == ["listeners"]
    (gate.directory / "settings").write_text("all")
    gate.process.send_signal(signal.SIGHUP)
    gate.serves(3)
    status = gate.status()
    assert status is not None and status.unapplied == 0


def test_reasons_against_a_restart_are_logged_once(supervised: Start) -> None:
    """A process that died is tried again every second; its reasons are events, and stay so few."""
    gate = supervised(1)
    [pid] = gate.pids(1).values()
    (gate.directory / "settings").write_text("refused 2")
    os.kill(pid, signal.SIGKILL)
    until(lambda: gate.log.read_text().count('"code":2') >= 3, "it was tried three times")
    located = [event["location"] for event in events(gate) if "location" in event]
    assert located == ["settings:0", "settings:1"]


def test_a_crash_at_the_start_is_an_event_and_a_reason(supervised: Start) -> None:
    """An error that nobody expected is no plain traceback inside the JSON log."""
    gate = supervised(1)
    (gate.directory / "settings").unlink()
    gate.process.send_signal(signal.SIGHUP)
    status = refused(gate)
    report = read_report(gate.directory / "status", status)
    assert report is not None and "FileNotFoundError" in report.problems[0].message
    [crash] = [event for event in events(gate) if event["event"] == "process crashed"]
    assert "Traceback" in crash["exception"]


def test_a_reload_asked_for_during_a_reload_is_done_after_it(supervised: Start) -> None:
    """Whoever changes settings while new processes start gets others that read the change: no wish
    is swallowed.
    """
    gate = supervised(1)
    (gate.directory / "hang").touch()
    gate.process.send_signal(signal.SIGHUP)
    until(
        lambda: (status := gate.status()) and status.reloads_started == 1,
        "the first reload has begun",
    )
    gate.process.send_signal(signal.SIGHUP)
    assert gate.ask()[2] == "one"  # the supervisor took no notice yet, and the old process serves
    (gate.directory / "settings").write_text("two")
    (gate.directory / "hang").unlink()
    gate.serves(3)
    until(lambda: gate.ask()[2] == "two", "what was changed is in force")
    assert gate.status() == Status(
        gate.process.pid, generation=3, reloads_started=2, reloads_finished=2
    )


def test_a_process_that_dies_during_a_reload_leaves_none_too_many(supervised: Start) -> None:
    """A slot that was to be restarted is filled by the new generation alone; at the end no process
    is left over.
    """
    gate = supervised(1)
    _, pid, _ = gate.ask()
    (gate.directory / "settings").write_text("two")
    os.kill(pid, signal.SIGKILL)
    gate.process.send_signal(signal.SIGHUP)
    gate.serves(2)
    until(lambda: gate.ask()[2] == "two", "the new generation serves")
    assert gate.stop() == 0
    assert not [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(gate.directory).encode() in _content(path)
    ]


def test_a_slot_that_cannot_start_leaves_its_clients_to_the_others(supervised: Start) -> None:
    """While the settings are broken and a process is dead, all clients get the other one, also
    while the slot is tried again: that may be in vain like the last time. Mended, it comes back by
    itself.
    """
    gate = supervised(2)
    pids = gate.pids(2)
    (gate.directory / "settings").write_text("broken")
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: "process could not start" in gate.log.read_text(), "it was tried")
    assert {gate.ask()[:2] for _ in range(20)} == {(1, pids[1])}
    (gate.directory / "hang").touch()
    (gate.directory / "settings").write_text("mended")
    until(lambda: len(gate.children() - {pids[1]}) == 1, "it is tried again, and hangs")
    assert {gate.ask()[:2] for _ in range(20)} == {(1, pids[1])}
    (gate.directory / "hang").unlink()
    assert gate.pids(2)[1] == pids[1]


def test_no_socket_is_left_that_nobody_serves(supervised: Start) -> None:
    """During a reload a process dies, and the one in its place while it starts: afterwards every
    client is answered.
    """
    gate = supervised(2)
    old = set(gate.pids(2).values())
    (gate.directory / "hang").touch()
    gate.process.send_signal(signal.SIGHUP)
    until(lambda: len(gate.children() - old) == 2, "the new generation starts")
    new = gate.children() - old
    os.kill(gate.pids(2)[1], signal.SIGKILL)
    until(lambda: len(gate.children() - old - new) == 1, "the dead one is started again")
    [again] = gate.children() - old - new
    os.kill(again, signal.SIGKILL)
    until(lambda: "process could not start" in gate.log.read_text(), "which fails")
    until(lambda: len(gate.children() - old - new - {again}) == 1, "and once more")
    (gate.directory / "hang").unlink()
    gate.serves(2)
    until(lambda: gate.children() == new, "the old generation has left")
    assert {gate.ask()[1] for _ in range(40)} == new


def test_signals_that_are_meant_for_others_end_nobody(supervised: Start) -> None:
    """SIGHUP to all processes of a group is a reload; what tells a process to hand over does
    nothing to the supervisor.
    """
    gate = supervised(1)
    [pid] = gate.pids(1).values()
    os.kill(pid, signal.SIGHUP)
    os.kill(gate.process.pid, RETIRE)
    gate.process.send_signal(signal.SIGHUP)
    gate.serves(2)
    until(lambda: gate.ended() == {pid: RETIRE.name}, "it has ended in order")
    assert "died" not in gate.log.read_text()


def test_a_process_has_the_time_to_end_that_its_own_settings_say(supervised: Start) -> None:
    """A reload changes it: the supervisor waits as long as the process that it waits for has said."""
    gate = supervised(1, patience=600.0)
    (gate.directory / "settings").write_text("patience=0.2")
    gate.process.send_signal(signal.SIGHUP)
    gate.serves(2)
    until(lambda: gate.ask()[2] == "patience=0.2", "the new generation serves")
    until(gate.ended, "the old one has left")  # else it would be stubborn, too
    (gate.directory / "stubborn").touch()
    assert gate.stop() == 0
    assert "did not end in time" in gate.log.read_text()


def test_it_ends_while_a_process_hangs_at_its_start(supervised: Start) -> None:
    """SIGTERM is heeded at once, though a reload is under way that will not come to an end."""
    gate = supervised(1)
    (gate.directory / "hang").touch()
    gate.process.send_signal(signal.SIGHUP)
    until(lambda: (status := gate.status()) and status.reloads_started == 1, "the reload has begun")
    assert gate.stop() == 0
    assert gate.status() is None


def test_a_reload_after_the_end_has_begun_starts_nothing(supervised: Start) -> None:
    """SIGHUP while processes drain is ignored: the supervisor still ends."""
    gate = supervised(1, patience=1.0)
    (gate.directory / "stubborn").touch()
    gate.process.terminate()
    until(lambda: gate.status() is None, "it has begun to end")
    gate.process.send_signal(signal.SIGHUP)
    assert gate.process.wait(WAIT) == 0


def test_a_process_that_does_not_end_is_killed(supervised: Start) -> None:
    """A process that ignores being told to end is killed once its time is up, and the supervisor
    ends.
    """
    gate = supervised(2, patience=1.0)
    gate.pids(2)
    (gate.directory / "stubborn").touch()
    assert gate.stop() == 0
    assert "process did not end in time, killing it" in gate.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_is_told_to_all(supervised: Start, number: signal.Signals) -> None:
    """SIGTERM and SIGINT: every process is told to end, then the supervisor leaves with 0 and
    refuses clients.
    """
    gate = supervised(2)
    pids = set(gate.pids(2).values())
    gate.process.send_signal(number)
    assert gate.process.wait(WAIT) == 0
    assert gate.ended().keys() == pids
    assert set(gate.ended().values()) == {"SIGTERM"}
    with pytest.raises(ConnectionRefusedError):
        gate.ask()


def test_kill_9_of_the_supervisor_leaves_no_process(supervised: Start) -> None:
    """The kernel tells the processes; what the status file still says is not believed, and another
    may serve at once.
    """
    gate = supervised(2)
    pids = set(gate.pids(2).values())
    gate.process.kill()
    gate.process.wait(WAIT)
    assert gate.status() is None
    until(lambda: not any(map(runs, pids)), "no process is left")
    StatusFile(gate.directory / "status").release()


def test_a_generation_that_cannot_start_in_the_first_place_ends_the_supervisor(
    tmp_path: Path,
) -> None:
    """The exit code is that of the process that could not start."""
    (tmp_path / "settings").write_text("broken")
    command = [
        sys.executable,
        "-m",
        "tests.runtime.supervision.supervised",
        str(tmp_path),
        str(free_port()),
        "2",
        "1",
    ]
    assert subprocess.run(command, cwd=ROOT, timeout=WAIT, check=False).returncode == 7


def test_systemd_hears_of_start_reloads_and_stop(
    supervised: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit of Type=notify-reload knows when the gate serves; a failed reload ends, too."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(WAIT)

        def message() -> list[str]:
            return [
                line.partition("MONOTONIC_USEC")[0] or "MONOTONIC_USEC"
                for line in systemd.recv(4096).decode().split("\n")
            ]

        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        gate = supervised(2)
        assert message() == ["READY=1", "STATUS=generation 1 is serving"]
        gate.process.send_signal(signal.SIGHUP)
        assert message() == ["RELOADING=1", "MONOTONIC_USEC"]
        assert message() == ["READY=1", "STATUS=generation 2 is serving"]
        (tmp_path / "settings").write_text("broken")
        gate.process.send_signal(signal.SIGHUP)
        assert message() == ["RELOADING=1", "MONOTONIC_USEC"]
        assert message() == ["READY=1", "STATUS=reload failed; generation 2 is serving"]
        assert gate.stop() == 0
        assert message() == ["STOPPING=1"]


def test_what_a_process_did_not_expect_is_told(tmp_path: Path) -> None:
    """A process that fails in a way of its own leaves a trace of it: its supervisor alone could say
    no more than a number.
    """
    # there are no settings to read
    command = [
        sys.executable,
        "-m",
        "tests.runtime.supervision.supervised",
        str(tmp_path),
        str(free_port()),
        "1",
        "1",
    ]
    done = subprocess.run(
        command, cwd=ROOT, timeout=WAIT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr
