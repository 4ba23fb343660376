"""The policy sets that were in force, and the report on how each differs from the one before."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from proxy.audit.format.checkpoint import Checkpoint
from proxy.audit.format.policy_snapshots import DIRECTORY as POLICY_SETS
from proxy.audit.format.policy_snapshots import digest, load_snapshot
from proxy.audit.reading.reader import LogEntry
from proxy.audit.reading.records import PolicyRecord, SegmentRecord
from proxy.audit.reporting.report import Report, Section


@dataclass(frozen=True, slots=True)
class PolicyActivation:
    """A policy set that came into force, according to a record.

    `texts` are its files by name, or None if they are not saved or not those of then; `caveat` says
    which. `continued` means that it was in force already where the log begins, since earlier
    records were archived.
    """

    time: str
    log: str
    hash: str
    texts: dict[str, str] | None
    caveat: str = ""
    continued: bool = False


def policy_activations(entries: Iterable[LogEntry], directory: Path) -> Iterator[PolicyActivation]:
    """Yield what each ``policy`` record names, with the saved texts if the record vouches for them.

    Where the beginning of a log was archived, its first segment header names the set in force.
    """
    home = directory if (directory / POLICY_SETS).is_dir() else directory.parent
    begun: set[str] = set()
    for entry in entries:
        record = entry.record
        continued = isinstance(record, SegmentRecord)
        if not isinstance(record, PolicyRecord | SegmentRecord) or record.policy is None:
            continue
        if continued and entry.log in begun:
            continue
        begun.add(entry.log)
        policy = record.policy
        texts = load_snapshot(home, policy.hash)
        caveat = ""
        if texts is None:
            caveat = "its texts are not in the audit directory"
        elif digest(texts) != policy.texts_sha256:
            texts, caveat = None, "the saved texts are not those that came into force"
        yield PolicyActivation(record.time, entry.log, policy.hash, texts, caveat, continued)


def changes(
    activations: Iterable[PolicyActivation],
    since: str,
    until: str,
    period: str,
    basis: Sequence[Checkpoint],
) -> Report:
    """Return the report on the policy sets that came into force in the period, with differences.

    Args:
        activations: those of all logs from their beginning, by time. A reload ends one log and
            begins another, and the first set of a period is compared with the one before it.
        since: when the period begins.
        until: when it ends.
        period: its text.
        basis: the checkpoints that cover the records.

    """
    rows: list[tuple[str, ...]] = []
    texts: list[str] = []
    before: PolicyActivation | None = None
    for found in activations:
        if since <= found.time < until:
            what, difference = _change(before, found)
            rows.append((found.time, found.log, found.hash, what))
            texts += [difference] if difference else []
        before = found
    columns = ("time (UTC)", "log", "hash", "what changed")
    table = Section("Policy sets in force", columns, tuple(rows), tuple(texts))
    return Report("Changes of policies and roles", period, tuple(basis), (table,))


def _change(before: PolicyActivation | None, found: PolicyActivation) -> tuple[str, str]:
    """Return one line on what came with a set, and the difference in full."""
    if found.texts is None:
        return found.caveat, ""
    if before is None:
        first = "in force where the log begins: " if found.continued else "first: "
        return first + " ".join(sorted(found.texts)), ""
    if before.hash == found.hash:
        how = "in force where the log begins" if found.continued else "a process began with it"
        return f"as before ({how})", ""
    if before.texts is None:
        return f"changed; the difference cannot be shown: of the set before it, {before.caveat}", ""
    old, new = before.texts, found.texts
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    lines = [f"{found.time}  {found.log}"]
    for name in changed:
        lines += _difference(name, old, new)
    return "changed: " + " ".join(changed), "\n".join(lines)


def _difference(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    return unified_diff(
        old.get(name, "").splitlines(),
        new.get(name, "").splitlines(),
        f"before/{name}",
        f"after/{name}",
        lineterm="",
    )
