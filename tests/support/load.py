"""Clients that go on whatever happens to the gate, each call with a task id of its own, and an
account of what became of every call.

`Witness` is the other side of the account: what the journal's files say, read while they are
written.
"""

import json
import subprocess
import sys
import threading
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlencode

from proxy.audit.format.layout import logs
from proxy.audit.reading.reader import Position, read_log
from proxy.audit.reading.records import members_of
from tests.support.paths import ROOT
from tests.support.stack import Gate, Record
from tests.support.stage import FORM, clean_environment

_AGAIN_SECONDS = 0.02  # before a client connects again: a gate that is gone refuses at once


class Clients:
    """Threads that call as fast as they are answered until `end`. A call that broke off is never
    made again: the next has another id.
    """

    def __init__(self, gate: Gate, label: str, count: int = 4) -> None:
        self._port = gate.port
        self._label = label
        token = gate.issuer.issue("load", ["worker", "operator"], 3600, gate.now())
        self._headers = {"Content-Type": FORM, "Authorization": f"Bearer {token}"}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._answered: set[str] = set()
        self._refused: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def answered(self) -> set[str]:
        """The task ids of the calls that were answered 200."""
        with self._lock:
            return set(self._answered)

    @property
    def refused(self) -> Counter[str]:
        """How many calls were answered otherwise, by status and reason code, as in ``503
        audit-unwritable``.
        """
        with self._lock:
            return Counter(self._refused)

    def end(self) -> None:
        """Let every client finish its call, and wait for them. May be called twice."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
            try:
                while not self._stop.is_set():
                    count += 1
                    self._call(
                        connection,
                        f"T_{self._label}_{number}_{count}",
                        f"w{number}",
                        acting=bool(count % 3),
                    )
            except (OSError, HTTPException):
                self._stop.wait(_AGAIN_SECONDS)
            finally:
                connection.close()

    def _call(self, connection: HTTPConnection, task: str, worker: str, *, acting: bool) -> None:
        method, args = (
            ("add_task", {"task_id": task, "worker": worker})
            if acting
            else ("forgive_failures", {"task_id": task})
        )
        connection.request(
            "POST", f"/api/{method}", urlencode({"data": json.dumps(args)}), self._headers
        )
        answer = connection.getresponse()
        body = answer.read()
        with self._lock:
            if answer.status == 200:
                self._answered.add(task)
            else:
                self._refused[f"{answer.status} {json.loads(body)['error']['reason']}"] += 1


class Witness:
    """What the files of an audit directory say, each record read once, as it stands on disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._at: dict[str, Position] = {}
        self.allowed: dict[str, Record] = {}
        self.twice: list[str] = []

    def look(self) -> None:
        """Read what was written since the last look: the allowed calls by task id, and the task ids
        that were decided twice.
        """
        for name, path in logs(self._directory).items():
            for item in read_log(path, self._at.get(name)):
                self._at[name] = item.after
                record = members_of(item.raw)
                if (
                    record["stage"] == "decided"
                    and record["decision"] == "allow"
                    and "task" in record
                ):
                    if record["task"] in self.allowed:
                        self.twice.append(record["task"])
                    self.allowed[record["task"]] = record


def by_log(directory: Path) -> dict[str, list[Record]]:
    """Every record of each log, read anew from the beginning."""
    return {
        name: [members_of(item.raw) for item in read_log(path)]
        for name, path in logs(directory).items()
    }


def still_open(records: list[Record]) -> set[int]:
    """The allowed calls of one log (by ``seq``) that have no `completed` record. A second one fails
    here.
    """
    allowed = {r["seq"]: r["id"] for r in records if r.get("decision") == "allow"}
    completed = Counter(r["decided_seq"] for r in records if r["stage"] == "completed")
    assert all(times == 1 for times in completed.values())
    assert all(allowed[r["decided_seq"]] == r["id"] for r in records if r["stage"] == "completed")
    return set(allowed) - set(completed)


def verify(directory: Path) -> str:
    """What ``callgate audit verify`` prints; it must find every log intact."""
    command = [sys.executable, "-m", "proxy.cli.main", "audit", "verify", "--dir", str(directory)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("INTACT") == len(logs(directory))
    return done.stdout
