"""Moves old sealed segments to another directory; what remains verifies by itself.

Moves the segments from the beginning of a log whose records are all older than a given time, and
never the last segment. The order is the safe one:

1. compress and copy, with the checkpoints;
2. read the copies back and compare;
3. have a record written that names what went where;
4. only then remove.

An interruption leaves copies too many and loses nothing. The first segment that remains begins with
the frontier of the tree before it, so later signed roots still prove it, and the record of step 3
says that the missing segments were archived. The policy sets and public keys are copied too, so the
archive can be read by itself.

Never overwrites anything in an archive: what is there already must be the same, and a log continues
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
from proxy.audit.format.segment_file import last_lines, open_readable
from proxy.audit.reading.records import parse_record
from proxy.audit.redaction.redactor import Json
from proxy.audit.writing.compression import compress
from proxy.audit.writing.keys import PUBLIC_KEYS
from proxy.common.durable_files import make_directory, replace_atomically, sync_directory

# Bytes that are copied at once.
COPY_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What can be moved of one log: the segments `first` to `last`.

    They hold the log's first `size` records, whose tree has this `root`.
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
    """Return what of a log is older than `before` (RFC 3339 in UTC), or None if nothing is."""
    movable: list[int] = []
    chain = Chain()
    for (number, path), (_, following) in pairwise(segments(directory).items()):
        if any(parse_record(line).time >= before for _, line in last_lines(path, 1)):
            break
        movable.append(number)
        chain = _begin(following)
    if not movable:
        return None
    return Plan(
        directory,
        chain.log,
        movable[0],
        movable[-1],
        chain.tree.size,
        chain.tree.root().hex(),
        tuple(movable),
    )


def copy(planned: Plan, to: Path) -> list[Path]:
    """Compress and copy the planned segments to `to`/<log>/.

    Returns:
        the files to remove once that is on record.

    Raises:
        OSError: they were not all copied.

    """
    source, target = planned.directory, to / planned.directory.name
    make_directory(target)
    _require_continuation(planned, target)
    done = []
    for number in planned.numbers:
        path = segments(source)[number]
        if path.name.endswith(SEGMENT_SUFFIX):
            path = compress(path)
        for file in (path, source / f"{segment_name(number)}{CHECKPOINT_SUFFIX}"):
            if file.exists():
                _copy_file(file, target / file.name)
                done.append(file)
    _copy_public_keys(source.parent / PUBLIC_KEYS, to / PUBLIC_KEYS)
    for file in sorted((source.parent / POLICY_SETS).glob("*.json")):
        make_directory(to / POLICY_SETS)
        _copy_file(file, to / POLICY_SETS / file.name)
        sync_directory(to / POLICY_SETS)
    sync_directory(target)
    sync_directory(to)
    return done


def remove(files: list[Path]) -> None:
    """Remove files that were copied and recorded."""
    for file in files:
        file.unlink()
    for directory in {file.parent for file in files}:
        sync_directory(directory)


def _begin(segment: Path) -> Chain:
    """Return the state of the log before a segment, from its header."""
    chain = Chain()
    with open_readable(segment) as lines:
        chain.begin_at_header(lines.readline().removesuffix(b"\n"))
    return chain


def _require_continuation(planned: Plan, target: Path) -> None:
    """Refuse a directory that holds another log of the same name.

    The last segment there must be the one before the first to be moved.
    """
    archived = {number: path for number, path in segments(target).items() if number < planned.first}
    if not archived:
        return
    number, path = max(archived.items())
    prev = _begin(segments(planned.directory)[planned.first]).prev.decode()
    last = last_lines(path, 1)
    if number != planned.first - 1 or not last or leaf_hash(last[0][1])[:8].hex() != prev:
        raise OSError(
            f"{target} holds another log of this name, or not all of this one."
            " Archive to another directory."
        )


def _copy_public_keys(source: Path, target: Path) -> None:
    """Add the public keys of `source` to those of `target`."""
    keys = [
        line
        for file in (target, source)
        if file.exists()
        for line in file.read_bytes().splitlines()
    ]
    replace_atomically(target, b"".join(line + b"\n" for line in dict.fromkeys(keys)))


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file durably, read the copy back, and only then give it its name."""
    if target.exists():
        if _digest(target) != _digest(source):
            raise OSError(
                f"{target} exists already and differs from {source}. Archive to another directory."
            )
        return
    partial = target.with_name(f".{target.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(partial, flags, 0o600)
    try:
        with os.fdopen(fd, "wb") as out, source.open("rb") as data:
            shutil.copyfileobj(data, out, COPY_STEP)
            out.flush()
            os.fsync(out.fileno())
        if _digest(partial) != _digest(source):
            raise OSError(f"the copy of {source.name} does not read back")
        partial.rename(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _digest(path: Path) -> bytes:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").digest()
