"""Renders a report as text, as CSV, and as one HTML page.

Values come from callers. So control characters are written out in all three, no CSV cell is a
formula to a spreadsheet, and the page is made by a template that escapes every value.
"""

import csv
import functools
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxy.audit.reporting.report import Report
from proxy.common.text import escape_controls

if TYPE_CHECKING:
    from jinja2 import Template

_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z?)")


def as_text(report: Report) -> str:
    """Return the report for a terminal or a plain file."""
    lines = [report.title, "=" * len(report.title), ""]
    lines += [f"{name}: {escape_controls(text)}" for name, text in report.facts()]
    for section in report.sections:
        lines += ["", section.title, "-" * len(section.title)]
        rows = [tuple(escape_controls(cell) for cell in row) for row in section.rows]
        table = [section.columns, *rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(section.columns))]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        if not section.rows:
            lines.append("(none)")
        for text in section.texts:
            lines += ["", *(escape_controls(line) for line in text.splitlines())]
    return "\n".join(lines) + "\n"


def as_csv(report: Report) -> str:
    """Return the report as CSV: the facts, then each table below its title."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([report.title])
    writer.writerows(report.facts())
    for section in report.sections:
        writer.writerow([])
        writer.writerow([section.title])
        writer.writerow(section.columns)
        for row in section.rows:
            writer.writerow([escape_formula(escape_controls(cell)) for cell in row])
        for text in section.texts:
            writer.writerows([escape_formula(escape_controls(line))] for line in text.splitlines())
    return out.getvalue()


def escape_formula(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") and len(cell) > 1 else cell


def as_html(report: Report) -> str:
    """Return the report as one page without scripts or outside resources."""
    return _template().render(report=report)


@functools.cache
def _template() -> "Template":
    # Imported here: only this format needs jinja2, and its import takes 40 ms.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("proxy.audit.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["times"] = _times
    environment.filters["escape_controls"] = escape_controls
    return environment.get_template("report.html")


def _times(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the parts of `text`, each with whether it is a time, which a page must not break."""
    for index, part in enumerate(_TIME.split(escape_controls(text))):
        if part:
            yield index % 2 == 1, part
