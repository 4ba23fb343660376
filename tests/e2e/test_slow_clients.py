"""Debian's slowhttptest in all its modes against a real gate: the attackers are cut off, and nobody
else notices.

The attack comes from 127.0.0.1. Beside it, from another address, a worker pings and announces tasks
and a viewer looks, each over one kept connection; and a stock luigi worker works, from the very
address of the attack.
"""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.bystanders import bystanders
from tests.support.stack import Gate
from tests.support.stage import Luigid, Worker, clean_environment, until, write_netrc

TOOL = shutil.which("slowhttptest")
pytestmark = pytest.mark.skipif(
    TOOL is None, reason="no slowhttptest here: apt-get install slowhttptest"
)

# the first is there until the last has come
SHORT = {"header_seconds": 5, "body_seconds": 5, "write_seconds": 1.5, "idle_seconds": 10}
SHIPPED_PER_ADDRESS = 512  # connections
TOO_MANY = 200
ATTACKERS = 150
READERS = 60
LONG_ANSWER = 2_000_000  # bytes; more than the gate and all the kernel's buffers hold of an answer
# bytes that an attack may add to the gate's memory: some of each connection, and megabytes of each
# long answer
GROWTH = 64 << 20
# after which slowhttptest gives up by itself; no test is meant to let it come to that
TEST_SECONDS = 30


class Attacked(Gate):
    """A gate, and for each reason how many attackers its log has to name once it has ended."""

    owed: Counter[str]


@pytest.fixture(scope="module")
def luigid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A real luigid, whose list of tasks is long."""
    luigid = Luigid(tmp_path_factory.mktemp("luigid"), retry_delay=0.5, prune_on_get_work="true")
    luigid.call(
        "add_task", worker="w", task_id="Long_1", family="Long", params={"text": "x" * LONG_ANSWER}
    )
    yield luigid
    luigid.stop()


@contextmanager
def gate_before(
    luigid: Luigid, directory: Path, limits: Mapping[str, object]
) -> Iterator[Attacked]:
    """A gate that has to end in order, with nothing left open and every attacker on record."""
    upstream = {"name": "luigi", "protocol": "luigi", "url": luigid.url.rstrip("/")}
    gate = Attacked(directory, [upstream], limits=dict(limits))
    gate.owed = Counter()
    gate.start()
    yield gate
    gate.mark()  # every allowed call has its completed record
    assert gate.stop() == 0
    assert "internal error" not in gate.process.text()
    found = reasons(gate)
    assert {
        reason: found[reason] for reason, count in gate.owed.items() if found[reason] < count
    } == {}


@pytest.fixture(scope="module")
def shipped(luigid: Luigid, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A gate with TLS and the limits as they are by default."""
    with gate_before(luigid, tmp_path_factory.mktemp("shipped"), {}) as gate:
        yield gate


