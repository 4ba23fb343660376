"""The serving process's side: hands jobs to the fork server's processes, and takes the results.

At most `MAX_JOBS` run at a time, one of each principal, and the principals take turns.
"""

import asyncio
import contextlib
import io
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from proxy.edge.upstream.fair_semaphore import FairSemaphore
from proxy.errors import Unavailable
from proxy.gate.ports import Prepared
from proxy.model import (
    Call,
    Principal,
    Reason,
    Request,
    Response,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.protocol.codec import Result
from proxy.protocol.refusal import Refusal
from proxy.runtime.event_loop import fork_server, messages
from proxy.runtime.event_loop.large_call_handler import (
    AnswerJob,
    Done,
    EncodeJob,
    Failure,
    Job,
    LargeCallHandler,
    PrepareJob,
    RenderJob,
)

# Jobs in progress: one more than a processor is no faster, and takes its memory.
MAX_JOBS = 2
# Jobs that wait for their turn, half of them of one principal, and how many seconds.
_MAX_WAITING = 64
_WAIT_SECONDS = 30.0
# Bytes that are read at once.
_PIECE_BYTES = 262_144
# Seconds for one job, its CPU time and the waiting for a processor included.
_JOB_SECONDS = 60.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class LargeCallProcesses:
    """A port of the gate (`proxy.gate.ports.LargeCalls`): a process for each large call."""

    def __init__(self, make_handler: Callable[[], LargeCallHandler]) -> None:
        """Fork the server. The caller must run no threads.

        `make_handler` makes what handles the jobs, in that process.
        """
        self._pid, self._control = fork_server.start(make_handler)
        self._jobs = FairSemaphore(
            MAX_JOBS,
            per_principal=1,
            max_waiters=_MAX_WAITING,
            timeout=_WAIT_SECONDS,
            refusal=lambda: _unavailable("too many large calls wait"),
        )
        # Jobs that were done, and jobs whose process ended without a result.
        self.done = 0
        self.failed = 0

    def close(self) -> None:
        """End the server. Jobs in progress end by themselves."""
        if self._control.fileno() < 0:
            return
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    async def prepare(self, request: Request, principal: Principal) -> Prepared:
        """Return the calls in a large request, decided. Raises `Rejected` as decoding does."""
        result = await self._do(PrepareJob(_without_connection(request), principal), principal)
        assert isinstance(result, Prepared), "the result of this job"
        return result

    async def encode_without(
        self, request: Request, principal: Principal, index: int, dropped: Sequence[str]
    ) -> UpstreamRequest:
        """Return the call at `index` in a large request, without the arguments `dropped`."""
        job = EncodeJob(_without_connection(request), principal, index, tuple(dropped))
        result = await self._do(job, principal)
        assert isinstance(result, UpstreamRequest), "the result of this job"
        return result

    async def answer(
        self, request: Request, call: Call, principal: Principal, response: UpstreamResponse
    ) -> Response:
        """Return the upstream's large response to `call` as `Codec.answer` does."""
        job = AnswerJob(_without_body(request), call, principal, response)
        result = await self._do(job, principal, sent=True)
        assert isinstance(result, Response), "the result of this job"
        return result

    async def render_batch(
        self, request: Request, principal: Principal, results: Sequence[Result | Refusal]
    ) -> Response:
        """Return the large response to a batch as `Codec.render_batch` does."""
        job = RenderJob(_without_body(request), tuple(results))
        result = await self._do(job, principal, sent=True)
        assert isinstance(result, Response), "the result of this job"
        return result

    async def _do(self, job: Job, principal: Principal, *, sent: bool = False) -> Done:
        """Return the result of a job. `sent` is whether the upstream may have acted before it."""
        holder = await self._jobs.acquire(self._jobs.request(principal.name))
        try:
            async with asyncio.timeout(_JOB_SECONDS):
                result = await self._exchange(job)
        except (OSError, EOFError) as error:  # a `TimeoutError` is an OSError
            self.failed += 1
            _log.error("large call failed", error=type(error).__name__, job=type(job).__name__)
            raise _unavailable("the process of a large call has ended", sent=sent) from None
        finally:
            self._jobs.release(holder)
        self.done += 1
        if isinstance(result, Failure):
            result.raise_it()
        return result  # type: ignore[return-value]  # a failure was raised

    async def _exchange(self, job: Job) -> Done | Failure:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                socket.send_fds(self._control, [b"j"], [theirs.fileno()])
            for part in messages.encode(job):
                await loop.sock_sendall(ours, part)
            count = await _receive(loop, ours, messages.COUNT_BYTES)
            lengths = await _receive(loop, ours, messages.lengths_size(count))
            parts = [await _receive(loop, ours, size) for size in messages.read_lengths(lengths)]
        result: Done | Failure = messages.decode(parts)
        return result


def _without_connection(request: Request) -> Request:
    """Return `request` with what can be sent to another process."""
    return replace(request, headers=dict(request.headers), on_claimed=None)


def _without_body(request: Request) -> Request:
    return replace(request, headers={}, body=b"", on_claimed=None)


async def _receive(loop: asyncio.AbstractEventLoop, connection: socket.socket, size: int) -> bytes:
    """Return the next `size` bytes. Raises `EOFError` when there are fewer."""
    data = io.BytesIO()  # gives its bytes away without a copy, which could take 20 ms
    while size:
        part = await loop.sock_recv(connection, min(size, _PIECE_BYTES))
        if not part:
            raise EOFError
        data.write(part)
        size -= len(part)
    return data.getvalue()


def _unavailable(detail: str, *, sent: bool = False) -> Unavailable:
    return Unavailable(Reason.OVERLOADED, detail, retry_after=1, sent=sent)
