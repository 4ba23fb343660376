import csv
import io
from html.parser import HTMLParser

import pytest

from proxy.audit.format.checkpoint import Checkpoint
from proxy.audit.reporting.rendering import as_csv, as_html, as_text, escape_formula
from proxy.audit.reporting.report import Report, Section

BASIS = Checkpoint("callgate/gate", 12, b"r" * 32, b"")
HOSTILE = '<script>alert(1)</script>\x1b[31m"&\n=1+1'
REPORT = Report("A report", "a to b", (BASIS,), (
    Section("First", ("name", "value"), ((HOSTILE, "=cmd()"), ("x", "1"))), Section("Empty", ("a",), (), ("-old\n+new",)),
), ("a note",))  # fmt: skip


def test_each_form_names_its_checkpoint_and_all_cells() -> None:
    """Text, CSV and HTML name period and checkpoint, and no row is left out of any."""
    for made in (as_text(REPORT), as_csv(REPORT), as_html(REPORT)):
        assert (
            "callgate/gate, 12 records" in made
            and "a to b" in made
            and "a note" in made
            and "new" in made
            and "x" in made
        )
        assert "\x1b" not in made


def test_html_runs_nothing_and_fetches_nothing() -> None:
    """What callers chose is text on the page; the page has no script, no link and no outside
    resource.
    """
    tags: list[str] = []
    attributes: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            attributes.extend(name for name, _ in attrs)

    Reader().feed(as_html(REPORT))
    assert not {"script", "link", "img", "iframe", "a"} & set(tags) and set(attributes) <= {
        "lang",
        "charset",
    }


def test_a_page_keeps_words_whole() -> None:
    """On paper, too many columns break between words, or in a word too long for the page, never in
    every word.
    """
    style = as_html(REPORT).partition("<style>")[2].partition("</style>")[0]
    assert (
        "size:A4 landscape" in style
        and "overflow-wrap:break-word}" in style
        and "time{white-space:nowrap}" in style
    )
    page = as_html(Report("t", "2026-01-31T12:00:00.000000Z to x", (), ()))
    assert "<dd><time>2026-01-31T12:00:00.000000Z</time> to x</dd>" in page


def test_csv_is_data_to_a_spreadsheet() -> None:
    """No cell begins like a formula, and the file reads back."""
    rows = list(csv.reader(io.StringIO(as_csv(REPORT))))
    assert not [cell for row in rows for cell in row if cell[:1] in "=+-@" and len(cell) > 1]
    assert ["x", "1"] in rows


@pytest.mark.parametrize(
    ("cell", "safe"),
    [("=1", "'=1"), ("@x", "'@x"), ("-", "-"), ("x=1", "x=1"), ("", ""), ("-1", "'-1")],
)
def test_defused(cell: str, safe: str) -> None:
    """Only what could be a formula is marked."""
    assert escape_formula(cell) == safe
