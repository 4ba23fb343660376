"""Reports for controls: what a report is, and the three forms it is given in.

A report names the checkpoints it was computed from, one a log, and looks at the records below them
only: whoever has the log and these checkpoints can compute it again. The HTML is one file without
scripts or anything fetched, and prints well.
"""

import csv
import io
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, parse, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, logs
from proxy.audit.reading.query import CallRecord
from proxy.common.text import escape_controls


@dataclass(frozen=True, slots=True)
class Section:
    """One table of a report. `rows` are as wide as `columns`; `texts` are preformatted paragraphs
    below it (differences, say).
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A report: what it is about, over which time, from which checkpoints, and its tables."""

    title: str
    period: str
    basis: tuple[Checkpoint, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = field(default=())

    def facts(self) -> list[tuple[str, str]]:
        """Return what stands at its head."""
        basis = [
            ("Computed from", f"{c.origin}, {c.size} records, root {b64encode(c.root).decode()}")
            for c in self.basis
        ]
        return [
            ("Period", self.period),
            *(basis or [("Computed from", "no checkpoint")]),
            *(("Note", note) for note in self.notes),
        ]


def last_checkpoints(directory: Path) -> dict[str, Checkpoint]:
    """Return the newest checkpoint of each log by instance name; logs without one are left out."""
    found: dict[str, Checkpoint] = {}
    for name, path in logs(directory).items():
        for file in sorted(path.glob(f"*{CHECKPOINT_SUFFIX}"), reverse=True):
            notes = []
            for note in split(file.read_bytes()):
                try:
                    notes.append(parse(note))
                except BadCheckpointError:
                    break
            if notes:
                found[name] = notes[-1]
                break
    return found


def covered_by(
    calls: Iterable[CallRecord], basis: Mapping[str, Checkpoint]
) -> Iterator[CallRecord]:
    """Leave out what the checkpoints do not cover: later calls, and later outcomes of calls they do
    cover.
    """
    for call in calls:
        checkpoint = basis.get(call.log)
        if checkpoint is None or call.decided.get("seq", 0) >= checkpoint.size:
            continue
        covered = call.completed is None or call.completed.get("seq", 0) < checkpoint.size
        yield call if covered else CallRecord(call.log, call.decided)


def as_text(report: Report) -> str:
    """Return the report for a terminal or a plain file."""
    lines = [report.title, "=" * len(report.title), ""]
    lines += [f"{name}: {escape_controls(text)}" for name, text in report.facts()]
    for section in report.sections:
        lines += ["", section.title, "-" * len(section.title)]
        table = [
            section.columns,
            *(tuple(escape_controls(cell) for cell in row) for row in section.rows),
        ]
        widths = [max(len(row[column]) for row in table) for column in range(len(section.columns))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        if not section.rows:
            lines.append("(none)")
        for text in section.texts:
            lines += ["", *(escape_controls(line) for line in text.splitlines())]
    return "\n".join(lines) + "\n"


def as_csv(report: Report) -> str:
    """Return the report as CSV: facts first, then each table under its title. No cell is a formula
    to a spreadsheet.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([report.title])
    writer.writerows(report.facts())
    for section in report.sections:
        writer.writerow([])
        writer.writerow([section.title])
        writer.writerow(section.columns)
        writer.writerows(
            [escape_formula(escape_controls(cell)) for cell in row] for row in section.rows
        )
        writer.writerows(
            [escape_formula(escape_controls(line))]
            for text in section.texts
            for line in text.splitlines()
        )
    return out.getvalue()


def escape_formula(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") and len(cell) > 1 else cell


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z?")

_STYLE = (
    "body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#1b1b1b}"
    "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}dt{font-weight:600}dd{margin:0 0 .4em;overflow-wrap:anywhere}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3em .6em;"
    "border-bottom:1px solid #ccc;overflow-wrap:break-word}"
    "th{border-bottom:2px solid #444}pre{background:#f5f5f5;padding:.8em;overflow-x:auto;white-space:pre-wrap}tr{break-inside:avoid}"
    "time{white-space:nowrap}"
    "@page{size:A4 landscape;margin:12mm}"
    "@media print{body{margin:0;max-width:none;font-size:9pt}pre{background:none;border:1px solid #ccc}thead{display:table-header-group}}"
)


def as_html(report: Report) -> str:
    """Return the report as one self-contained page."""
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(escape_controls(report.title))}</title>',
        f"<style>{_STYLE}</style></head><body>\n<h1>{_html(report.title)}</h1>\n<dl>",
        *(f"<dt>{_html(name)}</dt><dd>{_html(text)}</dd>" for name, text in report.facts()),
        "</dl>",
    ]
    for section in report.sections:
        parts.append(f"<h2>{_html(section.title)}</h2>")
        if section.rows:
            parts.append(
                "<table><thead><tr>"
                + "".join(f"<th>{_html(name)}</th>" for name in section.columns)
                + "</tr></thead><tbody>"
            )
            parts += [
                "<tr>" + "".join(f"<td>{_html(cell)}</td>" for cell in row) + "</tr>"
                for row in section.rows
            ]
            parts.append("</tbody></table>")
        else:
            parts.append("<p>None.</p>")
        parts += [
            "<pre>" + "\n".join(_html(line) for line in text.splitlines()) + "</pre>"
            for text in section.texts
        ]
    return "\n".join([*parts, "</body></html>\n"])


def _html(text: str) -> str:
    return _TIME.sub(r"<time>\g<0></time>", escape(escape_controls(text)))
