"""``callgate audit show`` and ``match``: one call whole, and whether records hold a suspected
secret.
"""

import sys
from typing import Annotated, Any

import orjson
import typer

from proxy.audit.format.record import dumps
from proxy.audit.reading import secret_search
from proxy.audit.reading.call_details import CallDetails, call_details
from proxy.audit.reading.query import CallRecord
from proxy.audit.reading.rows import RowFormatter, principal_name
from proxy.audit.writing.keys import HMAC_KEY, load_hmac_key
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
from proxy.errors import ConfigError


@verb("show", "7Q2M4K1X --dir /var/lib/callgate/audit")
def show(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="A request id, or a call's id in a multicall.")
    ],
    dir_: Directory = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show one call whole: who, what, why by which policy in which text, what came of it, and its
    neighbours.
    """
    found = call_details(directory_with_logs(dir_, config), id_)
    if not found:
        fail(f"no record has the id {escape_controls(id_)}", 1)
    for whole in found:
        if as_json:
            document = {
                "log": whole.call.log, "decided": whole.call.decided, "completed": whole.call.completed, "policies": whole.policies,
                "doubts": whole.caveats, "before": whole.before, "after": whole.after,
            }  # fmt: skip
            print(dumps(document).decode())
        else:
            _print(whole)


@verb("find-secret", "- --dir /var/lib/callgate/audit < suspected-password")
def find_secret(
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE",
            help="The value to look for; - reads it from standard input, without a final line end.",
        ),
    ],
    dir_: Directory = None,
    config: Config = None,
) -> None:
    """Tell which records hold a value that was withheld. Exit code 1 when none does. Needs the HMAC
    key beside the log.
    """
    where = directory_with_logs(dir_, config)
    if value == "-":
        value = sys.stdin.read().removesuffix("\n")
    home = where if (where / HMAC_KEY).exists() else where.parent
    try:
        key = load_hmac_key(home, make=False)
    except ConfigError as error:
        fail(str(error))
    rows = [
        (item.time, item.log, escape_controls(item.record.get("id", "")), escape_controls(name))
        for item, name in secret_search.find_secret(where, key, value)
    ]
    if not rows:
        print("no record holds it")
        raise typer.Exit(1)
    print_table(rows, ("time", "log", "id", "argument"))


def _print(whole: CallDetails) -> None:
    record, done = whole.call.decided, whole.call.completed
    origin: dict[str, Any] = record.get("origin") or {}
    principal: dict[str, Any] = record.get("principal") or {}
    address = f"{origin.get('address')} port {origin.get('port')}, {origin.get('tls') or 'no TLS'}, {origin.get('user_agent') or 'no user agent'}"
    lines = [
        ("Call", f"{record.get('id')} (record {record.get('seq')} of log {whole.call.log})"),
        ("Time", str(record.get("time"))),
        (
            "Who",
            f"{principal_name(record)}, roles {', '.join(principal.get('roles', ())) or 'none'}, issuer {principal.get('issuer')}"
            if principal
            else "not known",
        ),
        ("From", address),
        (
            "What",
            f"{record.get('upstream')} {record.get('method')} ({record.get('class')})"
            if record.get("method")
            else "no call could be read",
        ),
        ("Task", str(record.get("task") or "")),
        (
            "Decision",
            f"{record.get('decision', 'rejected')}, {record.get('reason')} {record.get('detail') or ''}".strip(),
        ),
        ("Policy set", str(record.get("policy_hash") or "")),
        ("Outcome", _outcome(whole.call)),
    ]
    for name, text in lines:
        if text:
            print(f"{name + ':':<12}{escape_controls(text)}")
    if record.get("args"):
        print("Arguments:")
    for name, value in (record.get("args") or {}).items():
        print(f"  {escape_controls(name)} = {escape_controls(orjson.dumps(value).decode())}")
    for policy_id, text in whole.policies.items():
        print(f"\nPolicy {escape_controls(policy_id)}, as it was then:")
        print("\n".join(f"  {escape_controls(line)}" for line in text.splitlines()))
    for doubt in whole.caveats:
        print(f"\nNote: {escape_controls(doubt)}")
    if done is not None:
        print(f"\nCompleted: record {done.get('seq')} at {escape_controls(done.get('time'))}")
    for title, records in (("Before it", whole.before), ("After it", whole.after)):
        if records:
            print(f"\n{title}:")
            print_table([RowFormatter().row(whole.call.log, neighbour) for neighbour in records])
    print()


def _outcome(call: CallRecord) -> str:
    done = call.completed
    if done is None:
        return "still open, or the log ends here" if call.result == "open" else ""
    if isinstance(window := done.get("window"), dict):
        span = f"{window.get('first')} to {window.get('last')}"
        outcomes = ", ".join(
            f"{name} {count}" for name, count in dict(window.get("outcomes") or {}).items()
        )
        return f"{done.get('outcome')}: {window.get('calls')} calls from {span} ({outcomes})"
    text = f"{done.get('outcome')} {done.get('reason') or ''}".strip()
    return f"{text}, status {done.get('status')}, {done.get('bytes')} bytes, {int(done.get('duration_us') or 0) / 1000:.1f} ms"
