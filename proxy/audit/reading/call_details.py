"""One call whole: its records, the policies that decided it as they were then, and what stood
beside it in the log.

The texts come from the policy sets kept beside the log; each is held against the digest that the
log itself has of it.
"""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.audit.format.layout import logs
from proxy.audit.format.policy_snapshots import digest, load_snapshot
from proxy.audit.reading.query import CallRecord
from proxy.audit.reading.reader import LogEntry, parse, read_log
from proxy.common.cedar_statements import split_statements

NEIGHBOURS = 3


@dataclass(slots=True)
class CallDetails:
    """A call with all that explains it. `policies` maps each deciding id to its text, `doubts` says
    what could not be shown.
    """

    call: CallRecord
    entries: list[LogEntry]
    policies: dict[str, str] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)
    before: list[dict[str, Any]] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)


def call_details(directory: Path, call_id: str) -> list[CallDetails]:
    """Return the calls with this id (several for a multicall, asked for by the request's id); empty
    when there is none.
    """
    return [
        whole for path in logs(directory).values() for whole in _in_log(directory, path, call_id)
    ]


def policy_text(texts: dict[str, str], policy_id: str) -> str | None:
    """Return the statement of one policy out of a set's files, from its first annotation on."""
    for name, text in texts.items():
        for statement in split_statements(text) if name.endswith(".cedar") else ():
            if statement.id == policy_id:
                return statement.text
    return None


def _in_log(directory: Path, log: Path, call_id: str) -> list[CallDetails]:
    wanted = f'"id":"{call_id}'.encode()
    found: dict[int, CallDetails] = {}
    last: deque[bytes] = deque(maxlen=NEIGHBOURS)
    digests: dict[str, str] = {}
    waiting: list[CallDetails] = []

    def sift(raw: bytes) -> bool:
        stage = raw[70:110]
        if wanted in raw or b'"policy"' in stage:
            return True
        if b'"decided"' not in stage and b'"rejected"' not in stage:
            return False
        if len(waiting) == 0:
            last.append(raw)  # parsed only if it turns out to be a neighbour
        return len(waiting) > 0

    for item in read_log(log, None, sift):
        record = item.record
        mine = record.get("id") == call_id or str(record.get("id", "")).startswith(f"{call_id}.")
        if record.get("stage") == "policy":
            digests[str(record.get("hash"))] = str(record.get("texts_sha256"))
        elif mine and record.get("stage") in ("decided", "rejected"):
            whole = CallDetails(
                CallRecord(item.log, record), [item], before=[parse(raw) for raw in last]
            )
            _policies(directory, whole, digests)
            found[int(record["seq"])] = whole
            waiting.append(whole)
        elif (
            mine
            and record.get("stage") == "completed"
            and (done := found.get(record.get("decided", -1))) is not None
        ):
            done.call = CallRecord(item.log, done.call.decided, record)
            done.entries.append(item)
        elif record.get("stage") in ("decided", "rejected"):
            for whole in waiting:
                whole.after.append(record)
            waiting[:] = [whole for whole in waiting if len(whole.after) < NEIGHBOURS]
    return list(found.values())


def _policies(directory: Path, whole: CallDetails, digests: dict[str, str]) -> None:
    decided = whole.call.decided
    ids = [str(policy) for policy in decided.get("policies", ())]
    policy_hash = str(decided.get("policy_hash", ""))
    if not ids:
        return
    try:
        texts = load_snapshot(
            directory if (directory / "policies").is_dir() else directory.parent, policy_hash
        )
    except ValueError:
        texts = None
    if texts is None:
        whole.caveats.append(f"the policy set {policy_hash} is not kept beside the log")
        return
    if policy_hash in digests and digest(texts) != digests[policy_hash]:
        whole.caveats.append(
            f"the kept policy set {policy_hash} is not the one that was in force: its texts have another hash"
        )
    elif policy_hash not in digests:
        whole.caveats.append(
            f"no record says when {policy_hash} came into force, so its texts are not vouched for"
        )
    for policy_id in ids:
        text = policy_text(texts, policy_id)
        if text is None:
            whole.caveats.append(f"the set has no policy {policy_id}")
        else:
            whole.policies[policy_id] = text
