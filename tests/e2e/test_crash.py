"""The gate killed and stopped under load: what the upstream was sent is in the journal, whatever
the moment (law 2).

The upstream's own notes are the witness: a call that it saw and that has no `decided` record would
be a call that nobody can account for.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.paths import ROOT
from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate, Record
from tests.support.stage import FORM, Luigid, Process, clean_environment, until, write_netrc

CLIENTS = 6
KILLS = 8


class Load:
    """Clients that call as fast as they are answered, each call with a name of its own, until the
    gate is gone or `stop` is set.
    """

    def __init__(self, gate: Gate, label: str, clients: int = CLIENTS) -> None:
        self._gate = gate
        self._token = gate.issuer.issue("load", ["worker", "viewer", "operator"], 3600, gate.now())
        self._label = label
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.answered: set[str] = set()
        self.odd: list[tuple[int, str]] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        gate = self._gate
        connection = (
            HTTPConnection("localhost", gate.port, timeout=30)
            if gate.context is None
            else HTTPSConnection("localhost", gate.port, timeout=30, context=gate.context)
        )
        count = 0
        try:
            while not self.stop.is_set():
                count += 1
                task = f"T_{self._label}_{number}_{count}"
                method, args = (
                    ("add_task", {"task_id": task, "worker": f"w{number}"})
                    if count % 3
                    else ("forgive_failures", {"task_id": task})
                )
                if count % 5 == 0:
                    method, args = "fetch_error", {"task_id": task}
                body = urlencode({"data": json.dumps(args)})
                connection.request(
                    "POST",
                    f"/api/{method}",
                    body,
                    {"Content-Type": FORM, "Authorization": f"Bearer {self._token}"},
                )
                answer = connection.getresponse()
                answer.read()
                with self._lock:
                    if answer.status == 200:
                        self.answered.add(task)
                    else:
                        self.odd.append((answer.status, answer.reason))
        except (OSError, HTTPException):
            return  # the gate has gone
        finally:
            connection.close()

    def join(self) -> None:
        """Wait for all clients to end."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def assert_whole(records: list[Record]) -> None:
    """The journal is one numbered sequence, and every allowed call in it is completed exactly once."""
    assert [r["seq"] for r in records] == list(range(len(records)))
    allowed = [r["seq"] for r in records if r.get("decision") == "allow"]
    completed = [r["decided_seq"] for r in records if r["stage"] == "completed"]
    assert sorted(completed) == allowed
    seq_of = {r["seq"]: r["id"] for r in records if r["stage"] == "decided"}
    assert all(seq_of[r["decided_seq"]] == r["id"] for r in records if r["stage"] == "completed")


