"""Processes of large calls: results, refusals, crashes, turns, and an event loop that goes on."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.errors import Rejected, Unavailable
from proxy.gate.ports import Prepared
from proxy.model import Batch, Call, Peer, Principal, Reason, Request, Response, UpstreamResponse
from proxy.runtime.event_loop.large_call_handler import (
    AnswerJob,
    Failure,
    Job,
    LargeCallHandler,
    PrepareJob,
)
from proxy.runtime.event_loop.large_calls import MAX_JOBS, LargeCallProcesses
from tests.support.wait import until

ANN = Principal("https://idp", "idp", "ann", ("worker",))
BOB = Principal("https://idp", "idp", "bob", ("worker",))
CALL = Call("luigi", "luigi", "ping", "work", {})
Handle = Callable[[Job], object]
Make = Callable[[Handle], LargeCallProcesses]


def request(body: bytes = b"", path: str = "/api/ping") -> Request:
    """Make a request."""
    return Request("R1", "POST", path, None, {b"a": b"b"}, body, Peer("::1", 1, None, ""))


class _Handler:
    def __init__(self, handle: Handle) -> None:
        self.handle = handle


@pytest.fixture
def make() -> Iterator[Make]:
    """Return a function that starts processes which handle jobs by a function."""
    made: list[LargeCallProcesses] = []

    def start(handle: Handle) -> LargeCallProcesses:
        made.append(LargeCallProcesses(lambda: cast(LargeCallHandler, _Handler(handle))))
        return made[-1]

    yield start
    for each in made:
        each.close()
        each.close()


def prepared(*calls: Call) -> Prepared:
    """Make a result."""
    return Prepared(Batch(calls, True, False), ())


async def test_a_job_is_done_in_a_process_of_its_own(make: Make) -> None:
    """Each has another process, and none is the serving one or its server."""
    pids = []

    def handle(job: Job) -> object:
        assert isinstance(job, PrepareJob)
        return prepared(Call("u", "luigi", f"{os.getpid()} {len(job.request.body)}", "work", {}))

    processes = make(handle)
    for _ in range(2):
        result = await processes.prepare(request(b"x" * 3_000_000), ANN)
        pid, size = result.batch.calls[0].method.split()
        assert size == "3000000"
        pids.append(int(pid))
    assert len({*pids, os.getpid(), processes._pid}) == 4
    assert (processes.done, processes.failed) == (2, 0)
    await until(lambda: not Path(f"/proc/{pids[0]}").exists())


async def test_answers_and_batches_come_back_whole(make: Make) -> None:
    """However large."""
    body = os.urandom(2_000_000)

    def handle(job: Job) -> object:
        given = job.response.body if isinstance(job, AnswerJob) else b"batch"
        return Response(200, given + b"!")

    processes = make(handle)
    answer = UpstreamResponse(200, {b"content-type": b"text/xml"}, body)
    assert (await processes.answer(request(), CALL, ANN, answer)).body == body + b"!"
    assert (await processes.render_batch(request(b"x"), ANN, [1, "x"])).body == b"batch!"


@pytest.mark.parametrize("sent", [None, True, False])
async def test_a_refusal_is_raised_as_it_was(make: Make, sent: bool | None) -> None:
    """With its reason, detail, and whether the upstream may have acted."""
    processes = make(lambda job: Failure(Reason.CALL_TOO_COMPLEX, "too deep", 7, sent))
    with pytest.raises(Rejected) as caught:
        await processes.prepare(request(), ANN)
    error = caught.value
    assert (error.reason, error.detail, error.retry_after) == (
        Reason.CALL_TOO_COMPLEX,
        "too deep",
        7,
    )
    assert isinstance(error, Unavailable) == (sent is not None)
    assert getattr(error, "sent", None) is sent


async def test_a_process_that_crashes_harms_no_other_call(make: Make) -> None:
    """Killed for want of memory, or by an error: its call is refused, the next one is served."""

    def handle(job: Job) -> object:
        assert isinstance(job, PrepareJob)
        if job.request.body == b"kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.request.body == b"raise":
            raise SystemError
        return prepared()

    processes = make(handle)
    for body in (b"kill", b"raise"):
        with pytest.raises(Unavailable) as caught:
            await processes.prepare(request(body), ANN)
        assert caught.value.reason is Reason.OVERLOADED
        assert not caught.value.sent
        assert (await processes.prepare(request(b""), ANN)).batch.calls == ()
    with pytest.raises(Unavailable) as caught:
        await processes.answer(request(b""), CALL, ANN, UpstreamResponse(200, {}))
    assert caught.value.sent
    assert processes.failed == 3


async def test_a_killed_server_is_started_again(make: Make) -> None:
    """As the kernel kills it for want of memory; calls that come in between are done late."""
    processes = make(lambda job: prepared())
    for _ in range(2):
        [server] = await children(processes._pid)
        os.kill(server, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{server}").exists())  # noqa: B023  (awaited here)
        assert (await processes.prepare(request(), ANN)).batch.calls == ()
    assert (processes.done, processes.failed) == (2, 0)


async def test_without_guard_and_server_a_large_call_is_refused(make: Make) -> None:
    """And nothing hangs."""
    processes = make(lambda job: prepared())
    [server] = await children(processes._pid)
    for pid in (processes._pid, server):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: has_ended(pid))  # noqa: B023  (awaited here)
    with pytest.raises(Unavailable):
        await processes.prepare(request(), ANN)


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, also one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except FileNotFoundError:
        return True


async def children(pid: int) -> list[int]:
    """Return the child processes of a process, once it has any."""

    def found() -> list[int]:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    await until(lambda: bool(found()))
    return found()


async def test_the_loop_runs_while_a_job_does(make: Make, tmp_path: Path) -> None:
    """A job that waits for a thousand turns of the loop would wait forever if it held it."""
    mark = tmp_path / "go"

    def handle(job: Job) -> object:
        while not mark.exists():
            time.sleep(0.001)
        return prepared()

    processes = make(handle)
    job = asyncio.create_task(processes.prepare(request(b"x" * 5_000_000), ANN))
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert not job.done()
    mark.touch()
    await job


async def test_principals_take_turns(make: Make, tmp_path: Path) -> None:
    """One principal has one job at a time, and another's need not wait for all of its jobs."""
    order: list[str] = []

    def handle(job: Job) -> object:
        while not (tmp_path / "go").exists():
            time.sleep(0.001)
        return prepared()

    processes = make(handle)

    async def one(principal: Principal, name: str) -> None:
        await processes.prepare(request(), principal)
        order.append(name)

    jobs = [asyncio.create_task(one(ANN, f"ann {number}")) for number in range(4)]
    await asyncio.sleep(0)
    jobs.append(asyncio.create_task(one(BOB, "bob")))
    await asyncio.sleep(0)
    held: dict[str, Any] = processes._jobs.stats().held
    assert held == {ANN.name: 1, BOB.name: 1}
    assert MAX_JOBS == 2
    (tmp_path / "go").touch()
    await asyncio.gather(*jobs)
    assert order.index("bob") <= 1


async def test_the_server_leaves_what_it_inherits(make: Make, tmp_path: Path) -> None:
    """A log's lock and a listening socket must not outlive their process in a copy."""
    log = tmp_path / "log"
    with log.open("w"):
        processes = make(lambda job: prepared())

    def inherits(pid: int) -> bool:
        try:
            return log in [each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir()]
        except FileNotFoundError:  # closed meanwhile
            return True

    await until(lambda: not inherits(processes._pid))
    [server] = await children(processes._pid)
    assert not inherits(server)
