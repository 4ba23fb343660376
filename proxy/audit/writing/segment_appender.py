"""The files of one log and its tree: records are made of bodies, appended, and sealed segment by
segment.

Appending has three steps, so that whoever makes the file durable may do so in the way that suits
it: `prepare` works out the bytes and the tree as it will be, `write` puts the bytes into the file,
`accept` takes the new state over once the file is durable. Until then nothing has changed here, and
a failed step is as if it had not been begun.

After a failed write or fdatasync the kernel may have thrown the pages away and forgotten the error,
so asking again proves nothing: the file is cut back to the last acknowledged byte, read again from
disk and compared with the tree in memory, and writing goes on in a new segment whose ``gap`` record
says since when and why (`go_on`).

No locks and no threads here; `proxy.audit.writing.writer` sees to it that one at a time is at work.
"""

import os
import time
from binascii import b2a_hex
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

from proxy.audit.format.layout import CHECKPOINT_SUFFIX, SEGMENT_SUFFIX, segment_name
from proxy.audit.format.merkle import Tree
from proxy.audit.format.record import VERSION, TimestampEncoder, encode_event, encode_record
from proxy.audit.writing.compression import Compressor
from proxy.audit.writing.disk import Disk, open_append, write_all, write_durably
from proxy.audit.writing.recovery import LogState, scan_segment
from proxy.audit.writing.signer import Signer
from proxy.common.durable_files import sync_directory

Entry: TypeAlias = tuple[int, bytes, str | None, int]
"""Microseconds since 1970, record body, id of the call it opens (or None), seq of the call it
completes (or -1, or `IN_FORCE`).
"""

IN_FORCE = -2
"""In place of a seq: the body says which policy set is in force, and every later segment says so
again.
"""

DAY_US = 86_400_000_000


@dataclass(slots=True)
class Prepared:
    """Entries as they will stand in the file, and the log as it will be then."""

    entries: list[Entry]
    data: bytes
    tree: Tree
    prev: bytes
    time: int


