"""Reads logs while they are written: in order, streaming, and resumable at any record.

A `Position` (segment, offset) is the place after a record. It stays valid when the segment is
compressed, since offsets count uncompressed bytes: a shipper saves the position of what it has
delivered and starts there again. A last line without LF is still being written and is not read.

Trusts what it reads: `callgate audit verify` is what checks a log.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.audit.format.layout import logs, segments
from proxy.audit.format.segment_file import last_lines, open_readable
from proxy.audit.reading.records import AnyRecord, parse_record


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two records of a log: `offset` uncompressed bytes into segment `segment`."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One record as found: its log, the position after it, its line without LF, and its value."""

    log: str
    after: Position
    raw: bytes
    record: AnyRecord

    @property
    def time(self) -> str:
        """The record's time as text, which sorts as time does; empty if it has none."""
        return self.record.time


def read_log(
    directory: Path,
    start: Position | None = None,
    predicate: Callable[[bytes], bool] | None = None,
) -> Iterator[LogEntry]:
    """Yield the records of one log, from `start` (or its beginning) to its present end.

    With `predicate`, only the lines that it accepts are decoded and given.
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
                if predicate is not None and not predicate(raw):
                    continue
                text = raw[:-1]
                yield LogEntry(directory.name, Position(number, offset), text, parse_record(text))


def read_all(
    directory: Path, only: Iterable[str] = (), predicate: Callable[[bytes], bool] | None = None
) -> Iterator[LogEntry]:
    """Yield the records of all logs of an audit directory (or those in `only`), merged by time.

    Each log stays in its own order.
    """
    wanted = set(only)
    streams = [
        read_log(path, None, predicate)
        for name, path in logs(directory).items()
        if not wanted or name in wanted
    ]
    return heapq.merge(*streams, key=lambda entry: entry.time)


def last_entries(directory: Path, count: int) -> list[LogEntry]:
    """Return the last `count` records over all logs, by time, reading little before them."""
    found = [entry for path in logs(directory).values() for entry in _last_of(path, count)]
    found.sort(key=lambda entry: entry.time)
    return found[-count:] if count else []


def last_entries_of_segment(log: str, number: int, path: Path, count: int) -> list[LogEntry]:
    """Return up to `count` complete records from the end of a segment."""
    return [
        LogEntry(log, Position(number, offset), line, parse_record(line))
        for offset, line in last_lines(path, count)
    ]


class LogFollower:
    """Gives what has been written since its last poll, across rotation, new logs, compression."""

    def __init__(self, directory: Path) -> None:
        """Start at the present end of every log, and at the beginning of logs to come."""
        self._directory = directory
        self._positions = (
            {name: _end(path) for name, path in logs(directory).items()}
            if directory.is_dir()
            else {}
        )

    def poll(self) -> list[LogEntry]:
        """Return the new records of all logs, by time."""
        found = []
        for name, path in logs(self._directory).items() if self._directory.is_dir() else ():
            for entry in read_log(path, self._positions.get(name)):
                self._positions[name] = entry.after
                found.append(entry)
        found.sort(key=lambda entry: entry.time)
        return found


def _end(directory: Path) -> Position:
    entries = _last_of(directory, 1)
    return entries[-1].after if entries else Position()


def _last_of(directory: Path, count: int) -> list[LogEntry]:
    entries: list[LogEntry] = []
    for number, path in reversed(segments(directory).items()):
        entries[:0] = last_entries_of_segment(directory.name, number, path, count - len(entries))
        if len(entries) >= count:
            break
    return entries
