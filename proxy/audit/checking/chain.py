"""Follows one log record by record, as a checker: every line must follow from the one before.

Numbered as `Chain.take` does it: (1) the line is a record of the format; (2) it names the record
before it by hash; (3) its number is the next; (4) time does not go back; (5) what it says of the
log (segment header, calls opened and completed, a process that began or ended) fits what the lines
before said. The first line that does not is blamed, with the sort of wrong it is.

Shares the format with the writer, and nothing else. A forger who rewrites every later line too
passes here; the signed roots are what stops him (`proxy.audit.checking.verify`).
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from proxy.audit.format.merkle import Tree, leaf_hash
from proxy.audit.format.record import member_name

_HEAD = re.compile(
    rb'\{"v":[12],"seq":(0|[1-9][0-9]*),"prev":"([0-9a-f]{16})","time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)","stage":"[a-z-]+"[,}]'
)


class Defect(StrEnum):
    """The sorts of wrong there are."""

    ALTERED = "altered"
    MISSING = "missing"
    REORDERED = "reordered"
    INSERTED = "inserted"
    TRUNCATED = "truncated"
    OPEN = "decided without completed"
    SIGNATURE = "signature"
    INCONSISTENT = "inconsistent with the kept checkpoint"


@dataclass(eq=False)
class VerificationError(Exception):
    """The first defect of a log: what it is, and at which record (None: at no one record)."""

    defect: Defect
    seq: int | None
    text: str


@dataclass(slots=True)
class Chain:
    """What is known after the records so far.

    `begin_at_header` sets it to begin in the middle of a log.
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
    _line: bytes = b""
    _must_close: set[int] = field(default_factory=set)
    _close_by: int = -1

    def begin_at_header(self, header: bytes) -> None:
        """Begin at the header of a segment whose predecessors are not here.

        Its claims are taken for now; the signed roots prove or refute them.
        """
        found = _HEAD.match(header)
        try:
            record = orjson.loads(header)
            self.log, self.segment = record["log"], record["segment"] - 1
            self.tree = Tree(
                record["tree"]["size"],
                map(bytes.fromhex, record["tree"][member_name("frontier", record["v"])]),
            )
            self.open = dict(record["open"])
        except (ValueError, KeyError, TypeError) as error:
            raise VerificationError(
                Defect.ALTERED, None, "the first record of the segment is no segment header"
            ) from error
        if found is None:
            raise VerificationError(
                Defect.ALTERED, None, "the first record of the segment is no segment header"
            )
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
            raise VerificationError(
                Defect.ALTERED, seq, f"record {seq} is not readable as a record"
            )
        # 2. It names the one before. 3. Its number is the next.
        number = int(head[1])
        if head[2] != self.prev:
            raise self._misplaced(seq, number, line, following)
        if number != seq:
            raise VerificationError(
                Defect.ALTERED, seq, f"record {seq} says that it is record {number}"
            )
        # 4. Time does not go back.
        if head[3] < self.time:
            raise VerificationError(
                Defect.ALTERED, seq, f"record {seq} is earlier than the record before it"
            )
        # 5. It fits.
        try:
            self._fit(seq, record)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise VerificationError(
                Defect.ALTERED, seq, f"record {seq} lacks what its stage must have"
            ) from None
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
        return VerificationError(
            Defect.ALTERED,
            self.tree.size,
            f"record {self.tree.size} was altered: it does not name the record before it",
        )

    def _misplaced(
        self, seq: int, number: int, line: bytes, following: bytes | None
    ) -> VerificationError:
        """Say what is wrong when a line does not name the one before it."""
        after = _HEAD.match(following) if following is not None else None
        if number > seq:
            if after is not None and int(after[1]) == seq:
                return VerificationError(
                    Defect.REORDERED, seq, f"record {seq} stands after record {number}"
                )
            gone = f"record {seq} is" if number == seq + 1 else f"records {seq} to {number - 1} are"
            return VerificationError(Defect.MISSING, seq, f"{gone} missing")
        if number < seq:
            again = "again" if line == self._line else "a second time, differently"
            return VerificationError(
                Defect.INSERTED,
                seq,
                f"record {number} stands here {again}, where record {seq} should be",
            )
        # The numbers are right, so one of two lines was altered: this one if it would be right with
        # the hash it should have.
        if (
            after is not None
            and leaf_hash(self.with_prev_fixed(line))[:8].hex().encode() == after[2]
        ):
            return self.this_record_altered()
        return VerificationError(
            Defect.ALTERED,
            seq - 1,
            f"record {seq - 1} was altered: record {seq} names another in its place",
        )

    def _fit(self, seq: int, record: dict[str, Any]) -> None:
        stage = record["stage"]
        if stage == "decided":
            if record["decision"] == "allow":
                self.open[seq] = record["id"]
        elif stage == "completed":
            if self.open.pop(record[member_name("decided_seq", record["v"])], None) != record["id"]:
                raise VerificationError(
                    Defect.ALTERED,
                    seq,
                    f"record {seq} completes call {record['id']!r}, which is not open",
                )
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
        tree = record["tree"]
        said = (
            record["log"],
            record["segment"],
            tree["size"],
            tree["root"],
            tree[member_name("frontier", record["v"])],
            dict(record["open"]),
        )
        known = (
            self.log or record["log"],
            self.segment + 1,
            seq,
            self.tree.root().hex(),
            [part.hex() for part in self.tree.frontier],
            self.open,
        )
        if said != known:
            raise VerificationError(
                Defect.ALTERED,
                seq,
                f"record {seq}, the header of segment {self.segment + 1}, does not match the"
                " records before it",
            )
        self.log, self.segment = record["log"], record["segment"]

    def _never_completed(self) -> VerificationError:
        seq = min(self.open)
        return VerificationError(
            Defect.OPEN,
            seq,
            f"record {seq} decided call {self.open[seq]!r}, and nothing says what came of it",
        )
