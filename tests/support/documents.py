"""The documents that users and contributors read, and the code blocks in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "deploy" / "guide").glob("*.md")),
    ROOT / "policies" / "README.md",
    *sorted((ROOT / "tests").glob("*/README.md")),
    *sorted((ROOT / ".github").glob("*.md")),
]
FILES = [
    ROOT / "deploy" / "callgate.toml",
    ROOT / "deploy" / "callgate.service",
    ROOT / "deploy" / "Containerfile",
]
"""Files with commands in their comments and entries."""

TEN_MINUTES = "Ten minutes with a server of your own"
"""The heading of the page whose blocks need no demo: tests/e2e/test_ten_minutes.py runs them."""

_BLOCK = re.compile(
    r"(?m)^(?P<not_run><!-- not run: (?P<why>.+?) -->\n)?(?P<indent> *)```(?P<language>\w+)\n"
    r"(?P<text>.*?)^ *```$",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: its document, the heading over it, and why it is not run (None if it is)."""

    document: str
    heading: str
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.document} {self.heading}"


def blocks(path: Path) -> Iterator[Block]:
    """Yield the code blocks of a document, in order."""
    text = path.read_text(encoding="utf-8")
    document = path.relative_to(ROOT).as_posix()
    for found in _BLOCK.finditer(text):
        headings = re.findall(
            r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", text[: found.start()])
        )
        body = re.sub(rf"(?m)^{found['indent']}", "", found["text"])
        yield Block(document, headings[-1], found["language"], body, found["why"])


def demo_blocks() -> list[Block]:
    """Return the shell and Python blocks of all documents that are to be run against the demo."""
    return [
        block
        for path in DOCUMENTS
        for block in blocks(path)
        if block.language in ("sh", "python") and block.not_run is None and ".demo" in block.text
    ]