def assert_verified(gate: Gate) -> None:
    """The auditor's own tool finds every record there, in order and unaltered."""
    command = [sys.executable, "-m", "proxy.cli.main", "audit", "verify", "--dir", str(gate.audit)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def upstream() -> Iterator[RecordingLuigid]:
    """An upstream that notes what it was sent, and takes a few milliseconds, so that calls are in
    hand at any moment.
    """
    running = RecordingLuigid(seconds=0.004)
    yield running
    running.end()


def test_kill_9_at_any_moment_loses_no_record_of_what_was_sent(
    upstream: RecordingLuigid, tmp_path: Path
) -> None:
    """Killed eight times at random moments under load: every call that the upstream saw has its
    `decided` record, and was sent once.

    Calls that were in hand are closed as `unknown` by the next start, numbering goes on without a
    gap, and an answer that a client got is in the journal as completed.
    """
    gate = Gate(
        tmp_path / "gate",
        [{"name": "luigi", "protocol": "luigi", "url": f"http://127.0.0.1:{upstream.port}"}],
        tls=False,
    )
    moments = random.Random(20260718)
    answered: set[str] = set()
    gate.start()
    for kill in range(KILLS):
        load = Load(gate, f"kill{kill}")
        already, wanted = len(upstream.seen), moments.randint(1, 150)
        until(lambda: len(upstream.seen) >= already + wanted, "the load was under way")  # noqa: B023  (called here and now)
        if kill % 2:
            # the process that looks after it starts another
            os.kill(gate.serving(), signal.SIGKILL)
            load.stop.set()  # for a client that had not connected yet, and finds the other
            load.join()
            gate.until_ready()
        else:
            gate.kill()
            load.join()
            gate.start()
        assert load.odd == []
        answered |= load.answered
    assert gate.stop() == 0

    records = gate.records()
    assert_whole(records)
    assert_verified(gate)
    decided = {r["task"]: r for r in records if r["stage"] == "decided"}
    sent = Counter(args["task_id"] for _, args in upstream.seen)
    assert len(sent) > 10 * KILLS
    assert set(sent) <= set(decided), "the upstream saw a call that has no record"
    assert {task: times for task, times in sent.items() if times > 1} == {}, (
        "nothing was sent twice"
    )
    assert all(
        decided[task]["method"] == method
        for method, args in upstream.seen
        for task in [args["task_id"]]
    )
    assert answered <= set(sent)
    outcome = {r["id"]: r["outcome"] for r in records if r["stage"] == "completed"}
    unknown = sum(one == "unknown" for one in outcome.values())
    assert unknown > 0, "at every moment there were calls in hand"
    opened = [r for r in records if r["stage"] == "opened"]
    assert len(opened) == KILLS + 1
    assert len({r["pid"] for r in opened}) == KILLS + 1
    assert sum(r["recovered"]["unknown"] for r in opened if r["recovered"]) == unknown
    assert records[-1]["stage"] == "closed"


def test_a_luigi_worker_outlives_the_gates_death(tmp_path: Path) -> None:
    """A real worker, a real luigid and plain clients; the gate is killed in the middle and started
    again.

    The worker goes on as after any broken connection and ends well; luigid's own access log counts
    no call of a method more than the journal does, and every task that luigid holds was announced
    by a recorded call.
    """
    luigid = Luigid(tmp_path / "luigid", retry_delay=0.5, prune_on_get_work="true")
    gate = Gate(
        tmp_path / "gate", [{"name": "luigi", "protocol": "luigi", "url": luigid.url.rstrip("/")}]
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "luigi.cfg").write_text(
        f"[core]\ndefault_scheduler_url = {gate.url}/\nrpc-retry-wait = 1\nrpc-retry-attempts = 60\n"
        "[worker]\nwait_interval = 0.05\nwait_jitter = 0.05\nping_interval = 0.2\nkeep_alive = true\n"
    )
    environment = clean_environment(
        LUIGI_CONFIG_PATH=str(tmp_path / "luigi.cfg"),
        PYTHONPATH=str(Path(__file__).parent / "tasks"),
        REQUESTS_CA_BUNDLE=str(gate.directory / "ca.pem"),
        NETRC=str(write_netrc(tmp_path / "netrc", gate.token("worker"))),
    )
    start = "import sys; from luigi.cmdline import luigi_run; luigi_run(sys.argv[1:])"
    words = [
        "--module",
        "graph",
        "Everything",
        "--run-name",
        "crash",
        "--directory",
        str(tmp_path / "out"),
        "--workers",
        "2",
    ]
    try:
        gate.start()
        worker = Process(
            [sys.executable, "-W", "ignore", "-c", start, *words], tmp_path, "worker", environment
        )
        load = Load(gate, "beside", 2)
        until(
            lambda: len(list((tmp_path / "out").iterdir())) >= 5,
            "the worker had done some of its work",
        )
        gate.kill()
        load.join()
        assert worker.running
        gate.start()
        again = Load(gate, "after", 2)
        until(lambda: len(again.answered) > 20, "clients were served again")
        again.stop.set()
        again.join()
        assert worker.wait(90) == 0, worker.text()[-3000:]
        known = set(luigid.tasks())
        assert gate.stop() == 0
    finally:
        luigid.stop()
        if gate.process.running:
            gate.kill()
    assert (tmp_path / "out").is_dir()
    records = gate.records()
    assert_whole(records)
    assert_verified(gate)
    decided = Counter(r["method"] for r in records if r.get("decision") == "allow")
    served = Counter(re.findall(r"\d{3} (?:POST|GET) /api/(\w+)", luigid.process.text()))
    served["task_list"] -= 1  # asked directly, at the end
    for method, times in served.items():
        if method != "ping":  # heartbeats ride on one decision for up to a minute
            assert times <= decided[method], method
    assert served["ping"] == 0 or decided["ping"] > 0
    announced = {
        r["args"]["task_id"]
        for r in records
        if r["stage"] == "decided" and r["method"] == "add_task"
    }
    # named by luigid itself
    batches = {task for task in known if "," in task or task.startswith("Batched")}
    assert known - batches <= announced
    assert len(known) > 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end_under_load_loses_no_call(
    upstream: RecordingLuigid, tmp_path: Path, number: signal.Signals
) -> None:
    """On SIGTERM or SIGINT calls in hand are finished: whatever the upstream saw, its caller was
    answered and the journal has it whole.
    """
    gate = Gate(
        tmp_path / "gate",
        [{"name": "luigi", "protocol": "luigi", "url": f"http://127.0.0.1:{upstream.port}"}],
    ).start()
    load = Load(gate, "term")
    until(lambda: len(upstream.seen) >= 300, "the load was under way")
    assert gate.stop(number) == 0
    load.join()
    assert load.odd == []
    sent = {args["task_id"] for _, args in upstream.seen}
    assert load.answered == sent
    records = gate.records()
    assert_whole(records)
    assert_verified(gate)
    assert {r["task"] for r in records if r["stage"] == "decided"} == sent
    assert {r["outcome"] for r in records if r["stage"] == "completed"} == {"ok"}
    assert records[-1]["stage"] == "closed"
