"""Follows one log record by record: every line must follow from the one before it.

`Chain.check_next` checks, in this order:

1. The line is a record of the format.
2. It has the hash of the record before it.
3. Its sequence number is the next.
4. Its time is not earlier.
5. What it says of the log fits the records before it: format version, segment header, calls opened
   and completed, a process that began or ended.

The first line that does not is blamed, with the kind of defect.

Shares the format with the writer, and nothing else. A forger who rewrites every later line too
passes here and fails at the signed roots (`proxy.audit.checking.log_verifier`).
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from proxy.audit.format.merkle import Tree, leaf_hash
from proxy.audit.format.record import member_name

_HEAD = re.compile(
    rb'\{"v":[12],"seq":(0|[1-9][0-9]*),"prev":"([0-9a-f]{16})",'
    rb'"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)","stage":"[a-z-]+"[,}]'
)


class Defect(StrEnum):
    """Kinds of damage that the checker reports."""

    ALTERED = "altered"
    MISSING = "missing"
    REORDERED = "reordered"
    INSERTED = "inserted"
    TRUNCATED = "truncated"
    OPEN = "decided without completed"
    SIGNATURE = "signature"
    INCONSISTENT = "inconsistent with the saved checkpoint"


@dataclass(eq=False)
class VerificationError(Exception):
    """The first defect of a log: what it is, and at which record (None: at no one record)."""

    defect: Defect
    seq: int | None
    text: str


@dataclass(slots=True)
class Chain:
    """What is known after the records so far.

    `open` has the calls that are not completed, by sequence number. `begin_at_header` sets it to
    begin in the middle of a log.
    """

    log: str = ""
    segment: int = 0
    tree: Tree = field(default_factory=Tree)
    prev: bytes = b"0" * 16
    time: bytes = b""
    open: dict[int, str] = field(default_factory=dict)
    ended: bool = False
    archived: list[dict[str, Any]] = field(default_factory=list)
    gaps: int = 0
    unknown: int = 0
    _version: int = 0
    _decided_seq: str = ""
    _line: bytes = b""
    _must_close: set[int] = field(default_factory=set)
    _close_by: int = -1

    def begin_at_header(self, header: bytes) -> None:
        """Begin at the header of a segment whose predecessors are not here.

        Its claims are taken for now; the signed roots prove or refute them.
        """
        try:
            found = _HEAD.match(header)
            if found is None:
                raise ValueError("no record")
            record = orjson.loads(header)
            tree = record["tree"]
            frontier = tree[member_name("frontier", record["v"])]
            self.log, self.segment = record["log"], record["segment"] - 1
            self.tree = Tree(tree["size"], map(bytes.fromhex, frontier))
            self.open = dict(record["open"])
        except (ValueError, KeyError, TypeError) as error:
            text = "the first record of the segment is not a segment header"
            raise VerificationError(Defect.ALTERED, None, text) from error
        self.prev = found[2]

    def check_next(self, line: bytes, following: bytes | None) -> dict[str, Any]:
        """Check the next line (without LF) and return its record.

        `following` is the line after it, which tells which of two records is the altered one.
        """
        seq = self.tree.size
        # 1. It is a record.
        head = _HEAD.match(line)
        record: Any = None
        if head is not None:
            try:
                record = orjson.loads(line)
            except ValueError:
                record = None
        if head is None or not isinstance(record, dict):
            raise _altered(seq, f"record {seq} is not readable as a record")
        # 2. It has the hash of the one before. 3. Its number is the next.
        number = int(head[1])
        if head[2] != self.prev:
            raise self._misplaced(seq, number, line, following)
        if number != seq:
            raise _altered(seq, f"record {seq} has the sequence number {number}")
        # 4. Its time is not earlier.
        if head[3] < self.time:
            raise _altered(seq, f"record {seq} is earlier than the record before it")
        # 5. It fits.
        try:
            self._fit(seq, record)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _altered(seq, f"record {seq} lacks what its stage must have") from None
        leaf = leaf_hash(line)
        self.tree.append(leaf)
        self.prev = leaf[:8].hex().encode()
        self.time = head[3]
        self._line = line
        return record

    def with_prev_fixed(self, line: bytes) -> bytes:
        """Return the line as it would be if only its ``prev`` had been altered."""
        at = line.index(b'"prev":"') + 8
        return line[:at] + self.prev + line[at + 16 :]

    def this_record_altered(self) -> VerificationError:
        """Return the defect when the records so far are proved, and the next does not follow."""
        seq = self.tree.size
        return _altered(seq, f"record {seq} was altered: it has not the hash of the one before it")

    def _misplaced(
        self, seq: int, number: int, line: bytes, following: bytes | None
    ) -> VerificationError:
        """Return the defect of a line that does not have the hash of the one before it."""
        after = _HEAD.match(following) if following is not None else None
        if number > seq:
            if after is not None and int(after[1]) == seq:
                text = f"record {seq} comes after record {number}"
                return VerificationError(Defect.REORDERED, seq, text)
            gone = f"record {seq} is" if number == seq + 1 else f"records {seq} to {number - 1} are"
            return VerificationError(Defect.MISSING, seq, f"{gone} missing")
        if number < seq:
            again = "again" if line == self._line else "a second time, differently"
            text = f"record {number} is here {again}, where record {seq} should be"
            return VerificationError(Defect.INSERTED, seq, text)
        # The numbers are right, so one of two lines was altered. It is this one if the next line
        # has the hash that this one would have with the right `prev`.
        fixed = leaf_hash(self.with_prev_fixed(line))[:8].hex().encode()
        if after is not None and fixed == after[2]:
            return self.this_record_altered()
        before = seq - 1
        return _altered(before, f"record {before} was altered: record {seq} has another hash of it")

    def _fit(self, seq: int, record: dict[str, Any]) -> None:
        stage = record["stage"]
        if record["v"] != self._version and stage != "segment":
            raise _altered(seq, f"record {seq} has another format version than its segment")
        if stage == "decided":
            if record["decision"] == "allow":
                self.open[seq] = record["id"]
        elif stage == "completed":
            if self.open.pop(record[self._decided_seq], None) != record["id"]:
                text = f"record {seq} completes call {record['id']!r}, which is not open"
                raise _altered(seq, text)
            self.unknown += record["outcome"] == "unknown"
        elif stage == "segment":
            self._header(seq, record)
        elif stage == "opened":
            self._must_close, self._close_by = set(self.open), seq + len(self.open)
        elif stage == "closed" and self.open:
            raise self._never_completed()
        elif stage == "archived":
            self.archived.append(record)
        elif stage == "gap":
            self.gaps += 1
        self.ended = stage == "closed"
        if seq == self._close_by and self._must_close & self.open.keys():
            raise self._never_completed()

    def _header(self, seq: int, record: dict[str, Any]) -> None:
        tree, version = record["tree"], record["v"]
        written = (
            record["log"],
            record["segment"],
            tree["size"],
            tree["root"],
            tree[member_name("frontier", version)],
            dict(record["open"]),
        )
        expected = (
            self.log or record["log"],
            self.segment + 1,
            seq,
            self.tree.root().hex(),
            [part.hex() for part in self.tree.frontier],
            self.open,
        )
        if written != expected:
            text = (
                f"record {seq}, the header of segment {self.segment + 1}, does not match the"
                " records before it"
            )
            raise _altered(seq, text)
        self.log, self.segment = record["log"], record["segment"]
        self._version, self._decided_seq = version, member_name("decided_seq", version)

    def _never_completed(self) -> VerificationError:
        seq = min(self.open)
        text = f"record {seq} decided call {self.open[seq]!r}, and no record has its outcome"
        return VerificationError(Defect.OPEN, seq, text)


def _altered(seq: int, text: str) -> VerificationError:
    return VerificationError(Defect.ALTERED, seq, text)
