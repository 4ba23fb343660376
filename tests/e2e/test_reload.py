"""Reload, restart and kill -9 under steady load: no call is lost or made twice, and no task fails."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support import stage
from tests.support.load import by_log, still_open
from tests.support.paths import ROOT
from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate
from tests.support.stage import (
    FORM,
    POLICIES,
    Luigid,
    Worker,
    clean_environment,
    free_port,
    until,
    write_netrc,
)

# that the recorded upstream takes for each call, so that some are always under way
CALL_SECONDS = 0.1
CLIENTS = 4
STEPS = 3 * 11  # tasks of each worker


@pytest.fixture(scope="module")
def luigid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A real luigid, for the workers."""
    luigid = Luigid(tmp_path_factory.mktemp("luigid"), retry_delay=0.5, prune_on_get_work="true")
    yield luigid
    luigid.stop()


@pytest.fixture
def processes() -> int:
    """How many processes serve, where a test does not say."""
    return 2


@pytest.fixture
def recorder() -> Iterator[RecordingLuigid]:
    """An upstream that notes what it was sent, for clients that count."""
    upstream = RecordingLuigid(seconds=CALL_SECONDS)
    yield upstream
    upstream.end()


@pytest.fixture
def gate(
    tmp_path: Path, luigid: Luigid, recorder: RecordingLuigid, processes: int
) -> Iterator[Gate]:
    """A gate of some processes with policies of its own. In the end every log is intact, and every
    allowed call in it is completed.
    """
    policies = tmp_path / "gate" / "policies"
    shutil.copytree(POLICIES, policies)
    for path in (policies, *policies.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)  # whatever the umask was when this was checked out
    upstreams = [
        {"name": "luigi", "protocol": "luigi", "url": luigid.url.rstrip("/"), "path_prefix": "/"},
        {
            "name": "recorder",
            "protocol": "luigi",
            "url": f"http://127.0.0.1:{recorder.port}",
            "path_prefix": "/recorder",
        },
    ]
    gate = Gate(tmp_path / "gate", upstreams, policies=tmp_path / "gate" / "policies")
    gate.settings.write_text(
        gate.settings.read_text().replace(
            "[[listeners]]\n", f"processes = {processes}\n[[listeners]]\n"
        )
    )
    gate.start()
    yield gate
    assert gate.stop() == 0
    assert "internal error" not in gate.process.text()
    assert callgate("audit", "verify", "--dir", str(gate.audit)).returncode == 0
    assert [
        still_open(records) for records in by_log(gate.audit).values() if still_open(records)
    ] == []


