"""The reports for controls, computed: access, changes, refusals, completeness.

Access compares what principals may do with what they did. What they may do is the policy layer's to
say, so it comes in as a function; everything else is read from the log and the policy sets kept
beside it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Any

from proxy.audit.checking.verify import Keys, LogReport
from proxy.audit.format.checkpoint import Checkpoint, format_key
from proxy.audit.format.policy_snapshots import DIRECTORY as POLICY_SETS
from proxy.audit.format.policy_snapshots import digest, load_snapshot
from proxy.audit.reading.query import CallRecord
from proxy.audit.reading.reader import LogEntry
from proxy.audit.reading.rows import principal_name
from proxy.audit.reporting.report import Report, Section

RightsOf = Callable[[dict[str, Any]], Mapping[tuple[str, str], Sequence[str]]]
"""Says for a recorded principal, by (upstream, class), which methods the policies could allow it.
"""


@dataclass(slots=True)
class _Used:
    principal: dict[str, Any]
    methods: dict[tuple[str, str], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    last: dict[tuple[str, str], str] = field(default_factory=dict)


def access(
    calls: Iterable[CallRecord],
    granted: RightsOf,
    roles: Sequence[tuple[str, str]],
    period: str,
    basis: Sequence[Checkpoint],
    notes: Sequence[str],
) -> Report:
    """Return who holds which rights and what they used of them, unused rights first. `roles` are
    (role, whom it is given to).
    """
    used: dict[str, _Used] = {}
    held: Counter[str] = Counter()
    for call in calls:
        principal = call.decided.get("principal")
        if not isinstance(principal, dict):
            continue
        # A principal is taken with the roles it last had in the period.
        entry = used.setdefault(
            f"{principal.get('issuer')}|{principal.get('subject')}", _Used(principal)
        )
        entry.principal = principal
        # Questions to the gate itself (system.listMethods) are nobody's right: whoever has a role
        # may ask, and is told what is granted.
        if call.decided.get("decision") == "allow" and call.decided.get("protocol") != "callgate":
            key = (str(call.decided.get("upstream")), str(call.decided.get("class")))
            entry.methods[key][str(call.decided.get("method"))] += call.calls
            entry.last[key] = max(entry.last.get(key, ""), str(call.decided.get("time")))
    rows: list[tuple[int, tuple[str, ...]]] = []
    for entry in used.values():
        name, role = (
            principal_name({"principal": entry.principal}),
            " ".join(entry.principal.get("roles", ())),
        )
        held.update(entry.principal.get("roles", ()))
        rights = granted(entry.principal)
        for key in sorted({*rights, *entry.methods}):
            may, did = set(rights.get(key, ())), entry.methods.get(key, Counter())
            unused = sorted(may - did.keys())
            shown = " ".join(unused) if unused else "-"
            cells = (
                name,
                role or "-",
                *key,
                str(len(may)),
                str(len(did)),
                f"{did.total():,}",
                entry.last.get(key, "never")[:19],
                shown,
            )
            rows.append((0 if not did else 1 if unused else 2, cells))
    rows.sort()
    columns = (
        "principal",
        "roles",
        "upstream",
        "class",
        "granted",
        "used",
        "calls",
        "last used (UTC)",
        "methods not used",
    )
    grants = tuple((role, whom, str(held[role])) for role, whom in roles)
    return Report("Access: rights granted against rights used", period, tuple(basis), (
        Section("By principal, unused rights first", columns, tuple(cells for _, cells in rows)),
        Section("Roles and to whom they are given", ("role", "given to", "principals seen with it"), grants),
    ), tuple(notes))  # fmt: skip


@dataclass(frozen=True, slots=True)
class PolicyActivation:
    """A policy set as the log says that it came into force. `texts` is None when they are not kept,
    or not those of then.

    `continued` says that it was in force already where the log begins, what came before being
    archived.
    """

    time: str
    log: str
    hash: str
    texts: dict[str, str] | None
    caveat: str = ""
    continued: bool = False


def policy_activations(items: Iterable[LogEntry], directory: Path) -> Iterator[PolicyActivation]:
    """Give what each ``policy`` record says, with the texts kept beside the log, which must be
    those that the record vouches for.

    Where the beginning of a log was archived, its first segment header says which set was in force
    there.
    """
    home = directory if (directory / POLICY_SETS).is_dir() else directory.parent
    begun: set[str] = set()
    for item in items:
        header = item.record.get("stage") == "segment"
        said = item.record.get("policy") if header else item.record
        if (
            item.record.get("stage") not in ("policy", "segment")
            or (header and item.log in begun)
            or not isinstance(said, dict)
        ):
            continue
        begun.add(item.log)
        policy_hash = str(said.get("hash"))
        kept = load_snapshot(home, policy_hash)
        if kept is None:
            doubt = "its texts are not kept beside the log"
        elif digest(kept) != said.get("texts_sha256"):
            kept, doubt = None, "the kept texts are not those that came into force"
        else:
            doubt = ""
        yield PolicyActivation(item.time, item.log, policy_hash, kept, doubt, continued=header)


def changes(
    sets: Iterable[PolicyActivation],
    since: str,
    until: str,
    period: str,
    basis: Sequence[Checkpoint],
) -> Report:
    """Return every policy set that came into force in the period, when, by which hash, and how it
    differs from the one before.

    `sets` are those of all logs from their beginning, by time: a reload goes on in another log than
    the one that it ends, and the first set of a period is held against what was in force before it.
    """
    rows: list[tuple[str, ...]] = []
    texts: list[str] = []
    before: PolicyActivation | None = None
    for found in sets:
        if since <= found.time < until:
            what, difference = _change(before, found)
            rows.append((found.time, found.log, found.hash, what))
            texts += [difference] if difference else []
        before = found
    table = Section(
        "Policy sets in force",
        ("time (UTC)", "log", "hash", "what changed"),
        tuple(rows),
        tuple(texts),
    )
    return Report("Changes of policies and roles", period, tuple(basis), (table,))


def _change(before: PolicyActivation | None, found: PolicyActivation) -> tuple[str, str]:
    """Say in a line what came with a set, and in a text how."""
    if found.texts is None:
        return found.caveat, ""
    if before is None:
        return ("in force where the log begins: " if found.continued else "first: ") + " ".join(
            sorted(found.texts)
        ), ""
    if before.hash == found.hash and found.continued:
        return "as before (in force where the log begins)", ""
    if before.hash == found.hash:
        return "as before (a process began with it)", ""
    if before.texts is None:
        return (
            f"another than before; no difference can be shown: of the set before it, {before.caveat}",
            "",
        )
    old, new = before.texts, found.texts
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    lines = [
        f"{found.time}  {found.log}",
        *(line for name in changed for line in _difference(name, old, new)),
    ]
    return "changed: " + " ".join(changed), "\n".join(lines)


def refusals(calls: Iterable[CallRecord], period: str, basis: Sequence[Checkpoint]) -> Report:
    """Return what was refused: by reason and principal, with how often, when first and last, and
    from where.
    """
    counted: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], str] = {}
    last: dict[tuple[str, ...], str] = {}
    addresses: dict[tuple[str, ...], set[str]] = defaultdict(set)
    reasons: Counter[str] = Counter()
    for call in calls:
        if call.result not in ("deny", "rejected"):
            continue
        record = call.decided
        summary = record.get("summary")
        if isinstance(summary, dict):
            shares, address = (
                {str(r): int(n) for r, n in dict(summary.get("reasons", {})).items()},
                summary.get("address"),
            )
        else:
            shares, address = {call.reason: call.calls}, (record.get("origin") or {}).get("address")
        for reason, share in shares.items():
            key = (
                reason,
                principal_name(record),
                str(record.get("upstream") or "-"),
                str(record.get("method") or "-"),
            )
            counted[key] += share
            reasons[reason] += share
            time = str(record.get("time"))
            first[key] = min(first.get(key, time), time)
            last[key] = max(last.get(key, time), time)
            if len(addresses[key]) < 4:
                addresses[key].add(str(address or "many"))
    rows = tuple(
        (*key, f"{n:,}", first[key][:19], last[key][:19], " ".join(sorted(addresses[key])))
        for key, n in counted.most_common()
    )
    columns = (
        "reason",
        "principal",
        "upstream",
        "method",
        "times",
        "first (UTC)",
        "last (UTC)",
        "from",
    )
    return Report("Refusals", period, tuple(basis), (
        Section("By reason", ("reason", "times"), tuple((reason, f"{n:,}") for reason, n in reasons.most_common())),
        Section("By principal and method", columns, rows),
    ))  # fmt: skip


def completeness(reports: Sequence[LogReport], keys: Keys, gaps: Iterable[LogEntry]) -> Report:
    """Return what is there and what proves that it is all: segments, counts, checkpoints, gaps, and
    the public key used.
    """
    logs = tuple(
        (r.log, "broken: " + r.broken.text if r.broken else "intact", str(r.segments), f"{r.first:,}", f"{r.records:,}", f"{r.signed:,}",
         str(r.unsigned), f"{r.checkpoints:,}", str(r.open), str(r.unknown), r.first_time[:19], r.last_time[:19])
        for r in reports
    )  # fmt: skip
    columns = (
        "log",
        "verdict",
        "segments",
        "first record",
        "records",
        "signed up to",
        "unsigned",
        "checkpoints",
        "open",
        "unknown",
        "from (UTC)",
        "to (UTC)",
    )
    disturbed = tuple(_disturbance(item) for item in gaps)
    begins, ends = (
        min((r.first_time for r in reports), default=""),
        max((r.last_time for r in reports), default=""),
    )
    return Report("Completeness of the audit log", f"{begins} to {ends}", tuple(r.last for r in reports if r.last is not None), (
        Section("Logs", columns, logs),
        Section("Gaps and disorderly ends", ("time (UTC)", "log", "what", "since", "why", "calls refused"), disturbed),
        Section("Public keys used", ("key",), tuple((format_key(name, public),) for name, public in keys)),
    ), tuple(f"{r.log}: {note}" for r in reports for note in r.notes))  # fmt: skip


def disruptions(items: Iterable[LogEntry]) -> list[LogEntry]:
    """Return, of the stages opened, closed and gap, the gaps and each process that began without
    its predecessor having ended in order.
    """
    found: list[LogEntry] = []
    running: set[str] = set()
    for item in items:
        stage = item.record.get("stage")
        if stage == "gap" or (
            stage == "opened" and (item.log in running or item.record.get("recovered"))
        ):
            found.append(item)
        if stage == "opened":
            running.add(item.log)
        elif stage == "closed":
            running.discard(item.log)
    return found


def _disturbance(item: LogEntry) -> tuple[str, ...]:
    record = item.record
    if record.get("stage") == "gap":
        what = (
            "not writable",
            str(record.get("since", ""))[:19],
            str(record.get("error") or ""),
            str(record.get("refused", "")),
        )
    else:
        found = record.get("recovered") or {}
        text = f"{found.get('unknown', 0)} calls closed as unknown, {found.get('cut', 0)} bytes of a torn record cut off"
        what = ("the process before it ended without order", "", text, "")
    return (item.time[:19], item.log, *what)


def _difference(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    lines = unified_diff(
        old.get(name, "").splitlines(),
        new.get(name, "").splitlines(),
        f"before/{name}",
        f"after/{name}",
        lineterm="",
    )
    return list(lines)