class Appender:
    """Owns the files of one log and its tree. Made with a recovered state. What can fail raises
    OSError.
    """

    def __init__(
        self,
        directory: Path,
        signer: Signer,
        state: LogState,
        *,
        disk: Disk,
        segment_bytes: int,
        compress: bool,
    ) -> None:
        """Take over the log that `signer` signs."""
        self.state = state
        self.fd = -1
        self.commits = 0
        self.signed = -1  # size of the tree last signed
        self.signed_at = self.active_at = time.monotonic()
        self.stamp = TimestampEncoder()
        self._directory = directory
        self._signer = signer
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._compressor = Compressor(directory) if compress else None
        self._policy = b""
        self._day = -1
        if state.number and not state.sealed and state.version == VERSION:
            self.fd = open_append(self._path(state.number))
            self._day = state.time // DAY_US

    def fits(self, entries: list[Entry]) -> bool:
        """Whether `entries` belong into the present segment; else `append` begins the next."""
        return (
            self.fd >= 0
            and self.state.offset < self._segment_bytes
            and entries[-1][0] // DAY_US <= self._day
        )

    def append(self, entries: list[Entry]) -> int:
        """Append entries durably; return the seq of the first. State changes only after the last
        step that can fail.
        """
        if not self.fits(entries):
            self._begin_segment(entries[0][0])
            self._day = entries[-1][0] // DAY_US
        self._append(self.fd, self.state.offset, entries)
        return self.state.tree.size - len(entries)

    def prepare(self, entries: list[Entry]) -> Prepared:
        """Work out the records (hot: a few microseconds each)."""
        state, stamp = self.state, self.stamp
        tree, prev, last = state.tree.copy(), state.prev, state.time
        seq = tree.size
        parts, leaves = [], []
        at = stamp(last)
        for moment, body, _, _ in entries:
            if moment > last:
                last = moment
                at = stamp(last)
            text = encode_record(seq, prev, at, body)
            leaf = sha256(b"\x00" + text).digest()
            prev = b2a_hex(leaf[:8])
            leaves.append(leaf)
            parts.append(text)
            seq += 1
        tree.extend(leaves)
        parts.append(b"")
        return Prepared(entries, b"\n".join(parts), tree, prev, last)

    def write(self, prepared: Prepared) -> None:
        """Put the bytes into the present segment, not yet durable."""
        write_all(self._disk, self.fd, prepared.data)

    def accept(self, prepared: Prepared, offset: int) -> None:
        """The bytes, which begin at `offset`, are durable: the log is now as `prepared` says."""
        state = self.state
        calls, seq = state.open, state.tree.size
        for _, body, opens, closes in prepared.entries:
            if opens is not None:
                calls[seq] = opens
            elif closes >= 0:
                calls.pop(closes, None)
            elif closes == IN_FORCE:
                self._policy = body
            seq += 1
        state.tree, state.prev, state.time, state.offset = (
            prepared.tree,
            prepared.prev,
            prepared.time,
            offset + len(prepared.data),
        )
        self.commits += 1
        self.active_at = time.monotonic()

    def sign(self) -> None:
        """Sign the tree as it is, beside the present segment, unless that is done."""
        state = self.state
        if self.signed == state.tree.size or not state.number:
            return
        path = self._path(state.number).with_suffix(CHECKPOINT_SUFFIX)
        fd = open_append(path)
        try:
            end = os.fstat(fd).st_size
            try:
                write_durably(
                    self._disk, fd, self._signer.sign(state.tree.size, state.tree.root()) + b"\n"
                )
            except OSError:
                os.ftruncate(fd, end)
                raise
        finally:
            os.close(fd)
        if not end:
            sync_directory(self._directory)
        self.signed, self.signed_at = state.tree.size, time.monotonic()

    def go_on(self, since: int, now: int, error: str, refused: int) -> None:
        """After a failure: prove what was acknowledged, and begin a segment that tells of the gap.
        Times in microseconds.
        """
        self._cut_back()
        gap = encode_event(
            "gap", {"since": self.stamp(since).decode(), "error": error, "refused": refused}
        )
        self._begin_segment(now, ((now, gap, None, -1),))

    def close(self) -> None:
        """Close the present segment's file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _append(self, fd: int, offset: int, entries: list[Entry]) -> None:
        prepared = self.prepare(entries)
        write_durably(self._disk, fd, prepared.data)
        self.accept(prepared, offset)

    def _begin_segment(self, moment: int, more: tuple[Entry, ...] = ()) -> None:
        """Begin the next segment with its first record. What stands under its name already was
        never acknowledged.
        """
        state = self.state
        self.sign()
        number = state.number + 1
        tree = {
            "size": state.tree.size,
            "root": state.tree.root().hex(),
            "frontier": [part.hex() for part in state.tree.frontier],
        }
        head = encode_event(
            "segment",
            {
                "log": self._signer.origin,
                "segment": number,
                "tree": tree,  # type: ignore[dict-item]  # mypy does not see list[str] as list[Json]
                "open": [[seq, call_id] for seq, call_id in state.open.items()],
            },
        )
        if self._policy:
            head = b'%b,"policy":{%b}' % (head[:-1], self._policy.partition(b",")[2])
        fd = open_append(self._path(number))
        try:
            os.ftruncate(fd, 0)
            sync_directory(self._directory)
            self._append(fd, 0, [(moment, head, None, -1), *more])
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self.fd = fd
        state.number, state.sealed = number, False
        self._day = state.time // DAY_US
        if self._compressor is not None and number > 1:
            self._compressor.start(number)

    def _cut_back(self) -> None:
        """Cut the segment back to what was acknowledged and prove from the disk that it is whole."""
        state = self.state
        if not state.number or state.sealed:
            return
        path = self._path(state.number)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.ftruncate(fd, state.offset)
            self._disk.fdatasync(fd)
            # read the disk again, not the memory of it
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
        found = scan_segment(path, state.number)
        if (
            found is None
            or found.tree.size != state.tree.size
            or found.tree.root() != state.tree.root()
        ):
            raise OSError("the acknowledged records cannot be read back; see callgate audit verify")

    def _path(self, number: int) -> Path:
        return self._directory / f"{segment_name(number)}{SEGMENT_SUFFIX}"
