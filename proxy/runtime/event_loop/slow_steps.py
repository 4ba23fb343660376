"""Reports steps of the event loop that took longer than 20 ms, and what ran.

A callback on the loop sets a timer of the kernel, every `_TICK_SECONDS`. While the loop runs steps
as it should, the next callback sets it again before it fires. When a step takes long, the timer
fires in the middle of it: its signal handler notes the task, the request and the function that are
running, and again every `_SAMPLE_SECONDS`. Samples of one task in a row are one step. So an
ordinary call pays for nothing, and many short steps are not taken for a long one.

A signal is handled between two instructions of Python. What runs in C is therefore seen when it is
done, and the time since the timer fired was its own. The time of a step is exact to 3 ms. It is
that of the clock: a step whose CPU time is much less had to wait for a processor, or for the disk.
"""

import asyncio
import signal
from pathlib import Path
from time import monotonic, thread_time
from types import FrameType

import structlog

from proxy.gate.reporting import current_request

LIMIT_SECONDS = 0.02
_TICK_SECONDS = 0.005
_FIRST_SECONDS = 0.006
_SAMPLE_SECONDS = 0.002
# What has passed of a step before the first sample of it, on the average.
_UNSEEN_SECONDS = _FIRST_SECONDS / 2
# Seconds between two lines of the log.
LOG_SECONDS = 10.0
_PACKAGE = str(Path(__file__).parents[3])

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class SlowSteps:
    """The watch over one event loop, which must be the main thread's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        # Slow steps since the start.
        self.count = 0
        self._unlogged = 0
        self._logged_at = -LOG_SECONDS
        # The step that is being sampled: its identity, its beginning and what ran in it.
        self._step: tuple[object, object] | None = None
        self._begun = 0.0
        self._seen: dict[str, str] = {}
        # The CPU time of the thread when the timer was set.
        self._cpu = 0.0
        self._sampling = False
        # When the next sample is due.
        self._due = 0.0

    def start(self) -> None:
        """Watch from now on."""
        signal.signal(signal.SIGALRM, self._sample)
        signal.siginterrupt(signal.SIGALRM, False)
        self._tick()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _tick(self) -> None:
        now = monotonic()
        if self._step is not None:
            self._end(now)
        self._cpu = thread_time()
        self._due = now + _FIRST_SECONDS
        signal.setitimer(signal.ITIMER_REAL, _FIRST_SECONDS, _SAMPLE_SECONDS)
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        """Note what is running. Called in the middle of a step, by the timer's signal."""
        if self._sampling:  # this one took longer than the time to the next
            return
        self._sampling = True
        now = monotonic()
        task = asyncio.current_task(self._loop)
        request = current_request.get(None) if task is not None else None
        step = (task, request)
        if step != self._step:
            # Since the sample was due, nothing else ran: its signal would have been handled there.
            if self._step is not None:
                self._end(self._due)
            self._step, self._begun = step, min(now, self._due)
            self._seen = _describe(task, request, frame)
        self._due = now + _SAMPLE_SECONDS
        self._sampling = False

    def _end(self, now: float) -> None:
        """End the sampled step; count and log it if it was slow."""
        seconds = now - self._begun
        seen, self._step = self._seen, None
        if seconds < LIMIT_SECONDS - _UNSEEN_SECONDS:
            return
        self.count += 1
        self._unlogged += 1
        if now >= self._logged_at + LOG_SECONDS:
            self._logged_at = now
            others, self._unlogged = self._unlogged - 1, 0
            cpu = min(seconds, thread_time() - self._cpu)
            _log.warning(
                "slow step",
                milliseconds=round(seconds * 1000),
                cpu_milliseconds=round(cpu * 1000),
                others=others,
                **seen,
            )


def _describe(
    task: asyncio.Task[object] | None, request: tuple[str, str] | None, frame: FrameType | None
) -> dict[str, str]:
    """Return what is running, for the log: never an argument's value."""
    ref, path = request or ("", "")
    named = {"task": "" if task is None else task.get_name(), "at": _place(frame)}
    return named | ({"ref": ref, "path": path[:128]} if ref else {})


def _place(frame: FrameType | None) -> str:
    """Return the innermost function of ours that is running, such as ``proxy/a.py:decide``."""
    innermost = ""
    while frame is not None:
        name = f"{frame.f_code.co_filename}:{frame.f_code.co_name}"
        innermost = innermost or name.rpartition("/")[2]
        if name.startswith(_PACKAGE):
            return name.removeprefix(_PACKAGE).lstrip("/")
        frame = frame.f_back
    return innermost
