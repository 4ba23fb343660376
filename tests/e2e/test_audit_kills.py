"""Fifty times kill -9 under load, with several serving processes: whatever the upstream was sent is
on disk as decided.

Two witnesses are compared after every kill: the upstream's own notes, and the files of the journal.
The upstream's are taken first, since a call has to be on disk before it is sent. Kills come after a
random number of calls, so anywhere within one; some of those that end everything come at a random
time while the gate is still starting, that is, mending its logs.
"""

import contextlib
import os
import random
import select
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.runtime.supervision.status_file import read_status
from tests.support.load import Clients, Witness, by_log, still_open, verify
from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate
from tests.support.stage import until

PROCESSES = 2
KILLS_OF_ONE = 25
KILLS_OF_ALL = 25
MOST_CALLS = 60  # before the next kill
STARTING_SECONDS = 1.2  # about what a start takes
SEED = 20260719


@pytest.fixture
def upstream() -> Iterator[RecordingLuigid]:
    """An upstream that notes what it was sent, and takes a few milliseconds, so that calls are in
    hand at any moment.
    """
    running = RecordingLuigid(seconds=0.004)
    yield running
    running.end()


@pytest.fixture
def gate(upstream: RecordingLuigid, tmp_path: Path) -> Iterator[Gate]:
    """A gate of several processes before it; nothing of it is left after the test."""
    gate = Gate(
        tmp_path / "gate",
        [{"name": "luigi", "protocol": "luigi", "url": f"http://127.0.0.1:{upstream.port}"}],
        tls=False,
    )
    gate.settings.write_text(
        gate.settings.read_text().replace(
            "[[listeners]]\n", f"processes = {PROCESSES}\n[[listeners]]\n"
        )
    )
    gate.start()
    yield gate
    if gate.process.running:
        kill_everything(gate, random.Random(SEED))


def children(gate: Gate) -> list[int]:
    """The serving processes, and those that are about to serve."""
    pid = gate.process.pid
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    ]


def until_all_serve(gate: Gate) -> None:
    """Wait until the first processes serve, all of them: until then the end of one would be the end
    of the start.
    """
    gate.until_ready()
    until(
        lambda: (said := read_status(gate.audit / "gate.status")) and said.generation,
        "all processes served",
    )


def kill(*pids: int) -> None:
    """Kill -9 in this order, and wait until each is dead, whoever reaps it."""
    ends = [os.pidfd_open(pid) for pid in pids]
    for end in ends:
        # it has died of the one before it, and was reaped
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(end, signal.SIGKILL)
    for end in ends:
        assert select.select([end], [], [], 30)[0], "killed, and alive"
        os.close(end)


def kill_everything(gate: Gate, moments: random.Random) -> None:
    """End the supervisor and its processes in any order, with nobody left to start another.

    When the supervisor is the first, the kernel tells its processes to end, and they die while they
    try to do so in order.
    """
    os.kill(gate.process.pid, signal.SIGSTOP)
    said = os.waitid(os.P_PID, gate.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert said is not None
    assert said.si_code == os.CLD_STOPPED, gate.process.text()[-3000:]
    pids = [gate.process.pid, *children(gate)]
    moments.shuffle(pids)
    kill(*pids)
    gate.process.wait()


@pytest.mark.exhaustive
def test_fifty_times_kill_9_and_never_a_call_without_its_record(
    gate: Gate, upstream: RecordingLuigid
) -> None:
    """One process killed 25 times, then everything 25 times: what the upstream saw is always
    decided on disk, and was sent once.

    At the end every log is intact to the auditor's tool, every allowed call has one `completed`,
    `ok` ones were truly sent, and what a client was told had happened did happen.
    """
    moments = random.Random(SEED)
    witness = Witness(gate.audit)
    compared = 0

    def after_some_calls() -> None:
        wanted = len(upstream.seen) + moments.randint(1, MOST_CALLS)
        until(
            lambda: len(upstream.seen) >= wanted,
            f"clients are served; the gate's log:\n{gate.process.text()[-2000:]}",
        )

    def compare(what: str) -> None:
        nonlocal compared
        seen = upstream.seen
        witness.look()
        missing = {args["task_id"] for _, args in seen[compared:]} - witness.allowed.keys()
        assert missing == set(), f"the upstream saw calls that are not on disk, after {what}"
        compared = len(seen)

    until_all_serve(gate)
    clients = Clients(gate, "kills")
    try:
        supervisor, killed = gate.process.pid, set()
        for number in range(KILLS_OF_ONE):
            after_some_calls()
            victim = moments.choice(until(lambda: children(gate), "a process serves"))
            kill(victim)
            killed.add(victim)
            compare(f"kill {number + 1} of one process")
        assert len(killed) == KILLS_OF_ONE
        assert gate.process.running
        assert gate.process.pid == supervisor
        until(
            lambda: len(children(gate)) == PROCESSES, "the supervisor had replaced what was killed"
        )
        after_some_calls()

        for number in range(KILLS_OF_ALL):
            if number:
                gate.launch()
                if number % 4 == 0:
                    # not a wait for anything: the moment of the kill
                    select.select([], [], [], moments.uniform(0, STARTING_SECONDS))
                else:
                    after_some_calls()
            kill_everything(gate, moments)
            compare(f"kill {number + 1} of everything")
    finally:
        clients.end()

    # The last start ends what the killed left open, in all logs.
    gate.start()
    until(
        lambda: not any(map(still_open, by_log(gate.audit).values())),
        "the calls of the killed were closed",
    )
    until_all_serve(gate)
    assert gate.stop() == 0
    compare("the end")

    sent = Counter(args["task_id"] for _, args in upstream.seen)
    assert {task: times for task, times in sent.items() if times > 1} == {}, (
        "nothing was sent twice"
    )
    assert witness.twice == []
    assert len(sent) > 10 * (KILLS_OF_ONE + KILLS_OF_ALL)
    assert clients.answered <= set(sent)
    assert len(clients.answered) > len(sent) / 2
    assert all(
        witness.allowed[args["task_id"]]["method"] == method for method, args in upstream.seen
    )
    outcomes: Counter[str] = Counter()
    for records in by_log(gate.audit).values():
        assert [r["seq"] for r in records] == list(range(len(records)))
        assert still_open(records) == set()
        assert records[-1]["stage"] == "closed"
        task_of = {r["seq"]: r["task"] for r in records if r.get("decision") == "allow"}
        completed = [r for r in records if r["stage"] == "completed"]
        outcomes.update(r["outcome"] for r in completed)
        assert {task_of[r["decided_seq"]] for r in completed if r["outcome"] == "ok"} <= set(sent)
    assert outcomes.keys() == {"ok", "unknown"}
    assert outcomes["unknown"] >= KILLS_OF_ALL / 2, "calls were in hand at most of the moments"
    verify(gate.audit)
