"""The first steps of a process that opens a log: its name, its lock and its first records."""

import fcntl
import os
import re
from pathlib import Path
from typing import Final

from proxy.audit.format.record import encode_completed, encode_event
from proxy.audit.redaction.redactor import Json
from proxy.audit.writing.entry import Entry, EntryKind
from proxy.audit.writing.recovery import LogState
from proxy.audit.writing.refused_calls import NOTHING_UNREPORTED, Unreported
from proxy.errors import ConfigError, Problem

_LOCK: Final = ".lock"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


class LogInUseError(ConfigError):
    """Another process writes this log; a log of another name in the directory may be free."""


def check_origin_name(prefix: str, name: str) -> None:
    """Raise ConfigError unless ``<prefix>/<name>`` can be the origin name of a log."""
    if not _NAME.fullmatch(name) or not _ORIGIN_PREFIX.fullmatch(prefix):
        what = f"{prefix!r}/{name!r} is not a name of a log"
        raise ConfigError([Problem("audit", what, "Use letters, digits, '.', '_' and '-'.")])


def unwritable_log(log: Path, error: OSError) -> ConfigError:
    """Return the error for a log that cannot be opened."""
    why = os.strerror(error.errno) if error.errno else type(error).__name__
    hint = "Free or repair the disk, or correct the directory's owner."
    return ConfigError([Problem(str(log), f"the audit log cannot be written: {why}", hint)])


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


def opening_entries(
    state: LogState, software: str, micros: int, unreported: Unreported = NOTHING_UNREPORTED
) -> list[Entry]:
    """Return the first entries of a process.

    They are ``opened``, the ends of calls left open, and a ``gap`` for what the process before it
    refused and could not report.
    """
    recovered: Json = None
    if state.torn_bytes or state.open:
        recovered = {"torn_bytes": state.torn_bytes, "unknown": len(state.open)}
    opened = encode_event(
        "opened", {"software": software, "pid": os.getpid(), "recovered": recovered}
    )
    closing = [unknown_outcome(micros, seq, call_id) for seq, call_id in sorted(state.open.items())]
    return [Entry(micros, opened), *closing, *unreported.entries(micros)]


def unknown_outcome(micros: int, seq: int, call_id: str) -> Entry:
    """Return the entry that closes an open call whose outcome is not known."""
    body = encode_completed(call_id, seq, "unknown", 0, 0, 0)
    return Entry(micros, body, EntryKind.CLOSES, seq=seq)
