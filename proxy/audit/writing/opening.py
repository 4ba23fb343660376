"""The first steps of a process that opens a log: the lock, and the records it begins with."""

import fcntl
import os
from pathlib import Path

from proxy.audit.format.record import encode_completed, encode_event
from proxy.audit.redaction.redactor import Json
from proxy.audit.writing.entry import Entry, EntryKind
from proxy.audit.writing.recovery import LogState
from proxy.errors import ConfigError, Problem

_LOCK = ".lock"


class LogInUseError(ConfigError):
    """Another process writes this log; a log of another name in the directory may be free."""


def lock_log(log: Path) -> int:
    """Lock a log for this process and return the descriptor of the lock.

    Raises:
        LogInUseError: another process has it.

    """
    fd = os.open(log / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        hint = "Give each process an instance name of its own."
        raise LogInUseError(
            [Problem(str(log), "another process is writing this log", hint)]
        ) from None
    return fd


def opening_entries(state: LogState, software: str, micros: int) -> list[Entry]:
    """Return the first entries of a process: ``opened``, and the ends of calls left open."""
    recovered: Json = None
    if state.torn_bytes or state.open:
        recovered = {"torn_bytes": state.torn_bytes, "unknown": len(state.open)}
    opened = encode_event(
        "opened", {"software": software, "pid": os.getpid(), "recovered": recovered}
    )
    closing = [unknown_outcome(micros, seq, call_id) for seq, call_id in sorted(state.open.items())]
    return [Entry(micros, opened), *closing]


def unknown_outcome(micros: int, seq: int, call_id: str) -> Entry:
    """Return the entry that closes an open call whose outcome is not known."""
    body = encode_completed(call_id, seq, "unknown", 0, 0, 0)
    return Entry(micros, body, EntryKind.CLOSES, seq=seq)