@pytest.fixture(scope="module")
def short(luigid: Luigid, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A gate with short deadlines."""
    with gate_before(luigid, tmp_path_factory.mktemp("short"), SHORT) as gate:
        yield gate


def files(gate: Gate) -> int:
    """The file descriptors of the serving process."""
    return len(os.listdir(f"/proc/{gate.serving()}/fd"))  # noqa: PTH208  (only counted)


@contextmanager
def attack(
    gate: Gate,
    mode: str,
    connections: int,
    *words: str,
    target: str = "/api/task_list",
    seconds: int = TEST_SECONDS,
) -> Iterator["subprocess.Popen[bytes]"]:
    """slowhttptest, with all its connections at once. It is ended after the block if it has not
    ended by itself.
    """
    assert TOOL is not None
    command: Sequence[str] = [
        TOOL,
        f"-{mode}",
        "-c",
        str(connections),
        "-r",
        str(connections),
        "-l",
        str(seconds),
        "-i",
        "1",
    ]
    with (gate.directory / "slowhttptest.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "-u", gate.url + target, *words],
            stdout=log,
            stderr=log,
            env=clean_environment(),
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def as_viewer(gate: Gate) -> str:
    """A target that asks for the long list with a good token; slowhttptest itself has no option for
    a header of one's own.
    """
    token = gate.issuer.issue("slow-reader", ["viewer"], 3600, gate.now())
    return f"/api/task_list?data=%7B%7D HTTP/1.1\r\nAuthorization: Bearer {token}\r\nX-Rest-Of-The-Line: "


def reasons(gate: Gate) -> Counter[str]:
    """Why requests were rejected, or readers were given up, for how many of them; those summed up
    included, once the gate has ended.
    """
    found: Counter[str] = Counter()
    for record in gate.records():
        if record["stage"] == "rejected":
            found.update(
                record["summary"]["reasons"] if "summary" in record else [record["reason"]]
            )
        elif record.get("reason") == "client-gone":
            found["client-gone"] += 1
    return found


@pytest.mark.exhaustive
def test_slow_headers_against_the_limits_as_shipped(
    shipped: Attacked, luigid: Luigid, tmp_path: Path
) -> None:
    """More connections than one address may have, each a header a second: the rest is turned away,
    those that are in are cut after ten seconds, and whoever calls from elsewhere never waits, or
    has a connection closed.
    """
    before, memory = files(shipped), shipped.peak_memory()
    # some places are our probes'
    shipped.owed.update(
        {"request-timeout": SHIPPED_PER_ADDRESS - 20, "too-many-connections": TOO_MANY - 20}
    )
    with (
        bystanders(shipped) as others,
        attack(shipped, "H", SHIPPED_PER_ADDRESS + TOO_MANY) as attacker,
    ):
        until(
            lambda: files(shipped) >= before + SHIPPED_PER_ADDRESS,
            "the attack holds all that one address may hold",
        )
        others.until_served()
        assert files(shipped) <= before + SHIPPED_PER_ADDRESS + 20
        attacker.wait(TEST_SECONDS)  # it ends when none of its connections is left
        others.until_served()
        until(lambda: files(shipped) <= before + 20, "the attackers' connections are closed")
    assert shipped.peak_memory() - memory < GROWTH


@pytest.mark.exhaustive
def test_slow_readers_against_the_limits_as_shipped(
    shipped: Attacked, luigid: Luigid, tmp_path: Path
) -> None:
    """Many readers with a good token read a long answer a few bytes a second, longer than any
    worker would wait: calls of workers go through all the while, and a stock worker ends its work
    in order.
    """
    before, memory = files(shipped), shipped.peak_memory()
    (tmp_path / "out").mkdir()
    netrc = write_netrc(tmp_path / "netrc", shipped.token("worker"))
    words = [
        "--module",
        "steady",
        "Layer",
        "--layer",
        "0",
        "--number",
        "0",
        "--run-name",
        "slow",
        "--directory",
        str(tmp_path / "out"),
    ]
    with (
        bystanders(shipped) as others,
        attack(
            shipped, "X", READERS, "-k", "3", target=as_viewer(shipped), seconds=120
        ) as attacker,
    ):
        until(lambda: files(shipped) >= before + READERS, "the attack holds its connections")
        worker = Worker(
            tmp_path / "worker", shipped.url, words, ca=shipped.directory / "ca.pem", netrc=netrc
        )
        assert worker.wait() == 0, worker.text()[-3000:]
        assert worker.summary()["ran successfully"] == worker.summary()["scheduled"]
        others.until_served(20)
        assert attacker.poll() is None
        assert files(shipped) >= before + 8, "slow readers are still there"
    until(lambda: files(shipped) <= before + 20, "the attackers' connections are closed")
    assert shipped.peak_memory() - memory < GROWTH


@pytest.mark.parametrize(
    "mode", ["H", "B", "R", "X"], ids=["slow headers", "slow body", "ranges", "slow read"]
)
def test_attackers_are_cut_and_others_are_served(short: Attacked, mode: str) -> None:
    """In every mode: nobody else's call fails, the deadlines end the attack, and its connections
    and memory are given back.
    """
    before, memory = files(short), short.peak_memory()
    words = {"X": ["-k", "3"], "R": ["-a", "1", "-b", "3000"]}.get(mode, [])
    target = as_viewer(short) if mode in "RX" else "/api/task_list"
    count = ATTACKERS if mode != "X" else READERS
    if mode != "R":  # whose attackers do all they said they would, and are answered
        short.owed.update({"client-gone": 1} if mode == "X" else {"request-timeout": count - 10})
    with bystanders(short) as others, attack(short, mode, count, *words, target=target) as attacker:
        if mode == "R":  # each asks once and goes
            attacker.wait(TEST_SECONDS)
        else:
            until(lambda: files(short) >= before + count, "the attack holds its connections")
            others.until_served()
        until(
            lambda: files(short) <= before + 20,
            "the attackers' connections are closed, though the attackers would hold them",
        )
        others.until_served()
    assert short.peak_memory() - memory < GROWTH