def callgate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    command = [sys.executable, "-m", "proxy.cli.main", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def serving(gate: Gate) -> set[int]:
    """The serving processes."""
    children = Path(f"/proc/{gate.process.pid}/task/{gate.process.pid}/children").read_text()
    return set(map(int, children.split()))


def is_replaced(gate: Gate, pid: int, processes: int) -> bool:
    """Return whether `processes` others serve now."""
    return len(serving(gate) - {pid}) == processes


class Client(threading.Thread):
    """Makes one acting call after the other over a kept connection, each once, and notes what came
    of it.

    A connection that cannot be made is tried again, since nothing was sent; whatever fails later is
    a call lost.
    """

    def __init__(self, gate: Gate, number: int, *, new_connections: bool) -> None:
        super().__init__(name=f"client-{number}")
        self._gate = gate
        self._number = number
        self._new = new_connections
        self._token = gate.token("worker")
        self._end = threading.Event()
        self.answered: list[str] = []
        self.lost: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self.not_connected = 0

    def run(self) -> None:
        """Call until told to end."""
        connection: http.client.HTTPSConnection | None = None
        while not self._end.is_set():
            if connection is None or connection.sock is None:
                connection = http.client.HTTPSConnection(
                    "localhost", self._gate.port, timeout=30, context=self._gate.context
                )
                try:
                    connection.connect()
                except OSError:
                    self.not_connected += 1
                    self._end.wait(0.02)
                    connection = None
                    continue
            self._call(connection)
            if self._new:
                connection.close()

    def _call(self, connection: http.client.HTTPSConnection) -> None:
        task = f"T_{self._number}_{len(self.answered) + len(self.lost) + len(self.refused)}"
        body = urlencode({"data": json.dumps({"task_id": task, "worker": f"w{self._number}"})})
        headers = {"Content-Type": FORM, "Authorization": f"Bearer {self._token}"}
        try:
            connection.request("POST", "/recorder/api/add_task", body, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            self.lost.append((task, repr(error)))
            connection.close()
            return
        if answer.status == 200:
            self.answered.append(task)
        else:
            self.refused.append((task, answer.reason))

    def end(self) -> None:
        """Finish the call in hand."""
        self._end.set()
        self.join(60)


class Load:
    """Clients that never stop, half of them with a new connection for each call, and two stock
    workers.
    """

    def __init__(
        self, gate: Gate, luigid: Luigid, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        patient = stage._WORKER_SETTINGS.replace(
            "rpc-retry-wait = 0", "rpc-retry-wait = 1\nrpc-retry-attempts = 60"
        )
        monkeypatch.setattr(stage, "_WORKER_SETTINGS", patient)
        token = gate.token("worker")
        self._luigid = luigid
        self._runs = [f"{directory.name}-{library}" for library in ("requests", "urllib")]
        self.clients = [
            Client(gate, number, new_connections=number % 2 == 0) for number in range(CLIENTS)
        ]
        for client in self.clients:
            client.start()
        self.workers = []
        for run in self._runs:
            requests = run.endswith("requests")
            output = directory / f"{run}-out"
            output.mkdir()
            arguments = [
                "--module",
                "steady",
                "Layer",
                "--layer",
                "2",
                "--number",
                "0",
                "--run-name",
                run,
                "--directory",
                str(output),
            ]
            url = gate.url.replace("https://", "https://" if requests else f"https://jwt:{token}@")
            netrc = write_netrc(directory / "netrc", token) if requests else None
            ca = gate.directory / "ca.pem"
            self.workers.append(
                Worker(directory / run, url, arguments, requests=requests, ca=ca, netrc=netrc)
            )

    def until_busy(self, calls: int = 20) -> None:
        """Wait until every client has made some more calls, and each worker has finished a task."""
        marks = [len(client.answered) + calls // CLIENTS for client in self.clients]
        pairs = list(zip(self.clients, marks, strict=True))
        until(
            lambda: all(len(client.answered) >= mark for client, mark in pairs),
            "every client is answered again and again",
        )

        def at_work() -> bool:
            done = {
                task["params"].get("run_name")
                for task in self._luigid.tasks().values()
                if task["status"] == "DONE"
            }
            return set(self._runs) <= done

        until(at_work, "the workers work")

    def end(self) -> None:
        """End the clients; the workers end by themselves, each in order and with no task failed for
        good.
        """
        for client in self.clients:
            client.end()
        for worker in self.workers:
            assert worker.wait() == 0, worker.text()[-3000:]
            assert "failed" not in worker.summary(), worker.text()[-3000:]

    @property
    def answered(self) -> list[str]:
        """Every call that was answered with 200."""
        return [task for client in self.clients for task in client.answered]

    @property
    def lost(self) -> list[tuple[str, str]]:
        """Every call that was sent, and of which nobody told the client what became."""
        return [lost for client in self.clients for lost in client.lost]

    @property
    def refused(self) -> list[tuple[str, str]]:
        """Every call that was answered otherwise."""
        return [refused for client in self.clients for refused in client.refused]


@pytest.fixture
def load(
    gate: Gate, luigid: Luigid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Load]:
    """Load on the gate, which goes on until the test ends it."""
    load = Load(gate, luigid, tmp_path, monkeypatch)
    yield load
    for client in load.clients:
        client.end()
    for worker in load.workers:
        if worker.running:
            worker.kill()


def sent_once(recorder: RecordingLuigid) -> set[str]:
    """The tasks that the upstream was told of, none of them twice."""
    tasks: list[Any] = [args["task_id"] for _, args in recorder.seen]
    assert len(set(tasks)) == len(tasks), "a call was sent twice"
    return set(tasks)


def decided(gate: Gate) -> set[str]:
    """The tasks that the journal has decided add_task for; every allowed call of it is completed,
    known or unknown.
    """
    return {
        record["task"]
        for record in gate.calls()
        if record["stage"] == "decided" and record["method"] == "add_task"
    }


@pytest.mark.parametrize("processes", [1, 2])
def test_a_reload_loses_no_call_and_fails_no_task(
    gate: Gate, recorder: RecordingLuigid, load: Load, processes: int
) -> None:
    """Three reloads, one after the other, under load: every single call is answered and made once,
    and the workers finish their graphs.
    """
    before = serving(gate)
    for generation in (2, 3, 4):
        load.until_busy()
        done = callgate("reload", "--config", str(gate.settings))
        assert (done.returncode, done.stdout) == (
            0,
            f"reloaded: generation {generation} is serving\n",
        ), done.stderr
    load.until_busy()
    load.end()
    assert (load.lost, load.refused) == ([], [])
    assert sum(client.not_connected for client in load.clients) == 0
    assert sent_once(recorder) == set(load.answered)
    assert [worker.summary()["ran successfully"] for worker in load.workers] == [STEPS, STEPS]
    until(lambda: len(serving(gate)) == processes, "the old processes have ended")
    assert not before & serving(gate)
    assert sent_once(recorder) <= decided(gate)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_process_loses_no_more_than_it_had_in_hand(
    gate: Gate, recorder: RecordingLuigid, load: Load, processes: int
) -> None:
    """kill -9 of one process: its connections break, no call is made twice, every call made is on
    record, and no task fails.
    """
    load.until_busy()
    for pid in sorted(serving(gate)):
        os.kill(pid, signal.SIGKILL)
        until(partial(is_replaced, gate, pid, processes), "another has taken its place")
        load.until_busy()
    load.end()
    assert load.refused == []
    assert len(load.lost) <= 2 * CLIENTS, "a client has one call in hand"
    made = sent_once(recorder)
    assert set(load.answered) <= made
    assert made <= set(load.answered) | {task for task, _ in load.lost}
    assert made <= decided(gate)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_restart_answers_what_it_has_in_hand(
    gate: Gate, recorder: RecordingLuigid, load: Load
) -> None:
    """SIGTERM and a new start: calls in hand are answered, later ones are not accepted, none is
    made twice, and no task fails.
    """
    load.until_busy()
    assert gate.stop() == 0
    gate.start()
    load.until_busy(CLIENTS)
    load.end()
    assert (load.lost, load.refused) == ([], [])
    assert sent_once(recorder) == set(load.answered)
    assert sent_once(recorder) <= decided(gate)
    assert not [record for record in gate.records() if record.get("outcome") == "unknown"]


@pytest.mark.parametrize("how", ["restart", "reload"])
def test_who_reads_slowly_while_a_process_ends_is_cut_off_and_recorded_once(
    tmp_path: Path, how: str
) -> None:
    """After `drain_seconds` a long answer is cut: one record of its end, none behind the end of the
    log, which is intact.
    """
    upstream = RecordingLuigid(lambda method, args: "x" * 30_000_000)
    gate = own_gate(tmp_path, upstream, limits={"drain_seconds": 0.3})
    try:
        body = b"data=%7B%22status%22%3A%22%22%2C%22upstream_status%22%3A%22%22%7D"
        head = f"POST /api/task_list HTTP/1.1\r\nHost: gate\r\nContent-Type: {FORM}\r\nAuthorization: Bearer {gate.token('viewer')}\r\n"
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", gate.port))
            slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert slow.recv(15) == b"HTTP/1.1 200 OK"
            if how == "reload":
                assert callgate("reload", "--config", str(gate.settings)).returncode == 0
                until(lambda: '"stopped"' in gate.process.text(), "the old process has ended")
    finally:
        code = gate.stop()
        upstream.end()
    assert code == 0
    found = [record for record in gate.records() if record["stage"] == "completed"]
    assert [(record["outcome"], record.get("reason")) for record in found] == [
        ("failed", "client-gone")
    ]
    assert callgate("audit", "verify", "--dir", str(gate.audit)).returncode == 0


@pytest.fixture
def pausing() -> Iterator[RecordingLuigid]:
    """An upstream that can be paused, and says whether it is."""
    state = {"paused": False}

    def answer(method: str, args: dict[str, Any]) -> Any:
        state["paused"] |= method == "pause"
        return dict(state)

    upstream = RecordingLuigid(answer)
    yield upstream
    upstream.end()


@pytest.mark.parametrize("processes", [1, 2])
def test_no_view_is_older_than_an_act_through_another_process(
    tmp_path: Path, pausing: RecordingLuigid, processes: int
) -> None:
    """After a reload: neither while the process before it still serves, nor where the file says 1
    but two go on.
    """
    gate = own_gate(tmp_path, pausing, processes=processes)
    try:
        old = [Kept(gate) for _ in range(8)]
        gate.settings.write_text(
            gate.settings.read_text().replace("processes = 2", "processes = 1")
        )
        done = callgate("reload", "--config", str(gate.settings))
        if processes == 2:
            assert done.returncode == 1
            assert "processes: 2 serve, and the settings ask for 1" in done.stderr
        else:
            assert done.returncode == 0
        if processes == 2:  # and they are new ones, which follow nobody
            until(lambda: len(serving(gate)) == 2, "the old generation has left")
            for pid in serving(gate):
                os.kill(pid, signal.SIGKILL)
                until(partial(is_replaced, gate, pid, 2), "it is replaced")
            until(lambda: gate.process.text().count('"event":"serving"') == 6, "both serve")
            old = [Kept(gate) for _ in range(16)]
        new = [Kept(gate) for _ in range(16)]
        assert {one.ask("worker_list") for one in new} == {b'{"response": {"paused": false}}'}
        old[0].ask("pause")
        assert {one.ask("worker_list") for one in new} == {b'{"response": {"paused": true}}'}
        for one in (*old, *new):
            one.connection.close()
    finally:
        assert gate.stop() == 0


def test_no_view_is_older_than_an_act_by_another_name(
    tmp_path: Path, pausing: RecordingLuigid
) -> None:
    """One scheduler stands in the settings twice: what acts through one name is seen at once
    through the other.
    """
    gate = own_gate(tmp_path, pausing, start=False)
    with gate.settings.open("a") as settings:
        settings.write(
            f'[[upstreams]]\nname = "ops"\nprotocol = "luigi"\nurl = "http://127.0.0.1:{pausing.port}"\npath_prefix = "/ops"\n'
        )
    gate.start()
    try:
        asked = [("/api", "worker_list"), ("/ops/api", "pause"), ("/api", "worker_list")]
        bodies = [
            gate.ask(f"{path}/{method}", "admin", b"data=%7B%7D").body for path, method in asked
        ]
        assert [b"true" in body for body in bodies] == [False, True, True]
    finally:
        assert gate.stop() == 0


@pytest.mark.parametrize(
    "reads", ["no more: it has died", "nothing: it stands still, and the pipe is full"]
)
def test_nobody_needs_the_log_to_be_read(
    tmp_path: Path, recorder: RecordingLuigid, reads: str
) -> None:
    """Its reader goes: callers are answered as before, every call is completed, a dead process
    replaced, and a reload taken.
    """
    gate = own_gate(tmp_path, recorder, start=False)
    with gate.settings.open("a") as settings:
        settings.write(
            f'[[upstreams]]\nname = "gone"\nprotocol = "luigi"\nurl = "http://127.0.0.1:{free_port()}"\npath_prefix = "/gone"\n'
        )
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "proxy.cli.main", "serve", "--config", str(gate.settings)]
    process = subprocess.Popen(
        command,
        cwd=gate.directory,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=writer,
    )
    try:
        until(lambda: answers(gate), "it is ready")
        if "died" in reads:
            os.close(reader)
        else:
            fill_up(writer)
        os.close(writer)
        assert [gate.ask("/api/pause", role).status for role in ("viewer", None, "admin")] == [
            403,
            401,
            200,
        ]
        assert gate.ask("/gone/api/pause", "admin").status == 502
        gate.calls()  # which waits until both are completed
        [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        until(lambda: not Path(f"/proc/{child}").exists() and answers(gate), "it is replaced")
        assert callgate("reload", "--config", str(gate.settings)).returncode == 0
    finally:
        process.terminate()
        assert process.wait(60) == 0
    completed = [record["outcome"] for record in gate.records() if record["stage"] == "completed"]
    assert completed == ["ok", "failed"]
    assert callgate("audit", "verify", "--dir", str(gate.audit)).returncode == 0


def own_gate(
    directory: Path,
    upstream: RecordingLuigid,
    *,
    processes: int = 1,
    limits: dict[str, object] | None = None,
    start: bool = True,
) -> Gate:
    """A gate without TLS, before that upstream alone."""
    policies = directory / "policies"
    shutil.copytree(POLICIES, policies)
    for path in (policies, *policies.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
    upstreams = [
        {
            "name": "luigi",
            "protocol": "luigi",
            "url": f"http://127.0.0.1:{upstream.port}",
            "path_prefix": "/",
        }
    ]
    gate = Gate(directory / "gate", upstreams, policies=policies, limits=limits, tls=False)
    gate.settings.write_text(
        gate.settings.read_text().replace(
            "[[listeners]]\n", f"processes = {processes}\n[[listeners]]\n"
        )
    )
    return gate.start() if start else gate


def fill_up(pipe: int) -> None:
    """Fill a pipe to the last byte, without changing how others write to it."""
    own = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(own, b"x" * size)
    os.close(own)


def answers(gate: Gate) -> bool:
    """Whether it serves."""
    try:
        return gate.get("/-/readyz").status == 200
    except OSError:
        return False


class Kept:
    """An admin with a connection that is kept, to whichever process took it."""

    def __init__(self, gate: Gate) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=30)
        self._headers = {"Content-Type": FORM, "Authorization": f"Bearer {gate.token('admin')}"}
        self.ask("resource_list")

    def ask(self, method: str) -> bytes:
        """Call without arguments, anew if the connection has rested for too long; the answer's
        body.
        """
        try:
            self.connection.request("POST", f"/api/{method}", b"data=%7B%7D", self._headers)
            answer = self.connection.getresponse()
        except ConnectionError:
            self.connection.close()
            self.connection.request("POST", f"/api/{method}", b"data=%7B%7D", self._headers)
            answer = self.connection.getresponse()
        assert answer.status == 200
        return answer.read()


@pytest.mark.parametrize("broken", ["policy", "open", "settings"])
def test_a_refused_reload_leaves_the_old_generation_serving(
    gate: Gate, recorder: RecordingLuigid, broken: str
) -> None:
    """A policy or settings that do not load, or that others may write: reload leaves with 1 and
    prints why, with location and hint; the log says it too, each reason as an event, and every line
    of it is JSON; the same set decides.
    """
    before = serving(gate)
    assert (
        gate.ask(
            "/recorder/api/add_task",
            "worker",
            b"data=%7B%22task_id%22%3A%22A_1%22%2C%22worker%22%3A%22w%22%7D",
        ).status
        == 200
    )
    if broken == "policy":
        added = gate.directory / "policies" / "broken.cedar"
        added.write_text('@id("broken") permit (principal, action == Action::"no_such", resource);')
    elif broken == "open":
        (gate.directory / "policies" / "roles.toml").chmod(0o666)
    else:
        gate.settings.write_text(
            gate.settings.read_text().replace("[limits]", "[limits]\nno_such = 1")
        )
    if broken != "settings":
        done = callgate("reload", "--config", str(gate.settings))
        assert done.returncode == 1
        assert "reload failed" in done.stderr
        reason = "no_such" if broken == "policy" else "chmod go-w"
        assert reason in done.stderr
        [event] = [each for each in events(gate) if each["event"] == "reload refused"]
        assert reason in f"{event['message']} {event['hint']}"
        assert event["location"] in done.stderr and event["hint"] in done.stderr
        assert "reload failed" in gate.process.text()
    else:
        assert callgate("reload", "--config", str(gate.settings)).returncode == 2, (
            "the command cannot read them either"
        )
        gate.process._process.send_signal(signal.SIGHUP)
        until(lambda: "reload failed" in gate.process.text(), "the gate refused by itself")
        until(lambda: "reload refused" in gate.process.text(), "and says why")
        [event] = [each for each in events(gate) if each["event"] == "reload refused"]
        assert "limits.no_such" in event["location"]
    assert (
        gate.ask(
            "/recorder/api/add_task",
            "worker",
            b"data=%7B%22task_id%22%3A%22A_2%22%2C%22worker%22%3A%22w%22%7D",
        ).status
        == 200
    )
    until(lambda: serving(gate) == before, "the same processes serve")
    assert (
        len({record["policy_hash"] for record in gate.calls() if record["stage"] == "decided"}) == 1
    )
    assert len(recorder.seen) == 2


def events(gate: Gate) -> list[dict[str, Any]]:
    """Return every line of the log, each of which is an event in JSON."""
    return [json.loads(line) for line in gate.process.text().splitlines()]


def test_a_reload_takes_the_format_of_the_log_everywhere(gate: Gate) -> None:
    """The supervisor writes its own lines as the new processes do."""
    text = gate.settings.read_text()
    gate.settings.write_text(f'{text}\n[log]\nformat = "console"\n')
    assert callgate("reload", "--config", str(gate.settings)).returncode == 0
    until(lambda: "reloaded" in gate.process.text(), "the supervisor said so")
    [line] = [line for line in gate.process.text().splitlines() if " reloaded " in f"{line} "]
    assert not line.startswith("{")


def test_a_changed_directory_or_name_of_the_journal_waits_for_a_restart(
    gate: Gate, recorder: RecordingLuigid
) -> None:
    """The journal goes on where it was. SIGHUP says what needs a restart; the command cannot find
    the supervisor by these settings, and says that.
    """
    text = gate.settings.read_text()
    gate.settings.write_text(text.replace('directory = "audit"', 'directory = "moved"\nname = "x"'))
    done = callgate("reload", "--config", str(gate.settings))
    assert done.returncode == 2 and "If audit.directory or audit.name has changed" in done.stderr
    gate.process._process.send_signal(signal.SIGHUP)
    until(lambda: "need a restart" in gate.process.text(), "the log says so")
    [event] = [each for each in events(gate) if "need a restart" in each["event"]]
    assert event["settings"] == ["audit.directory", "audit.name"]
    assert gate.ask("/api/is_paused", "viewer").status == 200
    assert len([record for record in gate.calls() if record["stage"] == "decided"]) == 1
    assert not (gate.directory / "moved").exists()
    gate.settings.write_text(text)


def test_a_reload_with_another_settings_file_is_refused(gate: Gate) -> None:
    """The running processes read theirs again, so nothing of it would be in force."""
    other = gate.directory / "other.toml"
    other.write_text(gate.settings.read_text())
    done = callgate("reload", "--config", str(other))
    assert done.returncode == 2
    assert f"the running Callgate reads {gate.settings}" in done.stderr


def test_a_reload_brings_changed_policies_into_force(gate: Gate) -> None:
    """What a policy newly forbids is refused as soon as reload has returned, on every process, and
    both sets are on record.
    """
    assert gate.ask("/api/is_paused", "viewer").status == 200
    added = gate.directory / "policies" / "added.cedar"
    added.write_text(
        '@id("nobody-asks") forbid (principal, action == Action::"is_paused", resource);'
    )
    assert callgate("reload", "--config", str(gate.settings)).returncode == 0
    until(lambda: len(serving(gate)) == 2, "the old processes have ended")
    assert {gate.ask("/api/is_paused", "viewer").status for _ in range(10)} == {403}
    assert (
        len({record["policy_hash"] for record in gate.calls() if record["stage"] == "decided"}) == 2
    )


def test_reload_without_a_gate(gate: Gate) -> None:
    """Nobody to tell: reload leaves with 2, also when a gate was killed and its status file still
    stands. A second gate is refused.
    """
    second = callgate("serve", "--config", str(gate.settings))
    assert second.returncode == 2
    assert "already running" in second.stderr
    children = serving(gate)
    gate.process.kill()
    done = callgate("reload", "--config", str(gate.settings))
    assert done.returncode == 2
    assert "no Callgate with these settings is running" in done.stderr
    until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in children),
        "its processes have ended",
    )
    gate.start()
