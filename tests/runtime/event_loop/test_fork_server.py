"""The fork server: what it leaves of its parent, and how the processes of jobs end."""

import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.runtime.event_loop import fork_server, messages
from proxy.runtime.event_loop.large_call_handler import LargeCallHandler


class _Echo:
    """Returns what a job says about its process."""

    def handle(self, job: Any) -> object:
        limits = resource.getrlimit(resource.RLIMIT_CPU)
        score = Path("/proc/self/oom_score_adj").read_text().strip()
        handled = signal.getsignal(signal.SIGTERM)
        return (job, os.getpid(), os.nice(0), limits[0], score, handled is signal.SIG_IGN)


def ask(control: socket.socket, job: object) -> Any:
    """Hand over a job and return its result."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            socket.send_fds(control, [b"j"], [theirs.fileno()])
        for part in messages.encode(job):
            ours.sendall(part)
        with ours.makefile("rb") as stream:
            count = stream.read(messages.COUNT_BYTES)
            if not count:
                raise EOFError
            lengths = stream.read(messages.lengths_size(count))
            return messages.decode([stream.read(n) for n in messages.read_lengths(lengths)])


def test_a_job_has_a_process_of_lower_priority_with_a_limit_of_time() -> None:
    """The first to go when memory is short, and none that a signal to the group ends early."""
    pid, control = fork_server.start(lambda: cast(LargeCallHandler, _Echo()))
    with control:
        job, other, niceness, seconds, score, ignores = ask(control, b"x" * 100_000)
        assert job == b"x" * 100_000
        assert other not in (pid, os.getpid())
        assert niceness > os.nice(0)
        assert (seconds, ignores) == (fork_server.CPU_SECONDS, True)
        assert int(score) >= 0
    assert os.waitpid(pid, 0) == (pid, 0)


def test_a_job_that_cannot_be_read_ends_its_own_process_alone() -> None:
    """The next one is done."""
    pid, control = fork_server.start(lambda: cast(LargeCallHandler, _Echo()))
    with control:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(control, [b"j"], [theirs.fileno()])
            theirs.close()
            ours.sendall(b"\0\0")
            ours.shutdown(socket.SHUT_WR)
            assert ours.recv(1) == b""
        assert ask(control, 1)[0] == 1
    os.waitpid(pid, 0)


def test_a_server_that_cannot_be_forked_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And signals are as they were."""

    def fail() -> int:
        raise OSError

    monkeypatch.setattr(os, "fork", fail)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(OSError):
        fork_server.start(lambda: cast(LargeCallHandler, _Echo()))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
