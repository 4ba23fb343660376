"""A text stream that never raises and never blocks, for the operator's log.

The reader of a log may have died or stalled (a pager, a terminal after Ctrl-S, a hung collector),
and its disk may be full. A line that cannot be written at once is dropped and counted. The log
serves the operator only: what has to be durable is in the audit journal.
"""

import os
import select
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TextIO, TypeAlias

_Put: TypeAlias = Callable[[bytes], int]
"""Writes as many bytes as fit and returns their number; raises `OSError` (`BlockingIOError`)."""


class NonBlockingStream:
    """A text stream over another one, whose `write` neither raises nor blocks.

    The exception is a regular file: a write takes as long as its disk.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`.

        `dropped` counts the writes (one a line, as a rule) that failed since the last success.
        """
        self._stream = stream
        with suppress(OSError, ValueError):
            stream.flush()
        self._put = _open_nonblocking(stream)
        # The unwritten end of the last line; no other line is written before it.
        self._rest = b""
        self.dropped = 0

    def write(self, text: str) -> int:
        """Write `text`, or drop it if that is not possible now."""
        try:
            if self._put is None:
                self._stream.write(text)
            else:
                self._put_rest(self._put)
                data = text.encode("utf-8", "backslashreplace")
                self._rest = data[self._put(data) :]
            self.dropped = 0
        except (OSError, ValueError):
            self.dropped += 1
        return len(text)

    def flush(self) -> None:
        """Flush, as far as that is possible now."""
        with suppress(OSError, ValueError):
            self._stream.flush()
            if self._put is not None:
                self._put_rest(self._put)

    def _put_rest(self, put: _Put) -> None:
        if self._rest:
            self._rest = self._rest[put(self._rest) :]
            if self._rest:
                raise BlockingIOError

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the underlying stream."""
        return getattr(self._stream, name)


def _open_nonblocking(stream: TextIO) -> _Put | None:
    """Return a non-blocking write to the file descriptor of `stream`.

    None if it has no descriptor, or one that cannot block a writer for long (a regular file).
    O_NONBLOCK belongs to the open file description, which is shared with the process that passed
    the descriptor on (the shell of a terminal, for example). So pipes and terminals are opened once
    more.
    """
    try:
        fd = stream.fileno()
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            return partial(_send, socket.socket(fileno=os.dup(fd)))
    except (OSError, ValueError):
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return None
    try:
        own = os.open(
            f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        )
    except OSError:  # a pipe or terminal of another user
        return partial(_write_small, fd)
    return partial(os.write, own)


def _send(to: socket.socket, data: bytes) -> int:
    return to.send(data, socket.MSG_DONTWAIT)


def _write_small(fd: int, data: bytes) -> int:
    """Write at most PIPE_BUF bytes.

    A pipe that is ready takes that many without blocking (pipe(7)), unless another process fills it
    at the same moment.
    """
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    if not ready.poll(0):
        raise BlockingIOError
    return os.write(fd, data[: select.PIPE_BUF])
