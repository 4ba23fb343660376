"""Verifies logs offline, from the files and a public key. Shares `format` with the writer only.

Each log is checked by itself (`proxy.audit.checking.log_verifier`). The beginning of a log may be
gone if a record, in any log of the directory, says where it was archived.

Two things cannot be seen in the files:

- Records after the last checkpoint may have been cut off: at most what was written in about a
  second, or since the process was killed. The report has how many records have no signature yet.
- Records that were removed *with* their checkpoints leave a shorter log that is intact, or no log.

A checkpoint saved elsewhere shows the second, and every later one bounds the first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxy.audit.checking.chain import Defect, VerificationError
from proxy.audit.checking.log_verifier import LogReport, LogVerifier, Progress
from proxy.audit.checking.signatures import Keys
from proxy.audit.format.checkpoint import Checkpoint
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, logs, segments


def verify_log(
    directory: Path,
    keys: Keys,
    *,
    saved: Checkpoint | None = None,
    only: int | None = None,
    progress: Progress | None = None,
) -> LogReport:
    """Verify one log, or its segment `only`.

    With `saved`, verify what came after that checkpoint, and that it still holds.
    """
    verifier = LogVerifier(directory, keys, saved, progress)
    try:
        verifier.run(only)
    except VerificationError as broken:
        verifier.report.broken = broken
    return verifier.report


def verify_directory(
    directory: Path,
    keys: Keys,
    *,
    saved: Sequence[Checkpoint] = (),
    operator: Path | None = None,
    progress: Progress | None = None,
) -> list[LogReport]:
    """Verify every log of an audit directory, those with a checkpoint in `saved` from there on.

    Where `directory` is one log, `operator` is the log with the records of what was archived.
    """
    reports = [
        verify_log(path, keys, saved=_of_log(saved, path), progress=progress)
        for _, path in sorted(_log_directories(directory).items())
    ]
    archived = [record for report in reports for record in report.archived]
    if operator is not None and operator.is_dir():
        found = verify_log(operator, keys)
        archived += found.archived if found.broken is None else []
    for report in reports:
        if report.broken is None and _of_log(saved, directory / report.log) is None:
            _check_beginning(report, archived)
    return reports


def _log_directories(directory: Path) -> dict[str, Path]:
    """Return the logs by name; a log whose segments are all gone is known by its checkpoints."""
    found = logs(directory)
    if not segments(directory):
        found |= {
            path.parent.name: path.parent for path in directory.glob(f"*/*{CHECKPOINT_SUFFIX}")
        }
    return found


def _of_log(saved: Sequence[Checkpoint], log: Path) -> Checkpoint | None:
    for checkpoint in saved:
        if checkpoint.origin.rpartition("/")[2] == log.name:
            return checkpoint
    return None


def _check_beginning(report: LogReport, archived: Sequence[dict[str, Any]]) -> None:
    """Report where the beginning of a log was archived, or that it is missing."""
    if report.start is None:
        return
    tree = report.start.tree
    wanted = (report.origin, tree.size, tree.root().hex())
    places = [
        record["to"]
        for record in archived
        if (record["log"], record["size"], record["root"]) == wanted
    ]
    if places:
        report.notes.append(f"records 0 to {tree.size - 1} were archived to {places[-1]}")
        return
    text = (
        f"segments 1 to {report.start.segment - 1} are missing (to record {tree.size - 1}),"
        " and no record says that they were archived"
    )
    report.broken = VerificationError(Defect.MISSING, 0, text)
