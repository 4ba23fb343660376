"""``callgate audit stats``: count calls."""

import sys
from collections import Counter
from typing import Annotated

import typer
from rich.bar import Bar
from rich.text import Text

from proxy.audit.format.record import encode_json
from proxy.audit.reading.query import Filter, find_calls
from proxy.audit.reading.stats import Stats, count
from proxy.cli.audit.common import (
    AsJson,
    Config,
    Directory,
    directory_with_logs,
    instant,
    print_rich_table,
    verb,
)
from proxy.cli.audit.query import Principal, Since, Until, Upstream
from proxy.common.text import escape_controls

# Cells of the longest bar; a bar ends in eighths of a cell.
BAR_WIDTH = 30
EIGHTH = 1 / (8 * BAR_WIDTH)


@verb("stats", "--since 24h")
def stats(
    dir_: Directory = None,
    config: Config = None,
    since: Since = None,
    until: Until = None,
    principal: Principal = None,
    upstream: Upstream = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of each.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Count calls by principal, method and result, and refusals by reason."""
    wanted = Filter(
        since=instant(since), until=instant(until), principal=principal, upstream=upstream
    )
    found = count(find_calls(directory_with_logs(dir_, config), wanted))
    if as_json:
        print(encode_json(_as_dict(found)).decode())
    else:
        _print(found, top)


def _as_dict(found: Stats) -> dict[str, object]:
    return {
        "first": found.first,
        "last": found.last,
        "calls": found.calls,
        "rejected": found.rejected,
        "results": dict(found.results.most_common()),
        "principals": dict(found.principals.most_common()),
        "methods": dict(found.methods.most_common()),
        "refusals": dict(found.refusals.most_common()),
    }


def _print(found: Stats, top: int) -> None:
    print(
        f"{found.calls:,} calls and {found.rejected:,} rejected requests,"
        f" {found.first or '-'} to {found.last or '-'}"
    )
    for title, counter in (
        ("Results", found.results),
        ("Who", found.principals),
        ("What", found.methods),
        ("Refused because", found.refusals),
    ):
        if counter:
            _print_counter(title, counter, top)


def _print_counter(title: str, counter: Counter[str], top: int) -> None:
    print(f"\n{title}")
    rows = [(escape_controls(name), value) for name, value in counter.most_common(top)]
    if sys.stdout.isatty():
        largest = max(1, rows[0][1])
        print_rich_table(
            [
                (Text(f"  {name}"), Text(f"{value:,}"), _bar(value / largest))
                for name, value in rows
            ],
            ("name", "count", "bar"),
            header=False,
            right=("count",),
        )
    else:
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"  {name.ljust(width)}  {value:>9,}")
    if len(counter) > top:
        print(f"  and {len(counter) - top} more")


def _bar(share: float) -> Bar:
    """Return a bar for a share of the largest count; anything above zero shows."""
    return Bar(1, 0, max(share, EIGHTH) if share > 0 else 0, width=BAR_WIDTH)
