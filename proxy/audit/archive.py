"""Moves old sealed segments elsewhere; what remains verifies by itself.

Only whole segments whose every record is older than the given time, from the beginning of the log
on, and never the last one. The order is the safe one: (1) compress and copy, with the checkpoints;
(2) read the copies back and compare; (3) have a record written that says what went where; (4) only
then remove. Interrupted, it has copied too much and lost nothing. The first segment that stays
begins with the edge of the tree before it, so that later signed roots still prove it, and the
record of (3) says that what is missing was archived. The policy sets and public keys go along, so
that the archive can be read by itself.

Nothing in an archive is ever overwritten: what is there already must be the same, and a log goes on
where it ended there. Two logs of one name (of two machines, say) need two archives.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from proxy.audit.checking.chain import Chain
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, SEGMENT_SUFFIX, segment_name, segments
from proxy.audit.format.merkle import leaf_hash
from proxy.audit.format.policy_snapshots import DIRECTORY as POLICY_SETS
from proxy.audit.format.segment_file import open_readable
from proxy.audit.reading.reader import last_entries_of_segment, parse
from proxy.audit.redaction.redactor import Json
from proxy.audit.writing.compression import compress
from proxy.audit.writing.keys import PUBLIC_KEYS
from proxy.common.durable_files import make_directory, replace_atomically, sync_directory


@dataclass(frozen=True, slots=True)
class Plan:
    """What can be moved of one log: segments `first` to `last`, which hold the first `size` records
    with this `root`.
    """

    directory: Path
    origin: str
    first: int
    last: int
    size: int
    root: str
    numbers: tuple[int, ...]

    def record(self, to: Path) -> dict[str, Json]:
        """Return the members of the ``archived`` record."""
        return {
            "log": self.origin,
            "segments": [self.first, self.last],
            "size": self.size,
            "root": self.root,
            "to": str(to),
        }


def plan(directory: Path, before: str) -> Plan | None:
    """Return what of a log is wholly older than `before` (RFC 3339 in UTC), None if nothing is."""
    found = list(segments(directory).items())
    movable: list[int] = []
    edge = Chain()
    for (number, path), (_, following) in pairwise(found):
        if any(
            item.time >= before for item in last_entries_of_segment(directory.name, number, path, 1)
        ):
            break
        with open_readable(following) as lines:
            header = lines.readline().rstrip(b"\n")
        movable.append(number)
        edge = Chain()
        edge.begin_at_header(header)
    if not movable:
        return None
    return Plan(
        directory,
        edge.log,
        movable[0],
        movable[-1],
        edge.tree.size,
        edge.tree.root().hex(),
        tuple(movable),
    )


def copy(planned: Plan, to: Path) -> list[Path]:
    """Compress and copy the planned segments under `to`/<log>/; return the files that may be
    removed once that is on record.
    """
    source, target = planned.directory, to / planned.directory.name
    make_directory(target)
    _goes_on(planned, target)
    done = []
    for number in planned.numbers:
        path = segments(source)[number]
        if path.name.endswith(SEGMENT_SUFFIX):
            path = compress(path)
        for file in (path, source / f"{segment_name(number)}{CHECKPOINT_SUFFIX}"):
            if file.exists():
                _copy(file, target / file.name)
                done.append(file)
    keys = [
        line
        for file in (to / PUBLIC_KEYS, source.parent / PUBLIC_KEYS)
        if file.exists()
        for line in file.read_bytes().splitlines()
    ]
    replace_atomically(to / PUBLIC_KEYS, b"".join(line + b"\n" for line in dict.fromkeys(keys)))
    for kept in sorted((source.parent / POLICY_SETS).glob("*.json")):
        make_directory(to / POLICY_SETS)
        _copy(kept, to / POLICY_SETS / kept.name)
        sync_directory(to / POLICY_SETS)
    sync_directory(target)
    sync_directory(to)
    return done


def remove(files: list[Path]) -> None:
    """Remove what has been copied and recorded."""
    for file in files:
        file.unlink()
    for directory in {file.parent for file in files}:
        sync_directory(directory)


def _goes_on(planned: Plan, target: Path) -> None:
    """Refuse a place that holds another log of the same name: the segment before the first to be
    moved must be the one before it.
    """
    there = {number: path for number, path in segments(target).items() if number < planned.first}
    if not there:
        return
    number, path = max(there.items())
    with open_readable(segments(planned.directory)[planned.first]) as lines:
        follows = parse(lines.readline()).get("prev")
    last = list(last_entries_of_segment(target.name, number, path, 1))
    if number != planned.first - 1 or not last or leaf_hash(last[0].raw)[:8].hex() != follows:
        raise OSError(
            f"{target} holds another log of this name, or not all of this one: archive to another directory"
        )


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        if _digest(target) != _digest(source):
            raise OSError(
                f"{target} is there already, and another than {source}: archive to another directory"
            )
        return
    temporary = target.with_name(f".{target.name}.new")
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        with os.fdopen(fd, "wb") as out, source.open("rb") as data:
            shutil.copyfileobj(data, out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
        if _digest(temporary) != _digest(source):
            raise OSError(f"the copy of {source.name} does not read back")
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _digest(path: Path) -> bytes:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").digest()
