"""The stream that the log is written to: it never fails, and it waits for nobody.

The reader of a log may have died, its disk be full, or it may stand still: a pager, a terminal
after Ctrl-S, a collector that hangs. A line that cannot be written at once is lost and counted,
since the log is for whoever looks after the gate; what has to be kept is in the journal.
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
"""Writes what there is room for and returns how many bytes that were; raises `OSError`, and so
`BlockingIOError`.
"""


class NonBlockingStream:
    """A text stream over another, whose `write` neither fails nor waits. A file is waited for, as
    long as its disk takes.
    """

    def __init__(self, stream: TextIO) -> None:
        """`lost` is how many pieces of text, lines as a rule, could not be written since the last
        that could.
        """
        self._stream = stream
        with suppress(OSError, ValueError):
            stream.flush()
        self._put = _open_nonblocking(stream)
        self._rest = b""  # of a line that was begun: no other may begin before it is whole
        self.dropped = 0

    def write(self, text: str) -> int:
        """Write, if that is possible now."""
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
        """Flush, if that is possible now."""
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
        """Everything else is the stream's own."""
        return getattr(self._stream, name)


def _open_nonblocking(stream: TextIO) -> _Put | None:
    """How to write to the file descriptor of `stream` without waiting; None where nobody can keep a
    writer waiting, or there is none.

    O_NONBLOCK belongs to what is open, not to the process: set on what others gave us, it would be
    theirs as well, such as the shell's in whose terminal this runs. So pipes and terminals are
    opened once more.
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
    except OSError:  # another user's
        return partial(_write_small, fd)
    return partial(os.write, own)


def _send(to: socket.socket, data: bytes) -> int:
    return to.send(data, socket.MSG_DONTWAIT)


def _write_small(fd: int, data: bytes) -> int:
    """Write as much as a pipe surely takes that has room for anything (pipe(7)), if only one
    process writes to it.
    """
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    if not ready.poll(0):
        raise BlockingIOError
    return os.write(fd, data[: select.PIPE_BUF])
