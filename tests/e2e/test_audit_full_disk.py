"""A journal on a small file system that fills up under load: nothing passes unrecorded, and it goes
on by itself when there is room.

The file system is a real one, a tmpfs of a few megabytes, so mounting it needs root. A file of the
test's own (the ballast) takes the room that the journal is not to have.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.load import Clients, Witness, by_log, still_open, verify
from tests.support.paths import ROOT
from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate, toml
from tests.support.stage import clean_environment, until

DISK_BYTES = 2 * 1024 * 1024
LEFT_BYTES = 128 * 1024  # for the journal, before it is full
PAGE_BYTES = 4096
# more than two of the journal's attempts to write again: nothing that it may give back is left to
# give
REST_SECONDS = 2.5
REFUSALS = 500  # that the clients must get while nothing may pass


class Ballast:
    """A file that takes all the room there is on its file system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def fill(self) -> int:
        """Take what room is left; how many bytes that was."""
        taken = 0
        try:
            while True:
                taken += os.write(self._fd, bytes(PAGE_BYTES))
        except OSError:
            return taken

    def leave(self, room: int) -> None:
        """Give so many bytes back."""
        os.ftruncate(self._fd, os.fstat(self._fd).st_size - room)

    def remove(self) -> None:
        """Give all of it back."""
        os.close(self._fd)
        self._path.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small file system needs root, mount and umount")
    place = tmp_path / "disk"
    place.mkdir()
    command = [
        mount,
        "-t",
        "tmpfs",
        "-o",
        f"size={DISK_BYTES},mode=0700,noexec,nosuid,nodev",
        "tmpfs",
        str(place),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run([umount, "--lazy", str(place)], timeout=30, check=True)


@pytest.fixture
def upstream() -> Iterator[RecordingLuigid]:
    """An upstream that notes what it was sent."""
    running = RecordingLuigid(seconds=0.002)
    yield running
    running.end()


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
def gate(
    request: pytest.FixtureRequest, disk: Path, upstream: RecordingLuigid, tmp_path: Path
) -> Iterator[Gate]:
    """A gate whose journal, and nothing else of it, is on the small file system."""
    gate = Gate(
        tmp_path / "gate",
        [{"name": "luigi", "protocol": "luigi", "url": f"http://127.0.0.1:{upstream.port}"}],
        tls=False,
    )
    gate.audit = disk / "audit"
    text = gate.settings.read_text().replace(
        'directory = "audit"', f"directory = {toml(gate.audit)}"
    )
    gate.settings.write_text(
        text.replace("[[listeners]]\n", f"processes = {request.param}\n[[listeners]]\n")
    )
    gate.start()
    yield gate
    if gate.process.running:
        gate.stop()


def test_a_full_disk_lets_nothing_pass_and_room_mends_it(
    gate: Gate, disk: Path, upstream: RecordingLuigid
) -> None:
    """Full: every call, heartbeats and forbidden ones too, is 503 `audit-unwritable`, the upstream
    sees none, readiness is red.

    With room again the gate serves by itself; `gap` records tell how many were refused, to the last
    one; every log is intact, every allowed call completed, and whatever the upstream ever saw is on
    disk.
    """
    witness = Witness(gate.audit)
    # refusals that the test itself got, which count as much as the clients'
    own: Counter[str] = Counter()

    def ask() -> int:
        answer = gate.call(
            "add_task", gate.token("worker"), task_id=f"T_own_{time.monotonic_ns()}", worker="w"
        )
        if answer.status != 200:
            own[f"{answer.status} {answer.refused}"] += 1
        return answer.status

    def on_disk() -> None:
        seen = upstream.seen
        witness.look()
        assert {args["task_id"] for _, args in seen if "task_id" in args} <= witness.allowed.keys()

    ballast = Ballast(disk / "ballast")
    ballast.fill()
    ballast.leave(LEFT_BYTES)
    clients = Clients(gate, "full")
    try:
        until(lambda: clients.refused, "the disk was full", 60)
        assert len(clients.answered) > 10

        # What a failed write gives back is room too, used at once: wait until there is none and no
        # process finds any.
        rests_since = time.monotonic()

        def rests() -> bool:
            nonlocal rests_since
            if ballast.fill() or ask() == 200 or gate.get("/-/readyz").status != 503:
                rests_since = time.monotonic()
            return time.monotonic() - rests_since > REST_SECONDS

        until(rests, "the disk was full for good", 60)
        before, answered, refused = (
            len(upstream.seen),
            len(clients.answered),
            clients.refused.total(),
        )
        until(lambda: clients.refused.total() >= refused + REFUSALS, "clients were refused")
        others = [
            gate.call("ping", gate.token("worker"), worker="w"),
            gate.call("task_list", gate.token("viewer"), status="", upstream_status=""),
            gate.call("disable_worker", gate.token("viewer"), worker="w"),
            gate.get("/static/visualiser/index.html", gate.token("viewer")),
        ]
        # a page has no JSON
        own.update(
            f"{answer.status} {answer.reason.rpartition('[')[2].partition(',')[0]}"
            for answer in others
        )
        assert (len(upstream.seen), len(clients.answered)) == (before, answered), "nothing passed"
        assert gate.get("/-/readyz").status == 503
        assert gate.get("/-/healthz").status == 200
        on_disk()
        # under load: calls that are refused in the very moment of resuming are counted too
        ballast.remove()
        until(
            lambda: all(gate.get("/-/readyz").status == 200 for _ in range(10)),
            "the gate was ready again",
        )
    finally:
        clients.end()
    assert own.keys() | clients.refused.keys() == {"503 audit-unwritable"}
    ready_since = time.monotonic()

    def ready() -> bool:
        nonlocal ready_since
        if gate.get("/-/readyz").status != 200:
            ready_since = time.monotonic()
        return time.monotonic() - ready_since > REST_SECONDS

    until(ready, "every process was ready again, whichever is asked", 60)
    again = Clients(gate, "again")
    try:
        until(lambda: len(again.answered) >= 100, "clients were served again")
    finally:
        again.end()
    assert again.refused == Counter()
    assert gate.stop() == 0

    on_disk()
    assert witness.twice == []
    sent = Counter(args["task_id"] for _, args in upstream.seen)
    assert set(sent.values()) == {1}
    assert clients.answered | again.answered <= set(sent)
    logs = by_log(gate.audit)
    gaps = [r for records in logs.values() for r in records if r["stage"] == "gap"]
    assert gaps
    assert any("No space left on device" in r["error"] for r in gaps)
    assert sum(r["refused"] for r in gaps) == clients.refused.total() + own.total()
    for records in logs.values():
        assert still_open(records) == set()
        assert records[-1]["stage"] == "closed"
        assert {r["outcome"] for r in records if r["stage"] == "completed"} <= {"ok"}
    assert "gap(s) on record" in verify(gate.audit)


def callgate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "proxy.cli.main", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fill_for_good(gate: Gate, ballast: Ballast) -> int:
    """Fill the disk until no process writes; return how many calls were refused on the way."""
    refused = 0

    def ask() -> int:
        nonlocal refused
        name = f"T_fill_{time.monotonic_ns()}"
        status = gate.call("add_task", gate.token("worker"), task_id=name, worker="w").status
        refused += status == 503
        return status

    rests_since = time.monotonic()

    def rests() -> bool:
        nonlocal rests_since
        if ballast.fill() or ask() == 200 or gate.get("/-/readyz").status != 503:
            rests_since = time.monotonic()
        return time.monotonic() - rests_since > REST_SECONDS

    until(rests, "the disk was full for good", 60)
    return refused


def refuse(gate: Gate, count: int) -> int:
    """Have `count` calls refused."""
    for n in range(count):
        answer = gate.call("add_task", gate.token("worker"), task_id=f"T_{n}", worker="w")
        assert answer.status == 503
    return count


def reported(gate: Gate) -> int:
    """Return how many refused calls the gap records report."""
    logs = by_log(gate.audit)
    return sum(r["refused"] for records in logs.values() for r in records if r["stage"] == "gap")


def test_a_reload_and_a_stop_on_a_full_disk_lose_no_refused_call(gate: Gate, disk: Path) -> None:
    """The reload is refused and prints that the disk is full: the status file has room. The count
    of the refused calls outlives the processes: what starts when there is room reports every one.
    """
    ballast = Ballast(disk / "ballast")
    refused = fill_for_good(gate, ballast) + refuse(gate, 50)
    done = callgate("reload", "--config", str(gate.settings))
    assert done.returncode == 1
    assert "the audit log cannot be written: No space left on device" in done.stderr
    assert "Free or repair the disk" in done.stderr
    for line in gate.process.text().splitlines():
        json.loads(line)
    refused += refuse(gate, 50)
    assert gate.stop() == 0
    assert reported(gate) < refused
    ballast.remove()
    gate.start()
    until(lambda: reported(gate) == refused, "every refused call is on record", 60)
    assert gate.stop() == 0
    assert reported(gate) == refused
    assert "gap(s) on record" in verify(gate.audit)


def test_a_reload_in_the_moment_of_room_loses_no_refused_call(gate: Gate, disk: Path) -> None:
    """The new processes start before the old ones have found that they can write again. The old
    ones are replaced, and their counts are on record soon, without another start.
    """
    ballast = Ballast(disk / "ballast")
    refused = fill_for_good(gate, ballast) + refuse(gate, 100)
    ballast.remove()
    done = callgate("reload", "--config", str(gate.settings))
    assert done.returncode == 0, done.stderr
    until(lambda: reported(gate) == refused, "every refused call is on record", 60)
    assert gate.stop() == 0
    assert reported(gate) == refused
    assert "gap(s) on record" in verify(gate.audit)
