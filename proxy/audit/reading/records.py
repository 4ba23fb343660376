"""Audit records as typed values, decoded from lines of a log.

Reads the record formats 1 and 2 (`proxy.audit.format.record`) and maps the members that format 1
names otherwise (``class``, ``origin``, ``known``, ``decided``, ``cut``) to the names of format 2.
Ignores members that it does not know, as the format allows.

Trusts nothing but the shape: `callgate audit verify` is what checks a log. A line that is not a
record of these formats, or whose members have other types, becomes an `OtherRecord`.
"""

from typing import Any, Final

import msgspec
import orjson
from msgspec import Raw, Struct, field

NO_SEQ: Final = -1
"""The sequence number of a record that has none."""

UNREADABLE: Final = "unreadable"
"""The stage of a line that cannot be read as a record."""


class RecordedPrincipal(Struct, frozen=True):
    """The principal of a call, with the roles that counted."""

    issuer: str = ""
    issuer_name: str = ""
    subject: str = ""
    roles: tuple[str, ...] = ()
    agent: bool = False

    @property
    def name(self) -> str:
        """The issuer's name and the subject."""
        return f"{self.issuer_name}|{self.subject}"

    @property
    def url_name(self) -> str:
        """The issuer's URL and the subject, which no other principal has."""
        return f"{self.issuer}|{self.subject}"


class RecordedPeer(Struct, frozen=True):
    """Where a call came from."""

    address: str = ""
    port: int | None = None
    tls: str | None = None
    user_agent: str = ""
    hop: str | None = None


class WindowCounts(Struct, frozen=True):
    """What a heartbeat window covered, as its completed record counts it."""

    calls: int = 0
    first: str = ""
    last: str = ""
    outcomes: dict[str, int] = {}


class SummaryPart(Struct, frozen=True):
    """The part of a summary with one upstream, method, reason and address; None for several."""

    upstream: str | None = None
    method: str | None = None
    permission: str | None = None
    reason: str = ""
    address: str | None = None
    count: int = 0


class FloodSummary(Struct, frozen=True):
    """Refusals that were counted and not recorded one by one: of an address, or of a principal.

    `address` is None for several addresses. Only the summary of a principal has `first`, `last` and
    `calls`.
    """

    address: str | None = None
    count: int = 0
    seconds: int | float = 0
    reasons: dict[str, int] = {}
    first: str = ""
    last: str = ""
    calls: tuple[SummaryPart, ...] = ()

    @property
    def period(self) -> str:
        """The time in which the refusals came."""
        return f"until {self.last}" if self.last else f"in {self.seconds} s"


class Recovery(Struct, frozen=True):
    """What a starting process found of one that had crashed."""

    torn_bytes: int = 0
    unknown: int = 0


class Record(Struct, frozen=True, kw_only=True, tag_field="stage"):
    """What every record has. `stage` is also the tag by which the type is chosen."""

    seq: int = NO_SEQ
    time: str = ""

    @property
    def stage(self) -> str:
        """What the record is about."""
        return str(self.__struct_config__.tag)


