"""Verifies one log in one pass over its records.

1. Its segments are all there, from the first one here.
2. Every line follows from the one before it (`proxy.audit.checking.chain`).
3. Every checkpoint is signed by a known key for this log, and the records have the root that it
   signs.
4. Each sealed segment ends with a checkpoint.
5. A checkpoint saved by an earlier check has the root that the log has at its size.
6. No checkpoint covers more records than there are.

Stops at the first defect.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.audit.checking.chain import Chain, Defect, VerificationError
from proxy.audit.checking.signatures import Keys, checkpoint_signed_by
from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, SEALED_SUFFIX, segment_name, segments
from proxy.audit.format.merkle import leaf_hash
from proxy.audit.format.segment_file import CORRUPT_GZIP_ERRORS, open_segment

Progress = Callable[[int], None]
"""Called with the number of records checked since the last call."""

# Records between two calls of `Progress`: often enough for a bar, too seldom to cost.
PROGRESS_STEP = 4096


@dataclass(slots=True)
class LogReport:
    """What was found in one log.

    `first` is the sequence number of the first record here, `signed` the size of the last signed
    tree, `start` the state at `first` if earlier segments are not here. `broken` is the first
    defect, or None; `segment` is where the check ended.
    """

    log: str
    origin: str = ""
    first: int = 0
    records: int = 0
    segments: int = 0
    checkpoints: int = 0
    signed: int = 0
    first_time: str = ""
    last_time: str = ""
    open: int = 0
    unknown: int = 0
    gaps: int = 0
    ended_in_order: bool = False
    torn_bytes: int = 0
    last: Checkpoint | None = None
    archived: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    start: Chain | None = None
    broken: VerificationError | None = None
    segment: int = 0

    @property
    def unsigned(self) -> int:
        """How many records at the end have no signature yet: what a cut could hide."""
        return self.first + self.records - max(self.signed, self.first)


class LogVerifier:
    """The check of one log. `report` fills while it runs."""

    def __init__(
        self, directory: Path, keys: Keys, saved: Checkpoint | None, progress: Progress | None
    ) -> None:
        self.report = LogReport(directory.name)
        self._directory = directory
        self._keys = keys
        self._saved = saved
        self._progress = progress
        self._chain = Chain()
        self._pending_checkpoints: list[Checkpoint] = []
        self._last_signed_size = 0

    def run(self, only: int | None) -> None:
        """Check the log, or its segment `only`.

        Raises:
            VerificationError: the first defect.

        """
        found = self._segments(only)
        for index, (number, path) in enumerate(found.items()):
            self._check_segment(number, path, first=index == 0, last=index == len(found) - 1)
        if only is None:
            self._check_orphaned_checkpoints(max(found, default=0))
        self._check_end()

    def _segments(self, only: int | None) -> dict[int, Path]:
        """Return the segments to check."""
        found = segments(self._directory)
        if only is not None:
            return {number: path for number, path in found.items() if number == only}
        if self._saved is not None:
            return _not_covered(found, self._saved.size)
        return found

    def _check_segment(self, number: int, path: Path, *, first: bool, last: bool) -> None:
        report, chain = self.report, self._chain
        report.segment = number
        if first:
            self._start(number, path)
        elif number != chain.segment + 1:
            gone = (
                f"segment {chain.segment + 1} is missing, which"
                if number == chain.segment + 2
                else f"segments {chain.segment + 1} to {number - 1} are missing, which"
            )
            text = f"{gone} began with record {chain.tree.size}"
            raise VerificationError(Defect.MISSING, chain.tree.size, text)
        self._read_checkpoints(number)
        self._check_lines(path, last=last)
        self._check_all_signed_roots()
        sealed = not last or path.name.endswith(SEALED_SUFFIX)
        if sealed and (report.last is None or report.last.size != chain.tree.size):
            text = f"segment {number} is sealed, but no checkpoint covers its end"
            raise VerificationError(Defect.SIGNATURE, chain.tree.size - 1, text)
        report.segments += 1

    def _start(self, number: int, path: Path) -> None:
        report, chain = self.report, self._chain
        if number > 1:
            chain.begin_at_header(_first_line(path))
            report.start = Chain(log=chain.log, segment=number, tree=chain.tree.copy())
        report.first = self._last_signed_size = chain.tree.size

    def _read_checkpoints(self, number: int) -> None:
        path = self._directory / f"{segment_name(number)}{CHECKPOINT_SUFFIX}"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        size = self._chain.tree.size
        for index, note in enumerate(split(data), 1):
            # A crash cut it short, or it is being written.
            if data.endswith(note) and note.count(b"\n\n") <= 1:
                self.report.notes.append(f"the last checkpoint of segment {number} is incomplete")
                break
            name = f"checkpoint {index} of segment {number}"
            try:
                found = checkpoint_signed_by(note, self._keys)
            except BadCheckpointError as error:
                raise _bad_checkpoint(f"{name}: {error}") from None
            if self._chain.log and found.origin != self._chain.log:
                raise _bad_checkpoint(f"{name} is of another log, {found.origin}")
            if found.size < size:
                raise _bad_checkpoint(f"{name} does not follow the one before it")
            size = found.size
            self._pending_checkpoints.append(found)

    def _check_lines(self, path: Path, *, last: bool) -> None:
        report, chain, in_segment = self.report, self._chain, False
        for line, following, complete in _lines_with_next(path):
            if not complete:
                if not last:
                    size = chain.tree.size
                    text = f"segment {report.segment} ends in the middle of record {size}"
                    raise VerificationError(Defect.TRUNCATED, size, text)
                report.torn_bytes = len(line)
                break
            if self._pending_checkpoints and self._pending_checkpoints[0].size == chain.tree.size:
                self._check_signed_roots(line, following)
            try:
                record = chain.check_next(line, following)
            except VerificationError as broken:
                raise self._blame(broken, line) from None
            if in_segment == (record["stage"] == "segment"):
                seq = chain.tree.size - 1
                text = f"record {seq}: a segment header is here, or missing here"
                raise VerificationError(Defect.ALTERED, seq, text)
            in_segment = True
            report.records += 1
            report.first_time = report.first_time or str(record["time"])
            report.last_time = str(record["time"])
            if self._progress is not None and report.records % PROGRESS_STEP == 0:
                self._progress(PROGRESS_STEP)
            if self._saved is not None and self._saved.size == chain.tree.size:
                self._check_saved_checkpoint(self._saved)

    def _check_all_signed_roots(self) -> None:
        """Compare the roots at the end of a segment, and report what is known by then."""
        report, chain = self.report, self._chain
        report.origin, report.open = chain.log, len(chain.open)
        report.unknown, report.gaps = chain.unknown, chain.gaps
        report.ended_in_order, report.archived = chain.ended, chain.archived
        self._check_signed_roots(None, None)
        if self._pending_checkpoints:
            size, here = self._pending_checkpoints[0].size, chain.tree.size
            text = (
                f"the log is truncated after record {here - 1}:"
                f" a checkpoint covers {size} records, here are {here}"
            )
            raise VerificationError(Defect.TRUNCATED, here, text)

    def _check_signed_roots(self, line: bytes | None, following: bytes | None) -> None:
        """Compare the tree with the checkpoints of its size; `line` is the next record."""
        chain, report = self._chain, self.report
        while self._pending_checkpoints and self._pending_checkpoints[0].size == chain.tree.size:
            found = self._pending_checkpoints.pop(0)
            if found.origin != chain.log:
                raise _bad_checkpoint(
                    f"a checkpoint of segment {report.segment} is of another log, {found.origin}"
                )
            if found.root != chain.tree.root():
                raise self._wrong_root(line, following)
            self._last_signed_size = report.signed = found.size
            report.last = found
            report.checkpoints += 1

    def _check_saved_checkpoint(self, saved: Checkpoint) -> None:
        if saved.origin != self._chain.log or saved.root != self._chain.tree.root():
            text = f"the first {saved.size} records are not those of the saved checkpoint"
            raise VerificationError(Defect.INCONSISTENT, None, text)

    def _check_orphaned_checkpoints(self, last: int) -> None:
        """Read the checkpoints of segments after `last`: what they cover is gone."""
        for path in sorted(self._directory.glob(f"*{CHECKPOINT_SUFFIX}")):
            stem = path.name.partition(".")[0]
            if stem.isdigit() and int(stem) > last:
                self.report.segment = int(stem)
                self._read_checkpoints(int(stem))
        here, pending = self._chain.tree.size, self._pending_checkpoints
        if pending and pending[-1].size > here:
            text = (
                f"segments after {last} are missing: a checkpoint covers {pending[-1].size}"
                f" records, here are {here}"
            )
            raise VerificationError(Defect.TRUNCATED, here, text)

    def _check_end(self) -> None:
        size = self._chain.tree.size
        if self._chain.ended and self.report.signed != size:
            text = "the log ended in order, but no checkpoint covers its end"
            raise VerificationError(Defect.SIGNATURE, size - 1, text)
        if self._saved is not None and self._saved.size > size:
            text = f"the saved checkpoint covers {self._saved.size} records, here are {size}"
            raise VerificationError(Defect.TRUNCATED, size, text)

    def _wrong_root(self, line: bytes | None, following: bytes | None) -> VerificationError:
        signed, end = self._last_signed_size, self._chain.tree.size - 1
        if line is not None:
            # Raises, if a single altered record explains the root.
            self._chain.check_next(line, following)
            if end > signed:
                text = f"records {signed} to {end} were rewritten: the signed root differs"
                return VerificationError(Defect.ALTERED, signed, text)
        text = f"record {end} was altered (or all since record {signed}): the signed root differs"
        return VerificationError(Defect.ALTERED, end, text)

    def _blame(self, broken: VerificationError, line: bytes) -> VerificationError:
        """Blame this line, not the one before it, if a signed root proves the one before it."""
        chain = self._chain
        if broken.defect is not Defect.ALTERED or broken.seq != chain.tree.size - 1:
            return broken
        if self._last_signed_size == chain.tree.size:
            return chain.this_record_altered()
        tree = chain.tree.copy()
        tree.append(leaf_hash(chain.with_prev_fixed(line)))
        proved = any(
            pending.size == tree.size and pending.root == tree.root()
            for pending in self._pending_checkpoints
        )
        return chain.this_record_altered() if proved else broken


def _not_covered(found: dict[int, Path], size: int) -> dict[int, Path]:
    """Leave out the segments that a checkpoint over `size` records covers completely."""
    begins = {}
    for number, path in found.items():
        chain = Chain()
        chain.begin_at_header(_first_line(path))
        begins[number] = chain.tree.size
    covered = [number for number, begin in begins.items() if begin <= size]
    if not covered and begins:
        text = f"the log begins with record {min(begins.values())}, after the saved checkpoint"
        raise VerificationError(Defect.MISSING, size, text)
    return {number: path for number, path in found.items() if number >= max(covered, default=0)}


def _lines_with_next(path: Path) -> Iterator[tuple[bytes, bytes | None, bool]]:
    """Yield each line, the line after it, and whether it is complete."""
    with open_segment(path) as lines:
        try:
            line = next(lines, None)
            while line is not None:
                following = next(lines, None)
                complete = line.endswith(b"\n")
                yield (
                    line[:-1] if complete else line,
                    following.rstrip(b"\n") if following else None,
                    complete,
                )
                line = following
        except CORRUPT_GZIP_ERRORS as error:
            raise _unreadable(path, error) from None


def _first_line(path: Path) -> bytes:
    """Return a segment's header."""
    try:
        with open_segment(path) as lines:
            return lines.readline().rstrip(b"\n")
    except CORRUPT_GZIP_ERRORS as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> VerificationError:
    text = f"{path.name} cannot be read: {type(error).__name__}"
    return VerificationError(Defect.ALTERED, None, text)


def _bad_checkpoint(text: str) -> VerificationError:
    return VerificationError(Defect.SIGNATURE, None, text)
