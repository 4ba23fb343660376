"""Reads logs while they are written: in order, streaming, and resumable at any record.

A `Position` (log, segment, offset) names the place after a record; it stays good when the segment
is compressed, since offsets count uncompressed bytes. A shipper keeps the position of what it has
delivered and starts there again. A last line without LF is still being written and is left for
later. The reader believes what it reads: `callgate audit verify` is what checks it.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.audit.format.layout import logs, segments
from proxy.audit.format.segment_file import last_lines, open_readable


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two records of a log: `offset` bytes (uncompressed) into segment number
    `segment`.
    """

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One record as found: which log it is of, where it ends (to go on from there), its raw line
    and its members.

    A line that is no JSON object has the single member ``stage`` = ``unreadable``.
    """

    log: str
    after: Position
    raw: bytes
    record: dict[str, Any]

    @property
    def time(self) -> str:
        """The record's time as text (it sorts as time does), or nothing."""
        return str(self.record.get("time", ""))


def parse(raw: bytes) -> dict[str, Any]:
    """Return a line's members."""
    try:
        record = orjson.loads(raw)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"stage": "unreadable"}


def read_log(
    directory: Path, start: Position | None = None, sift: Callable[[bytes], bool] | None = None
) -> Iterator[LogEntry]:
    """Read one log from `start` (its beginning) to where it ends now; with `sift`, only the lines
    it says yes to are parsed and given.
    """
    start = start or Position()
    for number, path in segments(directory).items():
        if number < start.segment:
            continue
        offset = start.offset if number == start.segment else 0
        with open_readable(path) as lines:
            lines.seek(offset)
            for raw in lines:
                if not raw.endswith(b"\n"):
                    break
                offset += len(raw)
                if sift is not None and not sift(raw):
                    continue
                text = raw[:-1]
                yield LogEntry(directory.name, Position(number, offset), text, parse(text))


def read_all(
    directory: Path, only: Iterable[str] = (), sift: Callable[[bytes], bool] | None = None
) -> Iterator[LogEntry]:
    """Read all logs of an audit directory (or those named), merged by time; each log stays in its
    own order.
    """
    wanted = set(only)
    streams = [
        read_log(path, None, sift)
        for name, path in logs(directory).items()
        if not wanted or name in wanted
    ]
    return heapq.merge(*streams, key=lambda item: item.time)


def last_entries(directory: Path, count: int) -> list[LogEntry]:
    """Return the last `count` records over all logs, by time, without reading what comes before
    them.
    """
    found = [item for path in logs(directory).values() for item in _last_of(path, count)]
    found.sort(key=lambda item: item.time)
    return found[-count:] if count else []


class LogFollower:
    """Gives what has been written since it last looked, across rotation, new logs and compression."""

    def __init__(self, directory: Path) -> None:
        """Start at the present end of every log; a log that appears later is read from its
        beginning.
        """
        self._directory = directory
        self._at = (
            {name: _end(path) for name, path in logs(directory).items()}
            if directory.is_dir()
            else {}
        )

    def poll(self) -> list[LogEntry]:
        """Return the new records of all logs, by time."""
        found = []
        for name, path in logs(self._directory).items() if self._directory.is_dir() else ():
            for item in read_log(path, self._at.get(name)):
                self._at[name] = item.after
                found.append(item)
        found.sort(key=lambda item: item.time)
        return found


def _end(directory: Path) -> Position:
    items = _last_of(directory, 1)
    return items[-1].after if items else Position()


def _last_of(directory: Path, count: int) -> list[LogEntry]:
    items: list[LogEntry] = []
    for number, path in reversed(segments(directory).items()):
        items[:0] = last_entries_of_segment(directory.name, number, path, count - len(items))
        if len(items) >= count:
            break
    return items


def last_entries_of_segment(log: str, number: int, path: Path, count: int) -> list[LogEntry]:
    """Return up to `count` whole lines from the end of a segment."""
    return [
        LogEntry(log, Position(number, offset), text, parse(text))
        for offset, text in last_lines(path, count)
    ]
