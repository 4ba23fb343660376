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
"""What is read from, and what is written to."""


def of_a_pipe() -> Ends:
    """As `callgate serve 2>&1 | less` has it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    return reader, writer


def of_a_socket() -> Ends:
    """As systemd's journal has it."""
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def of_a_terminal() -> Ends:
    """As it is after Ctrl-S."""
    reader, writer = pty.openpty()
    tty.setraw(writer)
    return reader, writer


@pytest.fixture(params=[of_a_pipe, of_a_socket, of_a_terminal])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Two ends of which nobody reads the one."""
    make: Callable[[], Ends] = request.param
    reader, writer = make()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def fill(stream: NonBlockingStream) -> list[str]:
    """Write lines of different lengths until three in a row are lost; those that were not."""
    written = []
    for number in range(10_000):
        line = f"{number:05} {'.' * (number % 700)}"
        stream.write(f"{line}\n")
        if stream.dropped == 3:
            return written
        if not stream.dropped:
            written.append(line)
    raise AssertionError("its reader cannot have taken all that")


def read(fd: int) -> str:
    """What is there to be read."""
    parts = []
    while select.select([fd], [], [], 0.5)[0]:  # a terminal passes it on in its own time
        parts.append(os.read(fd, 65_536))
    return b"".join(parts).decode()


def test_whose_reader_stands_still_is_not_waited_for(ends: Ends) -> None:
    """Lines are lost whole, the line that was begun is ended before another, and how others write
    to the same is not changed.
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


def test_what_was_lost_is_said_once(ends: Ends) -> None:
    """The first event that can be written again counts those that could not."""
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


def test_what_cannot_be_opened_once_more_is_looked_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another user's pipe: nothing larger is written than what surely fits, and nothing where there
    is no room.
    """

    def refuse(*_: object) -> int:
        raise PermissionError

    reader, writer = of_a_pipe()
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


def test_a_dead_reader_is_a_loss_like_any_other() -> None:
    """EPIPE ends nobody, also where there was no reader from the first."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as given:
        before = NonBlockingStream(given)
        os.close(reader)
        for stream in (before, NonBlockingStream(given)):
            assert stream.write("line\n") == 5
            assert stream.dropped == 1


@pytest.mark.parametrize("make", [io.StringIO, None])
def test_files_are_written_as_ever(tmp_path: Path, make: Callable[[], TextIO] | None) -> None:
    """A file, and what has no file descriptor, get every line in order, with what had been written
    before.
    """
    with (tmp_path / "log").open("w+") if make is None else make() as given:
        given.write("before\n")
        stream = NonBlockingStream(given)
        stream.write("line\n")
        stream.write("\ud800\n")  # which no file can hold
        stream.flush()
        assert stream.dropped == (make is None)
        given.seek(0)
        assert given.read().startswith("before\nline\n")
