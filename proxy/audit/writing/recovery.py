"""Finds the end of a log after a clean end, a kill -9 or a power loss.

Only the last segment is read: its first record has the frontier of the tree before it and the calls
open then. Its lines count up to the first that does not follow from the one before: incomplete, no
JSON, wrong ``seq`` or ``prev``. The rest was never acknowledged, since an acknowledgement follows
fdatasync, and fdatasync covers all bytes before it. That tail is moved to ``NNNNNNNN.cut``.

Raises ConfigError, and changes nothing, where records are missing that a signed checkpoint covers:
that is damage, not a torn tail. The same goes for a segment of a later format version.
"""

import gzip
import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from proxy.audit.format.checkpoint import BadCheckpointError, complete_length, parse, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, SEALED_SUFFIX, segment_name, segments
from proxy.audit.format.merkle import Tree, leaf_hash
from proxy.audit.format.record import FIRST_PREV, VERSION, VERSIONS, member_name
from proxy.audit.format.segment_file import CORRUPT_GZIP_ERRORS
from proxy.audit.writing.disk import open_append
from proxy.common.durable_files import sync_directory
from proxy.errors import ConfigError, Problem

_HINT = (
    "Run callgate audit verify to locate the damage; keep the directory as evidence, and start"
    " with another instance name."
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class LogState:
    """The end of a log: all that a writer needs to continue it.

    `number`, `version` and `sealed` describe the last segment (`number` is 0 if there is none),
    `offset` is the length of its valid lines. `open` has the ids of calls not completed, by seq.
    `torn_bytes` counts the bytes that recovery cut off.
    """

    number: int = 0
    offset: int = 0
    tree: Tree = field(default_factory=Tree)
    prev: bytes = FIRST_PREV
    time: int = 0
    open: dict[int, str] = field(default_factory=dict)
    sealed: bool = False
    version: int = VERSION
    origin: str = ""
    torn_bytes: int = 0


def recover(directory: Path) -> LogState:
    """Return the end of the log in `directory`; cut off its torn tail."""
    found = list(segments(directory).items())
    signed_size = _signed_size(directory)
    state = LogState()
    tails: list[tuple[int, Path, int]] = []
    while found:
        number, path = found.pop()
        size = path.stat().st_size
        try:
            scanned = scan_segment(path, number)
        except CORRUPT_GZIP_ERRORS as error:
            if not path.name.endswith(SEALED_SUFFIX):
                raise
            what = f"the compressed segment does not decompress: {type(error).__name__}"
            raise ConfigError([Problem(str(path), what, _HINT)]) from None
        if scanned is None:  # its first record is incomplete: the segment never began
            tails.append((number, path, 0))
            packed = path.with_name(segment_name(number) + SEALED_SUFFIX)
            if path != packed and packed.exists():  # the compressed copy of a sealed segment
                found.append((number, packed))
            continue
        state = scanned
        if not state.sealed and state.offset < size:
            tails.append((number, path, state.offset))
        break
    if state.tree.size < signed_size:
        what = (
            f"the log ends before record {state.tree.size},"
            f" but a signed checkpoint covers {signed_size} records"
        )
        raise ConfigError([Problem(str(directory), what, _HINT)])
    for number, path, offset in tails:
        state.torn_bytes += _truncate_tail(directory, number, path, offset)
    return state


def scan_segment(path: Path, number: int) -> LogState | None:
    """Read one segment up to its last valid record; return None if it has none.

    Raises:
        ConfigError: its format version is later than this program.

    """
    state = LogState(number=number, sealed=path.name.endswith(SEALED_SUFFIX))
    begun = False
    with gzip.open(path, "rb") if state.sealed else path.open("rb") as lines:
        for raw in lines:
            if not raw.endswith(b"\n"):
                break
            text = raw[:-1]
            try:
                record = orjson.loads(text)
                if not begun and not _read_header(state, path, record):
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


def parse_micros(text: str) -> int:
    """Return a record's time in microseconds since 1970."""
    return round((datetime.fromisoformat(text) - _EPOCH).total_seconds() * 1_000_000)


def _read_header(state: LogState, path: Path, record: dict[str, Any]) -> bool:
    """Take over the state before a segment from its first record; return whether it is valid."""
    state.version = record["v"]
    if type(state.version) is int and state.version > VERSIONS[-1]:
        what = f"the segment has format version {state.version}; this program reads up to {VERSION}"
        hint = "Start the version of Callgate that wrote the log, or a later one."
        raise ConfigError([Problem(str(path), what, hint)])
    tree = record["tree"]
    frontier = tree[member_name("frontier", state.version)]
    state.tree = Tree(tree["size"], map(bytes.fromhex, frontier))
    state.prev = record["prev"].encode()
    state.open = dict(record["open"])
    state.origin = str(record["log"])
    return bool(
        record["stage"] == "segment"
        and record["segment"] == state.number
        and state.tree.root().hex() == tree["root"]
    )


def _signed_size(directory: Path) -> int:
    """Return how many records the last checkpoints cover; truncate a note torn by a crash."""
    size = 0
    for path in sorted(directory.glob(f"*{CHECKPOINT_SUFFIX}"))[-2:]:
        data = path.read_bytes()
        complete = complete_length(data)
        if complete < len(data):
            os.truncate(path, complete)
        for note in split(data[:complete]):
            with suppress(BadCheckpointError):
                size = max(size, parse(note).size)
    return size


def _apply(state: LogState, record: dict[str, Any]) -> None:
    """Apply one record to the open calls and the time."""
    stage = record["stage"]
    if stage == "decided" and record["decision"] == "allow":
        state.open[state.tree.size] = str(record["id"])
    elif stage == "completed":
        state.open.pop(record[member_name("decided_seq", state.version)], None)
    state.time = parse_micros(str(record["time"]))


def _truncate_tail(directory: Path, number: int, path: Path, offset: int) -> int:
    """Move what follows `offset` in a segment to its ``.cut`` file; return its length."""
    with path.open("rb") as torn:
        torn.seek(offset)
        tail = torn.read()
    if tail:
        cut = open_append(directory / f"{segment_name(number)}.cut")
        try:
            os.write(cut, tail)
            os.fsync(cut)
        finally:
            os.close(cut)
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
