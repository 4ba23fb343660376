"""``callgate audit query``: find calls."""

import csv
import sys
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from itertools import islice
from typing import Annotated, get_args

import typer

from proxy.audit.format.record import encode_json
from proxy.audit.reading.query import CallRecord, Filter, find_calls
from proxy.audit.reading.rows import COLUMNS, call_row
from proxy.audit.reporting.rendering import escape_formula
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

# Rows that are laid out together: the first ones show while the rest is being read.
ROWS_AT_ONCE = 200

Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        help="From this time on: 2026-01-31, 2026-01-31T12:00Z, or 2h, 7d ago.",
        metavar="TIME",
    ),
]
Until = Annotated[
    str | None,
    typer.Option("--until", help="Before this time, in the same forms.", metavar="TIME"),
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
DecisionName = Annotated[
    str | None, typer.Option("--decision", help="allow, deny, or reject (never became a call).")
]
ReasonCode = Annotated[
    str | None, typer.Option("--reason", help="A reason code, as the README lists them.")
]
Task = Annotated[str | None, typer.Option("--task", help="A task id or a task family.")]
Address = Annotated[
    str | None, typer.Option("--address", help="The address a call came from; not a network.")
]
Id = Annotated[str | None, typer.Option("--id", help="A request id.")]
AsCsv = Annotated[
    bool,
    typer.Option("--csv", help="Print CSV of these columns (export --format csv has all)."),
]


@verb("query", "--since 7d --permission admin --decision deny --csv")
def query(
    dir_: Directory = None,
    config: Config = None,
    since: Since = None,
    until: Until = None,
    principal: Principal = None,
    role: Role = None,
    method: Method = None,
    permission: PermissionName = None,
    upstream: Upstream = None,
    decision: DecisionName = None,
    reason: ReasonCode = None,
    task: Task = None,
    address: Address = None,
    id_: Id = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Find the calls that meet all conditions. The exit code is 1 when there is none."""
    _require_one_of("--permission", permission, get_args(Permission))
    _require_one_of("--decision", decision, ("allow", "deny", "reject"))
    _require_one_of("--reason", reason, [known.value for known in Reason])
    wanted = Filter(
        since=instant(since),
        until=instant(until),
        principal=principal,
        role=role,
        method=method,
        permission=permission,
        upstream=upstream,
        decision=decision,
        reason=reason,
        task=task,
        address=_address(address),
        id=id_,
    )
    calls = find_calls(directory_with_logs(dir_, config), wanted)
    show = _print_json if as_json else _print_csv if as_csv else _print_rows
    if not show(calls):
        print("callgate audit: no call matches", file=sys.stderr)
        raise typer.Exit(1)


def _require_one_of(option: str, given: str | None, known: Collection[str]) -> None:
    """Refuse a word that no record can hold: that no call matches would mislead."""
    if given is not None and given not in known:
        fail(f"{option} is {escape_controls(given)}. Use one of {', '.join(known)}.")


def _address(given: str | None) -> str | None:
    try:
        return None if given is None else str(ip_address(given))
    except ValueError:
        fail(
            f"--address {escape_controls(given)} is not an address. Write one such as 10.0.0.7,"
            " without a mask."
        )


def _print_json(calls: Iterator[CallRecord]) -> int:
    shown = 0
    for call in calls:
        decided, *completed = call.members()
        document = {
            "log": call.log,
            "result": call.result,
            "calls": call.calls,
            "decided": decided,
            "completed": completed[0] if completed else None,
        }
        sys.stdout.write(encode_json(document).decode() + "\n")
        shown += 1
    return shown


def _print_csv(calls: Iterator[CallRecord]) -> int:
    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    shown = 0
    for call in calls:
        writer.writerow(escape_formula(cell) for cell in call_row(call))
        shown += 1
    return shown


def _print_rows(calls: Iterator[CallRecord]) -> int:
    shown = 0
    while part := [call_row(call) for call in islice(calls, ROWS_AT_ONCE)]:
        print_table(part)
        shown += len(part)
    return shown
