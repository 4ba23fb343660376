"""``callgate audit prove`` and ``verify-proof``: evidence of single records, without the log."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from proxy.audit.checking.proof import BadProofError, Provable, Proved, check_proof
from proxy.audit.checking.proof import prove as make_proof
from proxy.audit.format.layout import logs
from proxy.audit.reading.call_details import call_details
from proxy.audit.reading.records import (
    CompletedRecord,
    DecidedRecord,
    RejectedRecord,
    parse_record,
)
from proxy.audit.reading.rows import principal_name
from proxy.cli.audit.common import Config, Directory, directory_with_logs, fail, verb
from proxy.cli.audit.trusted_keys import named_keys
from proxy.common.text import escape_controls


@verb("prove", "7Q2M4K1X > 7Q2M4K1X.proof")
def prove(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="A request id, or a call's id in a multicall.")
    ],
    dir_: Directory = None,
    config: Config = None,
) -> None:
    """Write a proof that a call is in the log, to be checked with the public key alone."""
    directory = directory_with_logs(dir_, config)
    found = call_details(directory, id_)
    if not found:
        fail(f"no record has the id {escape_controls(id_)}", 1)
    names = {details.call.log for details in found}
    if len(names) != 1:
        fail(f"the id is in several logs ({', '.join(sorted(names))}). Name one with --dir.")
    records = [
        Provable(entry.after.segment, entry.record.seq, entry.raw)
        for details in found
        for entry in details.entries
    ]
    try:
        sys.stdout.write(make_proof(logs(directory)[names.pop()], records).decode())
    except BadProofError as error:
        fail(str(error), 1)


@verb("verify-proof", "7Q2M4K1X.proof --key signing.pub")
def verify_proof(
    path: Annotated[Path, typer.Argument(help="The proof.")],
    key: Annotated[
        str,
        typer.Option(
            "--key",
            "-k",
            metavar="KEY",
            help="The public key of the log: a file, or the key itself as text.",
        ),
    ],
) -> None:
    """Check a proof without the log: 0 it holds, 1 it does not, 2 it could not be checked."""
    try:
        data = path.read_bytes()
    except OSError as error:
        fail(f"cannot check: {escape_controls(error)}")
    keys = named_keys(key)
    try:
        proved = check_proof(data, keys)
    except BadProofError as error:
        print(f"BROKEN  {escape_controls(error)}")
        raise typer.Exit(1) from None
    for each in proved:
        print(
            f"PROVED  record {each.index} of {escape_controls(each.checkpoint.origin)},"
            f" at {_describe(each)}"
        )


def _describe(proved: Proved) -> str:
    record = parse_record(proved.line)
    words: tuple[str | None, ...] = ()
    if isinstance(record, DecidedRecord):
        name = principal_name(record.principal)
        words = (record.id, name, record.method, record.decision)
    elif isinstance(record, CompletedRecord):
        words = (record.id, record.outcome)
    elif isinstance(record, RejectedRecord):
        words = (record.id, principal_name(record.principal), record.reason)
    what = " ".join(word for word in (record.stage, *words) if word)
    return escape_controls(f"{record.time}: {what}")
