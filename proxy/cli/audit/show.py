"""``callgate audit show``: one call in full."""

from collections.abc import Iterator
from typing import Annotated

import orjson
import typer

from proxy.audit.format.record import encode_json
from proxy.audit.reading.call_details import CallDetails, call_details
from proxy.audit.reading.query import CallRecord
from proxy.audit.reading.records import DecidedRecord, RecordedPeer, RecordedPrincipal, members_of
from proxy.audit.reading.rows import RowFormatter, principal_name
from proxy.cli.audit.common import (
    AsJson,
    Config,
    Directory,
    directory_with_logs,
    fail,
    print_table,
    verb,
)
from proxy.common.text import escape_controls


@verb("show", "7Q2M4K1X --dir /var/lib/callgate/audit")
def show(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="A request id, or a call's id in a multicall.")
    ],
    dir_: Directory = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show one call in full: who, what, by which policy in which text, the outcome, neighbours."""
    found = call_details(directory_with_logs(dir_, config), id_)
    if not found:
        fail(
            f"no record has the id {escape_controls(id_)}. A refusal beyond"
            " audit.denials_per_minute is in a summary: callgate audit query --principal NAME.",
            1,
        )
    for details in found:
        if as_json:
            print(encode_json(_as_dict(details)).decode())
        else:
            _print(details)


def _as_dict(details: CallDetails) -> dict[str, object]:
    decided, *completed = [members_of(line) for line in details.call.lines]
    return {
        "log": details.call.log,
        "decided": decided,
        "completed": completed[0] if completed else None,
        "policies": details.policies,
        "caveats": details.caveats,
        "before": [members_of(entry.raw) for entry in details.before],
        "after": [members_of(entry.raw) for entry in details.after],
    }


def _print(details: CallDetails) -> None:
    call = details.call
    record, done = call.decided, call.completed
    for name, text in _facts(call):
        if text:
            print(f"{name + ':':<12}{escape_controls(text)}")
    arguments = record.arguments() if isinstance(record, DecidedRecord) else {}
    if arguments:
        print("Arguments:")
    for name, value in arguments.items():
        print(f"  {escape_controls(name)} = {escape_controls(orjson.dumps(value).decode())}")
    for policy_id, text in details.policies.items():
        print(f"\nPolicy {escape_controls(policy_id)}, as it was then:")
        print("\n".join(f"  {escape_controls(line)}" for line in text.splitlines()))
    for caveat in details.caveats:
        print(f"\nNote: {escape_controls(caveat)}")
    if done is not None:
        print(f"\nCompleted: record {done.seq} at {escape_controls(done.time)}")
    for title, entries in (("Before it", details.before), ("After it", details.after)):
        if entries:
            print(f"\n{title}:")
            print_table([RowFormatter().row(entry) for entry in entries])
    print()


def _facts(call: CallRecord) -> Iterator[tuple[str, str]]:
    """Yield what is known of a call, each with its name; a text is empty if there is nothing."""
    record = call.decided
    yield "Call", f"{record.id or '-'} (record {record.seq} of log {call.log})"
    yield "Time", record.time
    yield "Who", _principal(record.principal)
    yield "From", _peer(record.peer)
    if isinstance(record, DecidedRecord):
        yield "What", f"{record.upstream} {record.method} ({record.permission})"
        yield "Task", "" if record.task is None else str(record.task)
        yield "Changed", ", ".join(record.changed)
        yield "Decision", f"{record.decision}, {record.reason}"
        yield "Policy set", record.policy_hash
    else:
        yield "What", "no call could be read"
        yield "Decision", f"rejected, {record.reason} {record.detail or ''}".strip()
    yield "Outcome", _outcome(call)


def _principal(principal: RecordedPrincipal | None) -> str:
    if principal is None:
        return "not known"
    roles = ", ".join(principal.roles) or "none"
    return f"{principal_name(principal)}, roles {roles}, issuer {principal.issuer}"


def _peer(peer: RecordedPeer) -> str:
    tls = peer.tls or "no TLS"
    user_agent = peer.user_agent or "no user agent"
    hop = "" if peer.hop is None else f", through {peer.hop}"
    return f"{peer.address or '-'} port {peer.port or '-'}{hop}, {tls}, {user_agent}"


def _outcome(call: CallRecord) -> str:
    done = call.completed
    if done is None:
        return "still open, or the log ends here" if call.result == "open" else ""
    if (window := done.window) is not None:
        outcomes = ", ".join(f"{name} {count}" for name, count in window.outcomes.items())
        return (
            f"{done.outcome}: {window.calls} calls from {window.first} to {window.last}"
            f" ({outcomes})"
        )
    milliseconds = (done.duration_us or 0) / 1000
    return (
        f"{done.outcome} {done.reason or ''}".strip()
        + f", status {done.status}, {done.bytes} bytes, {milliseconds:.1f} ms"
    )