class DecidedRecord(Record, frozen=True, kw_only=True, tag="decided"):
    """A call that was decided. `args` is JSON as recorded, with secrets redacted, or empty.

    `changed` are the arguments that were made harmless.
    """

    id: str = ""
    principal: RecordedPrincipal | None = None
    peer: RecordedPeer = RecordedPeer()
    upstream: str | None = None
    protocol: str | None = None
    method: str | None = None
    permission: str | None = None
    in_catalog: bool = True
    task: Any = None
    args: Raw = Raw()
    changed: tuple[str, ...] = ()
    decision: str = ""
    reason: str = ""
    policies: tuple[str, ...] = ()
    policy_hash: str = ""
    summary: FloodSummary | None = None

    @property
    def allowed(self) -> bool:
        """Whether the call was allowed, and so has an outcome."""
        return self.decision == "allow"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments as recorded, decoded."""
        return members_of(bytes(self.args))


class CompletedRecord(Record, frozen=True, kw_only=True, tag="completed"):
    """The outcome of an allowed call, or of all calls of a heartbeat window."""

    id: str = ""
    decided_seq: int = NO_SEQ
    outcome: str = ""
    reason: str | None = None
    status: int | None = None
    bytes: int | None = None
    duration_us: int | None = None
    window: WindowCounts | None = None


class RejectedRecord(Record, frozen=True, kw_only=True, tag="rejected"):
    """A request that became no call, or the summary of a flood of them."""

    id: str | None = None
    reason: str | None = None
    detail: str | None = None
    peer: RecordedPeer = RecordedPeer()
    principal: RecordedPrincipal | None = None
    upstream: str | None = None
    summary: FloodSummary | None = None


class PolicyInForce(Struct, frozen=True):
    """A policy set as a record names it."""

    hash: str = ""
    texts_sha256: str = ""


class PolicyRecord(Record, frozen=True, kw_only=True, tag="policy"):
    """A policy set came into force."""

    hash: str = ""
    texts_sha256: str = ""

    @property
    def policy(self) -> PolicyInForce:
        """The policy set."""
        return PolicyInForce(self.hash, self.texts_sha256)


class SegmentRecord(Record, frozen=True, kw_only=True, tag="segment"):
    """The first record of a segment. `policy` is the policy set in force where it begins."""

    log: str = ""
    segment: int = 0
    policy: PolicyInForce | None = None


class OpenedRecord(Record, frozen=True, kw_only=True, tag="opened"):
    """A process began to write. `recovered` is None if its predecessor had closed the log."""

    recovered: Recovery | None = None


class GapRecord(Record, frozen=True, kw_only=True, tag="gap"):
    """The log could not be written for a while.

    `rejected` counts requests that became no call and have no record, where the process ended.
    """

    since: str = ""
    error: str = ""
    refused: int = 0
    rejected: int = 0


class ClockRecord(Record, frozen=True, kw_only=True, tag="clock"):
    """The clock was set back."""

    behind_us: int = 0


class IdleRecord(Record, frozen=True, kw_only=True, tag="idle"):
    """Nothing happened for an hour."""


class ArchivedRecord(Record, frozen=True, kw_only=True, tag="archived"):
    """Segments of a log were moved away."""

    log: str = ""
    segments: tuple[int, ...] = ()
    size: int = 0
    root: str = ""
    to: str = ""


class ClosedRecord(Record, frozen=True, kw_only=True, tag="closed"):
    """The process ended in order."""


class OtherRecord(Struct, frozen=True, kw_only=True):
    """A record of a stage or format to come, or a line that is not a record at all."""

    seq: int = NO_SEQ
    time: str = ""
    stage: str = UNREADABLE


AnyRecord = (
    DecidedRecord
    | CompletedRecord
    | RejectedRecord
    | PolicyRecord
    | SegmentRecord
    | OpenedRecord
    | GapRecord
    | ClockRecord
    | IdleRecord
    | ArchivedRecord
    | ClosedRecord
    | OtherRecord
)


class _DecidedV1(DecidedRecord, frozen=True, kw_only=True, tag="decided"):
    peer: RecordedPeer = field(name="origin", default=RecordedPeer())
    permission: str | None = field(name="class", default=None)
    in_catalog: bool = field(name="known", default=True)


class _CompletedV1(CompletedRecord, frozen=True, kw_only=True, tag="completed"):
    decided_seq: int = field(name="decided", default=NO_SEQ)


class _RejectedV1(RejectedRecord, frozen=True, kw_only=True, tag="rejected"):
    peer: RecordedPeer = field(name="origin", default=RecordedPeer())


class _RecoveryV1(Recovery, frozen=True):
    torn_bytes: int = field(name="cut", default=0)


class _OpenedV1(OpenedRecord, frozen=True, kw_only=True, tag="opened"):
    recovered: _RecoveryV1 | None = None


_SAME_IN_BOTH = (
    PolicyRecord
    | SegmentRecord
    | GapRecord
    | ClockRecord
    | IdleRecord
    | ArchivedRecord
    | ClosedRecord
)
_V1: Final = msgspec.json.Decoder(
    _DecidedV1 | _CompletedV1 | _RejectedV1 | _OpenedV1 | _SAME_IN_BOTH
)
_V2: Final = msgspec.json.Decoder(
    DecidedRecord | CompletedRecord | RejectedRecord | OpenedRecord | _SAME_IN_BOTH
)
_OTHER: Final = msgspec.json.Decoder(OtherRecord)
_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def parse_record(line: bytes) -> AnyRecord:
    """Return the record of a line without its LF. Never raises."""
    if line.startswith(b'{"v":2,'):
        decoder = _V2
    elif line.startswith(b'{"v":1,'):
        decoder = _V1
    else:
        return _other(line)
    try:
        found: AnyRecord = decoder.decode(line)
    except _ERRORS:
        return _other(line)
    return found


def members_of(line: bytes) -> dict[str, Any]:
    """Return all members of a JSON object as they are written. Never raises."""
    try:
        found = orjson.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _other(line: bytes) -> OtherRecord:
    try:
        found = _OTHER.decode(line)
    except _ERRORS:
        return OtherRecord()
    known = found.stage in _STAGES and line.startswith((b'{"v":1,', b'{"v":2,'))
    # A stage of these formats, with members of other types: its meaning is not known.
    return OtherRecord(seq=found.seq, time=found.time) if known else found


_STAGES: Final = frozenset(
    str(kind.__struct_config__.tag)
    for kind in (
        DecidedRecord,
        CompletedRecord,
        RejectedRecord,
        PolicyRecord,
        SegmentRecord,
        OpenedRecord,
        GapRecord,
        ClockRecord,
        IdleRecord,
        ArchivedRecord,
        ClosedRecord,
    )
)
