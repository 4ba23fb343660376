"""One call in full: its records, the policies that decided it as they were then, its neighbours.

The policy texts come from the sets saved in the audit directory. Each set is compared with the
digest that the log itself has of it.
"""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proxy.audit.format.layout import logs
from proxy.audit.format.policy_snapshots import DIRECTORY as POLICY_SETS
from proxy.audit.format.policy_snapshots import digest, load_snapshot
from proxy.audit.reading.query import STAGE_BYTES, CallRecord, belongs_to
from proxy.audit.reading.reader import LogEntry, Position, read_log
from proxy.audit.reading.records import (
    CompletedRecord,
    DecidedRecord,
    PolicyRecord,
    RejectedRecord,
    parse_record,
)
from proxy.common.cedar_statements import split_statements

NEIGHBOURS: Final = 3
"""How many calls before and after a call are shown."""


@dataclass(slots=True)
class CallDetails:
    """A call with all that explains it.

    `policies` maps each deciding id to its text. `caveats` name what could not be shown.
    """

    call: CallRecord
    entries: list[LogEntry]
    policies: dict[str, str] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)
    before: list[LogEntry] = field(default_factory=list)
    after: list[LogEntry] = field(default_factory=list)


def call_details(directory: Path, call_id: str) -> list[CallDetails]:
    """Return the calls with this id, or with this request id in the case of a multicall."""
    return [
        details
        for path in logs(directory).values()
        for details in _in_log(directory, path, call_id)
    ]


def policy_text(texts: dict[str, str], policy_id: str) -> str | None:
    """Return the statement of one policy out of a set's files, from its first annotation on."""
    for name, text in texts.items():
        for statement in split_statements(text) if name.endswith(".cedar") else ():
            if statement.id == policy_id:
                return statement.text
    return None


def _in_log(directory: Path, log: Path, call_id: str) -> list[CallDetails]:
    needle = f'"id":"{call_id}'.encode()
    found: dict[int, CallDetails] = {}
    latest: deque[bytes] = deque(maxlen=NEIGHBOURS)
    digests: dict[str, str] = {}
    incomplete: list[CallDetails] = []

    def predicate(raw: bytes) -> bool:
        stage = raw[STAGE_BYTES]
        if needle in raw or b'"policy"' in stage:
            return True
        if b'"decided"' not in stage and b'"rejected"' not in stage:
            return False
        if not incomplete:
            latest.append(raw[:-1])  # decoded only if it turns out to be a neighbour
        return bool(incomplete)

    for entry in read_log(log, None, predicate):
        record = entry.record
        if isinstance(record, PolicyRecord):
            digests[record.hash] = record.texts_sha256
        elif isinstance(record, CompletedRecord):
            if belongs_to(record.id, call_id) and record.decided_seq in found:
                _complete(found[record.decided_seq], entry, record)
        elif not isinstance(record, DecidedRecord | RejectedRecord):
            continue
        elif belongs_to(record.id, call_id):
            call = CallRecord(entry.log, record, None, (entry.raw,))
            before = [LogEntry(entry.log, Position(), raw, parse_record(raw)) for raw in latest]
            details = CallDetails(call, [entry], before=before)
            _add_policies(directory, details, digests)
            found[record.seq] = details
            incomplete.append(details)
        else:
            for details in incomplete:
                details.after.append(entry)
            incomplete[:] = [each for each in incomplete if len(each.after) < NEIGHBOURS]
    return list(found.values())


def _complete(details: CallDetails, entry: LogEntry, record: CompletedRecord) -> None:
    first = details.call
    details.call = CallRecord(entry.log, first.decided, record, (*first.lines, entry.raw))
    details.entries.append(entry)


def _add_policies(directory: Path, details: CallDetails, digests: dict[str, str]) -> None:
    decided = details.call.decided
    if not isinstance(decided, DecidedRecord) or not decided.policies:
        return
    home = directory if (directory / POLICY_SETS).is_dir() else directory.parent
    policy_hash = decided.policy_hash
    try:
        texts = load_snapshot(home, policy_hash)
    except ValueError:
        texts = None
    if texts is None:
        details.caveats.append(f"the policy set {policy_hash} is not in the audit directory")
        return
    if policy_hash not in digests:
        details.caveats.append(
            f"no record says when {policy_hash} came into force, so nothing vouches for its texts"
        )
    elif digest(texts) != digests[policy_hash]:
        details.caveats.append(
            f"the saved policy set {policy_hash} is not the one that was in force: its texts have"
            " another hash"
        )
    for policy_id in decided.policies:
        text = policy_text(texts, policy_id)
        if text is None:
            details.caveats.append(f"the set has no policy {policy_id}")
        else:
            details.policies[policy_id] = text
