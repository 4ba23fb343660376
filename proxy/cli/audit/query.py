"""``callgate audit query`` and ``stats``: find calls, and count them."""

import csv
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from itertools import islice
from typing import Annotated, get_args

import typer

from proxy.audit.format.record import dumps
from proxy.audit.reading.query import CallRecord, Filter, find_calls
from proxy.audit.reading.rows import COLUMNS, call_row
from proxy.audit.reading.stats import Stats, bar, count
from proxy.audit.reporting.report import escape_formula
from proxy.cli.audit.common import (
    AsJson,
    Config,
    Directory,
    directory_with_logs,
    fail,
    instant,
    print_table,
    verb,
)
from proxy.common.text import escape_controls
from proxy.model import Permission, Reason

_PART = 200  # rows laid out together: the first ones show while the rest is still being read

Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        help="From this time on: 2026-01-31, 2026-01-31T12:00Z, or 2h, 7d ago.",
        metavar="TIME",
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", help="Before this time, written alike.", metavar="TIME")
]
Principal = Annotated[
    str | None,
    typer.Option("--principal", help="A subject, issuer name|subject, or issuer|subject."),
]
Role = Annotated[str | None, typer.Option("--role", help="A role that the principal held.")]
Method = Annotated[str | None, typer.Option("--method", help="A method.")]
PermissionName = Annotated[
    str | None, typer.Option("--permission", help="view, work, trigger or admin.")
]
Upstream = Annotated[str | None, typer.Option("--upstream", help="An upstream by name.")]
Effect = Annotated[
    str | None,
    typer.Option("--decision", help="allow, deny, or reject (never became a call)."),
]
Why = Annotated[
    str | None, typer.Option("--reason", help="A reason code, as the README lists them.")
]
Task = Annotated[str | None, typer.Option("--task", help="A task id or a task family.")]
Address = Annotated[
    str | None, typer.Option("--address", help="The address a call came from (one, no network).")
]
Id = Annotated[str | None, typer.Option("--id", help="A request id.")]


@verb("query", "--since 7d --permission admin --decision deny --csv")
def query(
    dir_: Directory = None, config: Config = None, since: Since = None, until: Until = None, principal: Principal = None, role: Role = None,
    method: Method = None, permission: PermissionName = None, upstream: Upstream = None, decision: Effect = None, reason: Why = None, task: Task = None,
    address: Address = None, id_: Id = None, as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV of these columns (export --format csv has all).")] = False,
) -> None:  # fmt: skip
    """Find calls by any of these; all given conditions hold. Exit code 1 when there is none."""
    _one_of("--permission", permission, get_args(Permission))
    _one_of("--decision", decision, ("allow", "deny", "reject"))
    _one_of("--reason", reason, [known.value for known in Reason])
    try:
        address = None if address is None else str(ip_address(address))
    except ValueError:
        fail(
            f"--address {escape_controls(address)} is no address: write one such as 10.0.0.7, without a mask"
        )
    wanted = Filter(
        instant(since),
        instant(until),
        principal,
        role,
        method,
        permission,
        upstream,
        decision,
        reason,
        task,
        address,
        id_,
    )
    calls = find_calls(directory_with_logs(dir_, config), wanted)
    if not (_as_json(calls) if as_json else _as_csv(calls) if as_csv else _as_table(calls)):
        print("callgate audit: no call matches", file=sys.stderr)
        raise typer.Exit(1)


def _one_of(option: str, given: str | None, known: Collection[str]) -> None:
    """Refuse a word that no record can hold: an answer of none would mislead."""
    if given is not None and given not in known:
        fail(f"{option} {escape_controls(given)}: use one of {', '.join(known)}")


@verb("stats", "--since 24h")
def stats(
    dir_: Directory = None, config: Config = None, since: Since = None, until: Until = None, principal: Principal = None,
    upstream: Upstream = None, top: Annotated[int, typer.Option("--top", min=1, help="How many of each.")] = 10, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Count who called what how often, and what was refused."""
    wanted = Filter(
        since=instant(since), until=instant(until), principal=principal, upstream=upstream
    )
    found = count(find_calls(directory_with_logs(dir_, config), wanted))
    if as_json:
        counters = {
            name: dict(getattr(found, name).most_common())
            for name in ("results", "principals", "methods", "refusals")
        }
        print(
            dumps(
                {
                    "first": found.first,
                    "last": found.last,
                    "calls": found.calls,
                    "rejected": found.rejected,
                    **counters,
                }
            ).decode()
        )
        return
    _print_stats(found, top)


def _as_json(calls: Iterator[CallRecord]) -> int:
    shown = 0
    for call in calls:
        sys.stdout.write(
            dumps(
                {
                    "log": call.log,
                    "result": call.result,
                    "decided": call.decided,
                    "completed": call.completed,
                }
            ).decode()
            + "\n"
        )
        shown += 1
    return shown


def _as_csv(calls: Iterator[CallRecord]) -> int:
    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    shown = 0
    for call in calls:
        writer.writerow(escape_formula(cell) for cell in call_row(call))
        shown += 1
    return shown


def _as_table(calls: Iterator[CallRecord]) -> int:
    shown = 0
    while part := [call_row(call) for call in islice(calls, _PART)]:
        print_table(part)
        shown += len(part)
    return shown


def _print_stats(found: Stats, top: int) -> None:
    print(
        f"{found.calls:,} calls and {found.rejected:,} rejected requests, {found.first or '-'} to {found.last or '-'}"
    )
    for title, counter in (
        ("Results", found.results),
        ("Who", found.principals),
        ("What", found.methods),
        ("Refused because", found.refusals),
    ):
        _print_bars(title, counter, top)


def _print_bars(title: str, counter: Counter[str], top: int) -> None:
    rows = counter.most_common(top)
    if not rows:
        return
    print(f"\n{title}")
    names = [escape_controls(name) for name, _ in rows]
    width = max(len(name) for name in names)
    for name, (_, value) in zip(names, rows, strict=True):
        print(
            f"  {name.ljust(width)}  {value:>9,}  {bar(value, rows[0][1]) if sys.stdout.isatty() else ''}".rstrip()
        )
    if len(counter) > top:
        print(f"  and {len(counter) - top} more")
