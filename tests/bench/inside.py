"""Callgate with an observer in it: ``python -m tests.bench.inside OUT [sample] [nowhere] --config
…``.

It runs the gate of a serving process as ``callgate serve`` does, without the supervisor around it.
Each SIGUSR2 writes what was observed since the one before to OUT, as JSON: the samples, the
journal's records and commits.

``sample``: a timer ticks for every millisecond of CPU time of the process. On a tick the stack of
the main thread is noted, with the CPU time that thread used since the tick before as its weight, so
that the journal's thread does not distort the figures. A tick that falls into C code is seen when
Python runs next: the time of a C function counts for the line that called it, and what the event
loop did between two callbacks (polling, reading and writing sockets) counts as the event loop.

``nowhere``: the journal does all it does but for the two operations of
`proxy.audit.writing.disk.Disk`, which do nothing.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

from tests.support.paths import ROOT

INTERVAL = 0.001  # seconds of CPU time
LOOP = "(event loop)"
_ROOT = str(ROOT) + "/"


class Sampler:
    """The samples of this process since the last `take`."""

    def __init__(self) -> None:
        """Nothing ticks before `start`."""
        self._last = 0
        self._tables: dict[str, Counter[str]] = {
            "own": Counter(),
            "within": Counter(),
            "leaf": Counter(),
        }
        self._names: dict[CodeType, str] = {}

    def start(self) -> None:
        """Begin."""
        signal.signal(signal.SIGPROF, self._tick)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def take(self) -> dict[str, Counter[str]]:
        """The samples, in nanoseconds of the main thread by frame; they begin anew."""
        taken, self._tables = self._tables, {name: Counter() for name in self._tables}
        self._last = time.thread_time_ns()
        return taken

    def _tick(self, _number: int, frame: FrameType | None) -> None:
        now = time.thread_time_ns()
        spent, self._last = now - self._last, now
        # it has not run yet: what came before it did
        fresh = frame is not None and frame.f_lasti <= _first(frame.f_code)
        own, leaf = "", LOOP if frame is None else self._name(frame.f_code)
        seen = set()
        while frame is not None:
            name = self._name(frame.f_code)
            if name.startswith("proxy/"):
                own = own or name
                seen.add(name)
            frame = frame.f_back
        if fresh and len(seen) <= 1:
            own, leaf, seen = LOOP, f"{LOOP} before {leaf}", set()
        self._tables["own"][own or LOOP] += spent
        self._tables["leaf"][leaf] += spent
        for name in seen:
            self._tables["within"][name] += spent

    def _name(self, code: CodeType) -> str:
        name = self._names.get(code)
        if name is None:
            name = self._names[code] = f"{code.co_filename.removeprefix(_ROOT)} {code.co_qualname}"
        return name


def _first(code: CodeType) -> int:
    """The offset in bytes up to which a frame has not run a line of its own: RESUME, and what makes
    cells and generators.
    """
    return 2 * (4 + len(code.co_cellvars) + (1 if code.co_freevars else 0))


class NoFlush:
    """A flusher that has nothing to flush: done as soon as it was asked."""

    def __init__(self) -> None:
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor that says when a flush is over."""
        return self._event_fd

    def start(self, fd: int) -> None:
        """It is over."""
        os.eventfd_write(self._event_fd, 1)

    def finish(self) -> None:
        """Nothing came of it."""
        os.eventfd_read(self._event_fd)

    def close(self) -> None:
        """End."""
        os.close(self._event_fd)


def main() -> None:
    """Run the gate, observed."""
    out, *flags, _option, config = sys.argv[1:]
    import uvloop

    from proxy.audit.writing.disk import Disk
    from proxy.audit.writing.journal import Journal
    from proxy.config.loading import load_settings
    from proxy.runtime import process as app
    from proxy.runtime import wiring
    from proxy.telemetry.logging import configure_logging
    from tests.bench import fast_paths

    fast_paths.switch_off(os.environ.get(fast_paths.ENVIRONMENT, ""))
    journals: list[Journal] = []
    before = [0, 0]
    opened = Journal.open

    def open_journal(*given: Any, **named: Any) -> Journal:
        if "nowhere" in flags:
            # Segments of no end: rotating would compress files that hold nothing.
            disk = Disk(lambda _fd, data: len(data), lambda _fd: None, lambda _fd: NoFlush())
            named |= {"disk": disk, "segment_bytes": 1 << 50}
        journals.append(opened(*given, **named))
        return journals[-1]

    # The wiring opens its journal by this name.
    setattr(wiring, "Journal", SimpleNamespace(open=open_journal))  # noqa: B010  (a double)
    sampler = Sampler()

    def write(_number: int, _frame: FrameType | None) -> None:
        now = [journals[-1].size, journals[-1].commits]
        found = {
            "samples": sampler.take(),
            "records": now[0] - before[0],
            "commits": now[1] - before[1],
        }
        before[:] = now
        temporary = Path(out).with_suffix(".part")
        temporary.write_text(json.dumps(found))
        temporary.rename(out)

    signal.signal(signal.SIGUSR2, write)
    settings = load_settings(Path(config))
    configure_logging(settings.log.level, settings.log.format)
    if "sample" in flags:
        sampler.start()
    uvloop.run(app.run(settings))


if __name__ == "__main__":
    main()
