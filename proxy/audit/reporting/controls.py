"""The reports that controls ask for: access, refusals and completeness.

The report on access compares what principals may do with what they did. Only the policy layer can
tell what they may do, so that comes in as a function; everything else is in the log.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.audit.checking.log_verifier import LogReport
from proxy.audit.checking.signatures import Keys
from proxy.audit.format.checkpoint import Checkpoint, format_key
from proxy.audit.reading.query import CallRecord, address_of
from proxy.audit.reading.reader import LogEntry
from proxy.audit.reading.records import (
    ClosedRecord,
    DecidedRecord,
    GapRecord,
    OpenedRecord,
    RecordedPrincipal,
    Recovery,
)
from proxy.audit.reading.rows import principal_name
from proxy.audit.reporting.report import Report, Section

Right = tuple[str, str]
"""An upstream and a permission."""

RightsOf = Callable[[RecordedPrincipal], Mapping[Right, Sequence[str]]]
"""Returns the methods that the policies could allow to a principal, by right."""

GATE_PROTOCOL = "callgate"
"""The protocol of calls that Callgate answers itself (system.listMethods)."""

# Addresses that the report on refusals lists per row.
MAX_ADDRESSES = 4


@dataclass(slots=True)
class _Usage:
    """What one principal did, by right. `principal` has the roles it last had in the period."""

    principal: RecordedPrincipal
    methods: dict[Right, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    last: dict[Right, str] = field(default_factory=dict)


def access(
    calls: Iterable[CallRecord],
    rights_of: RightsOf,
    roles: Sequence[tuple[str, str]],
    period: str,
    basis: Sequence[Checkpoint],
    notes: Sequence[str],
) -> Report:
    """Return the report on rights granted and rights used, unused ones first.

    Args:
        calls: the calls of the period.
        rights_of: what the policies could allow to a principal.
        roles: each role with the condition for having it.
        period: the text of the period.
        basis: the checkpoints that cover the calls.
        notes: what the reader must know.

    """
    usages = _usages(calls)
    holders: Counter[str] = Counter()
    rows: list[tuple[int, tuple[str, ...]]] = []
    for usage in usages:
        holders.update(usage.principal.roles)
        rows += _access_rows(usage, rights_of(usage.principal))
    rows.sort()
    columns = (
        "principal",
        "roles",
        "upstream",
        "permission",
        "granted",
        "used",
        "calls",
        "last used (UTC)",
        "methods not used",
    )
    by_principal = Section(
        "By principal, unused rights first", columns, tuple(cells for _, cells in rows)
    )
    grants = Section(
        "Roles and to whom they are given",
        ("role", "given to", "principals seen with it"),
        tuple((role, given_to, str(holders[role])) for role, given_to in roles),
    )
    title = "Access: rights granted against rights used"
    return Report(title, period, tuple(basis), (by_principal, grants), tuple(notes))


def _usages(calls: Iterable[CallRecord]) -> Iterable[_Usage]:
    found: dict[str, _Usage] = {}
    for call in calls:
        record = call.decided
        if record.principal is None:
            continue
        usage = found.setdefault(record.principal.url_name, _Usage(record.principal))
        usage.principal = record.principal
        if not isinstance(record, DecidedRecord) or not record.allowed:
            continue
        # Calls that Callgate answers itself need a role and no right.
        if record.protocol == GATE_PROTOCOL:
            continue
        right = (str(record.upstream), str(record.permission))
        usage.methods[right][str(record.method)] += call.calls
        usage.last[right] = max(usage.last.get(right, ""), record.time)
    return found.values()


def _access_rows(
    usage: _Usage, rights: Mapping[Right, Sequence[str]]
) -> Iterable[tuple[int, tuple[str, ...]]]:
    """Yield the rows of one principal, each after its rank: unused, partly used, used."""
    principal = usage.principal
    for right in sorted({*rights, *usage.methods}):
        granted = set(rights.get(right, ()))
        used = usage.methods.get(right, Counter())
        unused = sorted(granted - used.keys())
        cells = (
            principal_name(principal),
            " ".join(principal.roles) or "-",
            *right,
            str(len(granted)),
            str(len(used)),
            f"{used.total():,}",
            _to_second(usage.last.get(right, "never")),
            " ".join(unused) or "-",
        )
        yield 0 if not used else 1 if unused else 2, cells


@dataclass(slots=True)
class _Refusals:
    """How often one principal was refused one method for one reason."""

    count: int = 0
    first: str = ""
    last: str = ""
    addresses: set[str] = field(default_factory=set)

    def add(self, count: int, first: str, last: str, address: str) -> None:
        self.count += count
        self.first = min(self.first or first, first)
        self.last = max(self.last, last)
        if len(self.addresses) < MAX_ADDRESSES:
            self.addresses.add(address)


def refusals(calls: Iterable[CallRecord], period: str, basis: Sequence[Checkpoint]) -> Report:
    """Return the report on refusals, by reason, and by principal and method."""
    reasons: Counter[str] = Counter()
    found: dict[tuple[str, ...], _Refusals] = defaultdict(_Refusals)
    for call in calls:
        record = call.decided
        if isinstance(record, DecidedRecord) and record.allowed:
            continue
        counts: Mapping[str, int] = {call.reason: call.calls}
        first = last = record.time
        if record.summary is not None:
            counts = record.summary.reasons
            first, last = record.summary.first or first, record.summary.last or last
        method = record.method if isinstance(record, DecidedRecord) else None
        for reason, count in counts.items():
            key = (
                reason,
                principal_name(record.principal),
                record.upstream or "-",
                method or "-",
            )
            found[key].add(count, first, last, address_of(record) or "many")
            reasons[reason] += count
    by_reason = Section(
        "By reason",
        ("reason", "times"),
        tuple((reason, f"{count:,}") for reason, count in reasons.most_common()),
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
    most_first = sorted(found.items(), key=lambda item: -item[1].count)
    by_principal = Section(
        "By principal and method",
        columns,
        tuple(
            (
                *key,
                f"{each.count:,}",
                _to_second(each.first),
                _to_second(each.last),
                " ".join(sorted(each.addresses)),
            )
            for key, each in most_first
        ),
    )
    return Report("Refusals", period, tuple(basis), (by_reason, by_principal))


def completeness(reports: Sequence[LogReport], keys: Keys, entries: Iterable[LogEntry]) -> Report:
    """Return the report on what is in the logs and what proves that nothing is missing.

    Args:
        reports: the result of checking each log.
        keys: the public keys that it was checked with.
        entries: the `disruptions` of the logs.

    """
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
    logs = tuple(
        (
            each.log,
            f"broken: {each.broken.text}" if each.broken else "intact",
            str(each.segments),
            f"{each.first:,}",
            f"{each.records:,}",
            f"{each.signed:,}",
            str(each.unsigned),
            f"{each.checkpoints:,}",
            str(each.open),
            str(each.unknown),
            _to_second(each.first_time),
            _to_second(each.last_time),
        )
        for each in reports
    )
    begin = min((each.first_time for each in reports), default="")
    end = max((each.last_time for each in reports), default="")
    gaps = ("time (UTC)", "log", "what", "since", "why", "calls refused")
    return Report(
        "Completeness of the audit log",
        f"{begin} to {end}",
        tuple(each.last for each in reports if each.last is not None),
        (
            Section("Logs", columns, logs),
            Section("Gaps and crashes", gaps, tuple(_disruption(entry) for entry in entries)),
            Section(
                "Public keys used",
                ("key",),
                tuple((format_key(name, public),) for name, public in keys),
            ),
        ),
        tuple(f"{each.log}: {note}" for each in reports for note in each.notes),
    )


def disruptions(entries: Iterable[LogEntry]) -> list[LogEntry]:
    """Return the gaps, and each process that began after one that had not ended in order.

    Needs the records of the stages opened, closed and gap.
    """
    found: list[LogEntry] = []
    running: set[str] = set()
    for entry in entries:
        record = entry.record
        if isinstance(record, GapRecord):
            found.append(entry)
        elif isinstance(record, OpenedRecord):
            if entry.log in running or record.recovered is not None:
                found.append(entry)
            running.add(entry.log)
        elif isinstance(record, ClosedRecord):
            running.discard(entry.log)
    return found


def _disruption(entry: LogEntry) -> tuple[str, ...]:
    record = entry.record
    if isinstance(record, GapRecord):
        refused = str(record.refused)
        if record.rejected:
            refused += f", and {record.rejected} requests rejected"
        what = ("not writable", _to_second(record.since), record.error, refused)
    else:
        recovered = record.recovered if isinstance(record, OpenedRecord) else None
        recovered = recovered or Recovery()
        text = (
            f"{recovered.unknown} calls closed as unknown,"
            f" {recovered.torn_bytes} bytes of a torn record cut off"
        )
        what = ("the process before it did not end in order", "", text, "")
    return (_to_second(entry.time), entry.log, *what)


def _to_second(time: str) -> str:
    """Return a record's time without its fraction and zone."""
    return time[:19]
