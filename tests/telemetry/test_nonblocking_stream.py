"""A stream whose reader stalls, dies or never existed."""

import fcntl
import io
import json
import os
import pty
import select
import socket
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, cast

import pytest
import structlog

from proxy.telemetry.logging import configure_logging
from proxy.telemetry.nonblocking_stream import NonBlockingStream

Ends = tuple[int, int]
"""The descriptors of the reading and the writing end."""


def make_pipe() -> Ends:
    """A small pipe, as in `callgate serve 2>&1 | less`."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    return reader, writer


def make_socket() -> Ends:
    """A socket, as systemd's journal gives."""
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def make_terminal() -> Ends:
    """A terminal, as after Ctrl-S."""
    reader, writer = pty.openpty()
    tty.setraw(writer)
    return reader, writer


@pytest.fixture(params=[make_pipe, make_socket, make_terminal])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Two ends, of which the reading one is never read."""
    make: Callable[[], Ends] = request.param
    reader, writer = make()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def fill(stream: NonBlockingStream) -> list[str]:
    """Write lines of different lengths until three in a row are dropped; return the others."""
    written: list[str] = []
    for number in range(10_000):
        line = f"{number:05} {'.' * (number % 700)}"
        stream.write(f"{line}\n")
        if stream.dropped == 3:
            return written
        if not stream.dropped:
            written.append(line)
    raise AssertionError("no line was dropped")


def read(fd: int) -> str:
    """Return all that can be read now."""
    parts = []
    patience = 0.5 if os.isatty(fd) else 0.0  # a terminal needs some time
    while select.select([fd], [], [], patience)[0]:
        parts.append(os.read(fd, 65_536))
    return b"".join(parts).decode()


def test_a_stalled_reader_does_not_block(ends: Ends) -> None:
    """Complete lines are dropped, and a line that was begun is finished before another.

    The blocking mode of the descriptor, which other processes share, does not change.
    """
    reader, writer = ends
    with os.fdopen(writer, "w", closefd=False) as given:
        stream = NonBlockingStream(given)
        written = fill(stream)
        text = read(reader)
        stream.write("next\n")
        assert stream.dropped == 0
        stream.flush()
        lines = (text + read(reader)).splitlines()
        assert lines == [*written, "next"]
        assert os.get_blocking(writer)


def test_the_number_of_dropped_lines_is_logged_once(ends: Ends) -> None:
    """The first event that can be written again has the number as `lines_lost`."""
    reader, writer = ends
    with os.fdopen(writer, "w", closefd=False) as given:
        stream = NonBlockingStream(given)
        configure_logging("info", "json", cast(TextIO, stream))
        log = structlog.get_logger()
        numbers = iter(range(20_000))
        while stream.dropped < 5:
            log.info("denied", number=next(numbers))
        text = read(reader)
        log.info("after")
        log.info("later")
        events = [json.loads(line) for line in (text + read(reader)).splitlines()]
    assert [(event["event"], event.get("lines_lost")) for event in events[-2:]] == [
        ("after", 5),
        ("later", None),
    ]


def test_a_pipe_that_cannot_be_reopened_is_polled_before_each_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pipe of another user gets at most PIPE_BUF bytes a write, and nothing while it is full."""

    def refuse(*_: object) -> int:
        raise PermissionError

    reader, writer = make_pipe()
    with os.fdopen(writer, "w") as given, monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        stream = NonBlockingStream(given)
        written = fill(stream)
        text = read(reader)
        stream.flush()
        text += read(reader)
        assert text.splitlines() == written
        stream.write("x" * 6000 + "\n")
        assert read(reader) == "x" * select.PIPE_BUF
        stream.write("next\n")
        assert read(reader) == "x" * (6000 - select.PIPE_BUF) + "\nnext\n"
    os.close(reader)


def test_a_dead_reader_drops_lines() -> None:
    """EPIPE raises nothing, also if there was no reader from the start."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as given:
        before = NonBlockingStream(given)
        os.close(reader)
        for stream in (before, NonBlockingStream(given)):
            assert stream.write("line\n") == 5
            assert stream.dropped == 1


@pytest.mark.parametrize("make", [io.StringIO, None])
def test_files_get_every_line(tmp_path: Path, make: Callable[[], TextIO] | None) -> None:
    """A file, and a stream without a descriptor, get every line after what was written before."""
    with (tmp_path / "log").open("w+") if make is None else make() as given:
        given.write("before\n")
        stream = NonBlockingStream(given)
        stream.write("line\n")
        stream.write("\ud800\n")  # not encodable
        stream.flush()
        assert stream.dropped == (make is None)
        given.seek(0)
        assert given.read().startswith("before\nline\n")
