"""Verifies logs offline, from the files and a public key. Shares `format` with the writer only.

One module because its checks share one pass over the records.

For each log: (1) its segments are all there, or a record says where they were moved; (2) every line
follows from the one before (`proxy.audit.checking.chain`); (3) every signed checkpoint is signed by
a known key for this log, and the records have the root it signs; (4) each sealed segment ends with
a checkpoint; (5) a checkpoint kept from an earlier check is the root at its size; (6) no checkpoint
covers more records than there are. The check of a log stops at the first thing wrong.

Two things cannot be seen in the files. Records after the last checkpoint may have been cut off: at
most what was written in about a second, or since the process was killed. The report says how many
records have no signature yet. Records that were removed *with* their checkpoints leave a shorter
log that is intact, or no log. A checkpoint kept elsewhere shows the second, and every later one
bounds the first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.audit.checking.chain import Chain, Defect, VerificationError
from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, check, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, logs, segment_name, segments
from proxy.audit.format.merkle import leaf_hash
from proxy.audit.format.segment_file import CORRUPT_GZIP_ERRORS, open_segment

Progress = Callable[[int], None]
"""Called with the number of records checked since it was last called."""

Keys = Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class LogReport:
    """What was found in one log. `broken` is the first thing wrong, None if nothing is."""

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


def verify_log(
    directory: Path,
    keys: Keys,
    *,
    kept: Checkpoint | None = None,
    only: int | None = None,
    progress: Progress | None = None,
) -> LogReport:
    """Verify one log, or its segment `only`.

    With `kept`, verify what came after that checkpoint, and that it still holds.
    """
    report = LogReport(directory.name)
    try:
        _Check(directory, keys, kept, report, progress).run(only)
    except VerificationError as broken:
        report.broken = broken
    return report


def verify_directory(
    directory: Path,
    keys: Keys,
    *,
    kept: Sequence[Checkpoint] = (),
    operator: Path | None = None,
    progress: Progress | None = None,
) -> list[LogReport]:
    """Check every log of an audit directory, those with a checkpoint in `kept` from there on.

    The beginning of a log may be gone if a record says where to. For one log alone, `operator` is
    the operator's log, which may have that record.
    """
    places = logs(directory)
    # A log whose segments are all gone is known by its checkpoints only.
    if not segments(directory):
        places |= {
            path.parent.name: path.parent for path in directory.glob(f"*/*{CHECKPOINT_SUFFIX}")
        }
    reports = [
        verify_log(path, keys, kept=_of(kept, path), progress=progress)
        for _, path in sorted(places.items())
    ]
    archived = [
        (record["log"], record["size"], record["root"], record)
        for report in reports
        for record in report.archived
    ]
    if operator is not None and operator.is_dir():
        asked = verify_log(operator, keys)
        archived += [
            (record["log"], record["size"], record["root"], record)
            for record in asked.archived
            if asked.broken is None
        ]
    for report in reports:
        if (
            report.start is None
            or _of(kept, directory / report.log) is not None
            or report.broken is not None
        ):
            continue
        tree = report.start.tree
        found = [
            record
            for log, size, root, record in archived
            if (log, size, root) == (report.origin, tree.size, tree.root().hex())
        ]
        if found:
            report.notes.append(f"records 0 to {tree.size - 1} were archived to {found[-1]['to']}")
        else:
            text = (
                f"segments 1 to {report.start.segment - 1} are missing (to record {tree.size - 1}),"
                " and no record says that they were archived"
            )
            report.broken = VerificationError(Defect.MISSING, 0, text)
    return reports


def _of(kept: Sequence[Checkpoint], log: Path) -> Checkpoint | None:
    return next(
        (checkpoint for checkpoint in kept if checkpoint.origin.rpartition("/")[2] == log.name),
        None,
    )


def checkpoint_signed_by(note: bytes, keys: Keys) -> Checkpoint:
    """Return a checkpoint signed by one of `keys`, for a log that the key's name covers.

    Raises:
        BadCheckpointError: it is not.
    """
    found = check(note, [key for _, key in keys])
    if not any(found.origin == name or found.origin.startswith(f"{name}/") for name, _ in keys):
        raise BadCheckpointError(f"the key is not for the log {found.origin}")
    return found


class _Check:
    def __init__(
        self,
        directory: Path,
        keys: Keys,
        kept: Checkpoint | None,
        report: LogReport,
        progress: Progress | None,
    ) -> None:
        self._directory = directory
        self._keys = keys
        self._report = report
        self._progress = progress
        self._chain = Chain()
        self._saved = kept
        self._pending_checkpoints: list[Checkpoint] = []
        self._last_signed_size = 0  # the last size whose root was found signed

    def run(self, only: int | None) -> None:
        found = segments(self._directory)
        if only is not None:
            found = {number: path for number, path in found.items() if number == only}
        elif self._saved is not None:
            found = self._after_saved(found, self._saved.size)
        report, chain = self._report, self._chain
        for index, (number, path) in enumerate(found.items()):
            report.segment = number
            if index == 0:
                self._start(number, path)
            elif number != chain.segment + 1:
                names = (
                    f"segment {chain.segment + 1} is"
                    if number == chain.segment + 2
                    else f"segments {chain.segment + 1} to {number - 1} are"
                )
                raise VerificationError(
                    Defect.MISSING,
                    chain.tree.size,
                    f"{names} missing, which began with record {chain.tree.size}",
                )
            last = index == len(found) - 1
            self._read_checkpoints(number)
            self._check_lines(path, last=last)
            if (not last or path.name.endswith(".gz")) and (
                report.last is None or report.last.size != chain.tree.size
            ):
                raise VerificationError(
                    Defect.SIGNATURE,
                    chain.tree.size - 1,
                    f"segment {number} is sealed, but no checkpoint covers its end",
                )
            report.segments += 1
        if only is None:
            self._check_orphaned_checkpoints(max(found, default=0))
        if chain.ended and report.signed != chain.tree.size:
            raise VerificationError(
                Defect.SIGNATURE,
                chain.tree.size - 1,
                "the log ended in order, but no checkpoint covers its end",
            )
        if self._saved is not None and self._saved.size > chain.tree.size:
            raise VerificationError(
                Defect.TRUNCATED,
                chain.tree.size,
                f"the kept checkpoint covers {self._saved.size} records,"
                f" here are {chain.tree.size}",
            )

    def _check_orphaned_checkpoints(self, last: int) -> None:
        """Read the checkpoints of segments after the last one here: what they cover is gone."""
        for path in sorted(self._directory.glob(f"*{CHECKPOINT_SUFFIX}")):
            if (
                path.name.split(".")[0].isdigit()
                and (number := int(path.name.split(".")[0])) > last
            ):
                self._report.segment = number
                self._read_checkpoints(number)
        if self._pending_checkpoints and self._pending_checkpoints[-1].size > self._chain.tree.size:
            text = (
                f"segments after {last} are missing: a checkpoint covers"
                f" {self._pending_checkpoints[-1].size} records, here are {self._chain.tree.size}"
            )
            raise VerificationError(Defect.TRUNCATED, self._chain.tree.size, text)

    def _after_saved(self, found: dict[int, Path], size: int) -> dict[int, Path]:
        """Leave out the segments that the kept checkpoint covers wholly."""
        begins = {}
        for number, path in found.items():
            chain = Chain()
            chain.begin_at_header(_first_line(path))
            begins[number] = chain.tree.size
        covered = [number for number, begin in begins.items() if begin <= size]
        if not covered and begins:
            raise VerificationError(
                Defect.MISSING,
                size,
                f"the log begins with record {min(begins.values())}, after the kept checkpoint",
            )
        return {number: path for number, path in found.items() if number >= max(covered, default=0)}

    def _start(self, number: int, path: Path) -> None:
        report, chain = self._report, self._chain
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
        for index, note in enumerate(split(data)):
            # cut short: a crash, or being written right now
            if data.endswith(note) and note.count(b"\n\n") <= 1:
                self._report.notes.append(f"the last checkpoint of segment {number} is not whole")
                break
            try:
                found = checkpoint_signed_by(note, self._keys)
            except BadCheckpointError as error:
                raise VerificationError(
                    Defect.SIGNATURE, None, f"checkpoint {index + 1} of segment {number}: {error}"
                ) from None
            if self._chain.log and found.origin != self._chain.log:
                raise VerificationError(
                    Defect.SIGNATURE,
                    None,
                    f"checkpoint {index + 1} of segment {number} is of another log, {found.origin}",
                )
            if found.size < size:
                raise VerificationError(
                    Defect.SIGNATURE,
                    None,
                    f"checkpoint {index + 1} of segment {number} does not follow the one before it",
                )
            size = found.size
            self._pending_checkpoints.append(found)

    def _check_lines(self, path: Path, *, last: bool) -> None:
        report, chain, begun = self._report, self._chain, False
        for line, following, whole in _pairs(path):
            if not whole:
                if not last:
                    raise VerificationError(
                        Defect.TRUNCATED,
                        chain.tree.size,
                        f"segment {report.segment} ends in the middle of record {chain.tree.size}",
                    )
                report.torn_bytes = len(line)
                break
            if self._pending_checkpoints and self._pending_checkpoints[0].size == chain.tree.size:
                self._check_signed_roots(line, following)
            try:
                record = chain.check_next(line, following)
            except VerificationError as broken:
                raise self._blame(broken, line) from None
            if begun == (record["stage"] == "segment"):
                raise VerificationError(
                    Defect.ALTERED,
                    chain.tree.size - 1,
                    f"record {chain.tree.size - 1}: a segment header is here, or missing here",
                )
            begun = True
            report.records += 1
            report.first_time = report.first_time or str(record["time"])
            report.last_time = str(record["time"])
            if self._progress is not None and not report.records & 4095:
                self._progress(4096)
            if self._saved is not None and self._saved.size == chain.tree.size:
                self._check_saved_checkpoint()
        report.origin, report.open, report.unknown, report.gaps = (
            chain.log,
            len(chain.open),
            chain.unknown,
            chain.gaps,
        )
        report.ended_in_order, report.archived = chain.ended, chain.archived
        self._check_signed_roots(None, None)
        if self._pending_checkpoints:
            size = self._pending_checkpoints[0].size
            text = f"a checkpoint covers {size} records, here are {chain.tree.size}"
            raise VerificationError(
                Defect.TRUNCATED,
                chain.tree.size,
                f"the log is truncated after record {chain.tree.size - 1}: {text}",
            )

    def _check_signed_roots(self, line: bytes | None, following: bytes | None) -> None:
        """Compare the tree with the checkpoints of its size; `line` comes next."""
        chain, report = self._chain, self._report
        while self._pending_checkpoints and self._pending_checkpoints[0].size == chain.tree.size:
            found = self._pending_checkpoints.pop(0)
            if found.origin != chain.log:
                raise VerificationError(
                    Defect.SIGNATURE,
                    None,
                    f"a checkpoint of segment {report.segment} is of another log, {found.origin}",
                )
            if found.root != chain.tree.root():
                raise self._wrong_root(line, following)
            self._last_signed_size = report.signed = found.size
            report.last = found
            report.checkpoints += 1

    def _wrong_root(self, line: bytes | None, following: bytes | None) -> VerificationError:
        chain = self._chain
        end = chain.tree.size - 1
        if line is not None:
            chain.check_next(line, following)  # blames a single altered record, if it is one
            if end > self._last_signed_size:
                return VerificationError(
                    Defect.ALTERED,
                    self._last_signed_size,
                    f"records {self._last_signed_size} to {end} were rewritten:"
                    " the signed root differs",
                )
        return VerificationError(
            Defect.ALTERED,
            end,
            f"record {end} was altered (or all since record {self._last_signed_size}):"
            " the signed root differs",
        )

    def _blame(self, broken: VerificationError, line: bytes) -> VerificationError:
        """Blame this line, not the one before it, if a signed root proves the one before it."""
        chain = self._chain
        if broken.defect is not Defect.ALTERED or broken.seq != chain.tree.size - 1:
            return broken
        if self._last_signed_size == chain.tree.size:
            return chain.this_record_altered()
        tree = chain.tree.copy()
        tree.append(leaf_hash(chain.with_prev_fixed(line)))
        right = any(
            due.size == tree.size and due.root == tree.root() for due in self._pending_checkpoints
        )
        return chain.this_record_altered() if right else broken

    def _check_saved_checkpoint(self) -> None:
        kept = self._saved
        assert kept is not None
        if kept.origin != self._chain.log or kept.root != self._chain.tree.root():
            raise VerificationError(
                Defect.INCONSISTENT,
                None,
                f"the first {kept.size} records are not those of the kept checkpoint",
            )


def _pairs(path: Path) -> Iterator[tuple[bytes, bytes | None, bool]]:
    """Give each line with the one after it, and whether it is whole."""
    with open_segment(path) as lines:
        try:
            held = next(lines, None)
            while held is not None:
                following = next(lines, None)
                whole = held.endswith(b"\n")
                yield (
                    held[:-1] if whole else held,
                    following.rstrip(b"\n") if following else None,
                    whole,
                )
                held = following
        except CORRUPT_GZIP_ERRORS as error:
            raise _unreadable(path, error) from None


def _first_line(path: Path) -> bytes:
    """Read a segment's header."""
    try:
        with open_segment(path) as lines:
            return lines.readline().rstrip(b"\n")
    except CORRUPT_GZIP_ERRORS as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> VerificationError:
    return VerificationError(
        Defect.ALTERED, None, f"{path.name} cannot be read: {type(error).__name__}"
    )
