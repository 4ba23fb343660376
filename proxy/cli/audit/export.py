"""``callgate audit export``: calls for other systems, as OCSF events, CSV or Parquet."""

import csv
import importlib
import io
import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from proxy.audit.format.record import encode_json
from proxy.audit.reading.query import CallRecord, Filter, find_calls
from proxy.audit.reporting.export import COLUMNS, flat, ocsf
from proxy.audit.reporting.rendering import escape_formula
from proxy.cli.audit.common import Config, Directory, directory_with_logs, fail, instant, verb
from proxy.cli.audit.query import Since, Until, Upstream
from proxy.common.durable_files import replacing
from proxy.common.text import escape_controls

# Rows of a Parquet row group, which are in memory at once.
ROWS_PER_GROUP = 50_000
INTEGER_COLUMNS = {"seq", "port", "status", "bytes", "duration_us", "calls"}


class Format(StrEnum):
    """Output formats."""

    OCSF = "ocsf"
    CSV = "csv"
    PARQUET = "parquet"


@verb("export", "--format ocsf --since 24h > yesterday.jsonl")
def export(
    dir_: Directory = None,
    config: Config = None,
    format_: Annotated[
        Format, typer.Option("--format", help="OCSF API Activity as JSON lines, CSV, or Parquet.")
    ] = Format.OCSF,
    since: Since = None,
    until: Until = None,
    upstream: Upstream = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file to write; standard output without it (not Parquet)."
        ),
    ] = None,
) -> None:
    """Write calls for other systems, streaming."""
    wanted = Filter(since=instant(since), until=instant(until), upstream=upstream)
    calls = find_calls(directory_with_logs(dir_, config), wanted)
    if format_ is Format.PARQUET:
        if out is None:
            fail("Parquet needs a file. Name it with --out FILE.")
        _write_parquet(calls, out)
        return
    try:
        if out is None:
            _write(calls, format_, sys.stdout)
        else:
            with replacing(out) as file:
                stream = io.TextIOWrapper(file, "utf-8", newline="")
                _write(calls, format_, stream)
                stream.detach()
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror}")


def _write(calls: Iterator[CallRecord], format_: Format, stream: TextIO) -> None:
    if format_ is Format.CSV:
        _write_csv(calls, stream)
        return
    for call in calls:
        stream.write(encode_json(ocsf(call)).decode() + "\n")


def _write_csv(calls: Iterator[CallRecord], stream: TextIO) -> None:
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for call in calls:
        writer.writerow(
            escape_formula(escape_controls(value)) if isinstance(value, str) else value
            for value in flat(call).values()
        )


def _write_parquet(calls: Iterator[CallRecord], out: Path) -> None:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        fail("Parquet needs pyarrow. Run: pip install callgate[parquet]")
    kinds = {name: arrow.int64() for name in INTEGER_COLUMNS} | {"agent": arrow.bool_()}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
    with replacing(out) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while part := [flat(call) for call in islice(calls, ROWS_PER_GROUP)]:
            writer.write_table(arrow.Table.from_pylist(part, schema=schema))
