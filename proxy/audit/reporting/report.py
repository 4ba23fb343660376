"""Reports for controls: what a report is, and which records it is computed from.

A report names the checkpoints it was computed from, one a log, and uses only the records that they
cover. So anyone with the log and these checkpoints can compute it again.
"""

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, parse, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, logs
from proxy.audit.reading.query import CallRecord


@dataclass(frozen=True, slots=True)
class Section:
    """One table of a report, with preformatted texts (such as differences) below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A report: its subject, its period, the checkpoints it was computed from, and its tables."""

    title: str
    period: str
    basis: tuple[Checkpoint, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = field(default=())

    def facts(self) -> list[tuple[str, str]]:
        """Return the names and texts at its head."""
        basis = [
            ("Computed from", f"{c.origin}, {c.size} records, root {b64encode(c.root).decode()}")
            for c in self.basis
        ]
        return [
            ("Period", self.period),
            *(basis or [("Computed from", "no checkpoint")]),
            *(("Note", note) for note in self.notes),
        ]


def last_checkpoints(directory: Path) -> dict[str, Checkpoint]:
    """Return the newest checkpoint of each log that has one, by instance name."""
    found: dict[str, Checkpoint] = {}
    for name, path in logs(directory).items():
        for file in sorted(path.glob(f"*{CHECKPOINT_SUFFIX}"), reverse=True):
            notes = []
            for note in split(file.read_bytes()):
                try:
                    notes.append(parse(note))
                except BadCheckpointError:
                    break
            if notes:
                found[name] = notes[-1]
                break
    return found


def covered_by(
    calls: Iterable[CallRecord], basis: Mapping[str, Checkpoint]
) -> Iterator[CallRecord]:
    """Yield the calls that the checkpoints cover, without outcomes that they do not cover."""
    for call in calls:
        checkpoint = basis.get(call.log)
        if checkpoint is None or call.decided.seq >= checkpoint.size:
            continue
        if call.completed is None or call.completed.seq < checkpoint.size:
            yield call
        else:
            yield CallRecord(call.log, call.decided, None, call.lines[:1])
