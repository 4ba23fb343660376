"""Finds where a log ends after any kind of end: in order, by kill -9, by power loss.

The last segment's first record holds the edge of the tree before it and the calls then open, so
this one file is all that has to be read. Its lines are taken up to the first that does not follow
from the one before (not whole, no JSON, wrong ``seq`` or ``prev``). What comes after was never
acknowledged: an acknowledgement follows fdatasync, and fdatasync covers all bytes before it. That
tail is kept aside in ``NNNNNNNN.cut`` and cut off. If records are missing that a signed checkpoint
covers, then it is not a torn tail but damage: ConfigError, and nothing is changed.
"""

import gzip
import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson

from proxy.audit.format.checkpoint import BadCheckpointError, complete_length, parse, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, SEALED_SUFFIX, segment_name, segments
from proxy.audit.format.merkle import Tree, leaf_hash
from proxy.audit.format.record import FIRST_PREV
from proxy.audit.format.segment_file import CORRUPT_GZIP_ERRORS
from proxy.audit.writing.disk import open_append
from proxy.common.durable_files import sync_directory
from proxy.errors import ConfigError, Problem

_REMEDY = "callgate audit verify names the damage; keep the directory as evidence and start with another instance name"


@dataclass(slots=True)
class LogState:
    """Where a log stands: all that its writer must know to go on. `number` is 0 for a log without
    segments.
    """

    number: int = 0
    offset: int = 0
    tree: Tree = field(default_factory=Tree)
    prev: bytes = FIRST_PREV
    time: int = 0
    open: dict[int, str] = field(default_factory=dict)
    sealed: bool = False
    origin: str = ""
    torn_bytes: int = 0


def recover(directory: Path) -> LogState:
    """Return the state of the log in `directory`, with any torn tail cut off."""
    found = list(segments(directory).items())
    signed_size = _signed_size(directory)
    state = LogState()
    cuts: list[tuple[int, Path, int]] = []
    while found:
        number, path = found.pop()
        size = path.stat().st_size
        try:
            scanned = scan_segment(path, number)
        except CORRUPT_GZIP_ERRORS as error:
            if not path.name.endswith(SEALED_SUFFIX):
                raise
            what = f"the compressed segment does not decompress: {type(error).__name__}"
            raise ConfigError([Problem(str(path), what, _REMEDY)]) from None
        if scanned is None:  # not even its first record was finished: the segment never began
            cuts.append((number, path, 0))
            packed = path.with_name(segment_name(number) + SEALED_SUFFIX)
            # it was sealed, and its compressed copy made: that one is as good
            if path != packed and packed.exists():
                found.append((number, packed))
            continue
        state = scanned
        if not state.sealed and state.offset < size:
            cuts.append((number, path, state.offset))
        break
    if state.tree.size < signed_size:
        what = f"the log ends before record {state.tree.size}, but a signed checkpoint covers {signed_size} records"
        raise ConfigError([Problem(str(directory), what, _REMEDY)])
    for number, path, offset in cuts:
        state.torn_bytes += _truncate_tail(directory, number, path, offset)
    return state


def scan_segment(path: Path, number: int) -> LogState | None:
    """Read one segment up to its last good record; None when there is not one."""
    state = LogState(number=number, sealed=path.name.endswith(SEALED_SUFFIX))
    begun = False
    with gzip.open(path, "rb") if state.sealed else path.open("rb") as lines:
        for raw in lines:
            if not raw.endswith(b"\n"):
                break
            text = raw[:-1]
            try:
                record = orjson.loads(text)
                if not begun:
                    tree = record["tree"]
                    state.tree = Tree(tree["size"], map(bytes.fromhex, tree["edge"]))
                    state.prev = record["prev"].encode()
                    state.open = dict(record["open"])
                    state.origin = str(record["log"])
                    if (
                        record["stage"] != "segment"
                        or record["segment"] != number
                        or state.tree.root().hex() != tree["root"]
                    ):
                        break
                if record["seq"] != state.tree.size or record["prev"] != state.prev.decode():
                    break
                _apply(state, record)
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            leaf = leaf_hash(text)
            state.tree.append(leaf)
            state.prev = leaf.hex()[:16].encode()
            state.offset += len(raw)
            begun = True
    return state if begun else None


def _signed_size(directory: Path) -> int:
    """Return how many records the last checkpoints cover; a note torn by a crash is cut off."""
    size = 0
    for path in sorted(directory.glob(f"*{CHECKPOINT_SUFFIX}"))[-2:]:
        data = path.read_bytes()
        whole = complete_length(data)
        if whole < len(data):
            os.truncate(path, whole)
        for note in split(data[:whole]):
            with suppress(BadCheckpointError):
                size = max(size, parse(note).size)
    return size


def micros(text: str) -> int:
    """Return a record's time in microseconds since 1970."""
    moment = datetime.fromisoformat(text)
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)


def _apply(state: LogState, record: dict[str, object]) -> None:
    stage = record["stage"]
    if stage == "decided" and record["decision"] == "allow":
        state.open[state.tree.size] = str(record["id"])
    elif stage == "completed":
        state.open.pop(record["decided"], None)  # type: ignore[call-overload]  # a wrong type is simply not found
    state.time = micros(str(record["time"]))


def _truncate_tail(directory: Path, number: int, path: Path, offset: int) -> int:
    """Cut a file at `offset` and keep what was cut beside it; return how much that was."""
    with path.open("rb") as torn:
        torn.seek(offset)
        tail = torn.read()
    if tail:
        kept = open_append(directory / f"{segment_name(number)}.cut")
        try:
            os.write(kept, tail)
            os.fsync(kept)
        finally:
            os.close(kept)
    if offset:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.ftruncate(fd, offset)
            os.fsync(fd)
        finally:
            os.close(fd)
    else:
        path.unlink()
    sync_directory(directory)
    return len(tail)
