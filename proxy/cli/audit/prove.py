"""``callgate audit prove`` and ``verify-proof``: evidence of single records that stands without the
log.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from proxy.audit.checking.proof import BadProofError, check_proof
from proxy.audit.checking.proof import prove as make_proof
from proxy.audit.format.layout import logs
from proxy.audit.reading.call_details import call_details
from proxy.audit.reading.rows import principal_name
from proxy.cli.audit.common import Config, Directory, directory_with_logs, fail, verb
from proxy.cli.audit.verify import named_keys
from proxy.common.text import escape_controls


@verb("prove", "7Q2M4K1X > 7Q2M4K1X.proof")
def prove(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="A request id, or a call's id in a multicall.")
    ],
    dir_: Directory = None,
    config: Config = None,
) -> None:
    """Write a proof that a call's records are in the log, to be checked with the public key alone."""
    where = directory_with_logs(dir_, config)
    found = call_details(where, id_)
    if not found:
        fail(f"no record has the id {escape_controls(id_)}", 1)
    names = {whole.call.log for whole in found}
    if len(names) != 1:
        fail(f"the id is in several logs ({', '.join(sorted(names))}): name one with --dir", 2)
    items = [item for whole in found for item in whole.entries]
    try:
        sys.stdout.write(make_proof(logs(where)[names.pop()], items).decode())
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
    for one in proved:
        record = one.record
        result = record.get("decision") or record.get("outcome") or ""
        what = f"{record.get('stage')} {record.get('id', '')} {principal_name(record)} {record.get('method', '')} {result}"
        print(
            f"PROVED  record {one.index} of {escape_controls(one.checkpoint.origin)}, at {escape_controls(record.get('time'))}: {escape_controls(what)}"
        )
