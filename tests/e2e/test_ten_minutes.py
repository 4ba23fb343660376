"""The page "Ten minutes with a server of your own": its blocks, run in order as they are written."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.test_docs import installed
from tests.support.documents import TEN_MINUTES, Block, blocks
from tests.support.paths import ROOT
from tests.support.stack import accepts
from tests.support.stage import free_port, until

STEPS = [
    block
    for block in blocks(ROOT / "deploy" / "guide" / "catalogs.md")
    if block.heading == TEN_MINUTES
]


class Page:
    """A directory in which the page is followed, with free ports in the place of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = installed(directory)
        self.ports = {"9000": free_port(), "8443": free_port()}
        self.started: list[subprocess.Popen[str]] = []

    def text(self, block: Block) -> str:
        """The text of a block, with this machine's ports."""
        return re.sub(r"\b(9000|8443)\b", lambda found: str(self.ports[found[0]]), block.text)

    def run(self, block: Block) -> str:
        """Run a block, and return what it printed; what it leaves in the background stays."""
        text = self.text(block)
        if block.language == "python":
            command = [sys.executable, "-c", text]
        else:
            text = text.replace("init --upstream", f"init --port {self.ports['8443']} --upstream")
            command = ["bash", "-c", "set -e\n" + text]
        output = self.directory / f"output-{len(self.started)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                command, cwd=self.directory, stdout=file, stderr=file, text=True,
                start_new_session=True, env={**os.environ, "CALLGATE__METRICS__PORT": "0"},
            )  # fmt: skip
        self.started.append(process)
        code = process.wait(timeout=120)
        assert code == 0, output.read_text()
        return output.read_text()

    def end(self) -> None:
        """End what was left in the background: each block has a process group of its own."""
        for process in reversed(self.started):
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        until(
            lambda: not any(accepts(port) for port in self.ports.values()), "both servers had ended"
        )


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page, followed in a directory like a clone after ``make run``."""
    followed = Page(tmp_path)
    yield followed
    followed.end()


def is_ready(port: int) -> bool:
    """Whether a server of TLS completes a handshake."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("localhost", port), 1) as raw, context.wrap_socket(raw):
            return True
    except OSError:
        return False


def test_the_page_drafts_what_it_shows(page: Page) -> None:
    """The quick part of the test below: the script is served, and drafted as the page says."""
    program, start, draft, *_ = STEPS
    assert [block.language for block in STEPS] == ["python", "sh", "sh", "sh", "sh", "python", "sh"]
    (page.directory / "launcher.py").write_text(page.text(program))
    page.run(start)
    until(lambda: accepts(page.ports["9000"]), "the server listened")
    only = re.search(r".*catalog draft.*\n", draft.text)
    assert only is not None
    shown = page.run(replace(draft, text=only[0]))
    assert shown.count('permission = "unclassified"') == 6


@pytest.mark.exhaustive
def test_each_command_of_the_page_does_what_it_says(page: Page) -> None:
    """From six functions of a script to a gate in which an operator starts a job and deletes none."""
    program, start, draft, permit, serve, client, after = STEPS
    (page.directory / "launcher.py").write_text(page.text(program))
    page.run(start)
    until(lambda: accepts(page.ports["9000"]), "the server listened")
    shown = page.run(draft)
    assert shown.count('permission = "unclassified"') == 6
    assert '{ name = "retries", type = "integer" }' in shown
    assert "6 of 6 methods are unclassified and denied" in shown
    shown = page.run(permit)
    assert "1 of 6 methods are unclassified and denied: delete_job" in shown
    page.run(serve)
    until(lambda: is_ready(page.ports["8443"]), "the gate served")
    shown = page.run(client)
    assert "['nightly', 'weekly'] True RUNNING" in shown
    assert "ann (operator) may not delete_job server: the catalog leaves its permission" in shown
    shown = page.run(after)
    for method in ("list_jobs", "start_job", "get_state", "delete_job"):
        assert method in shown
    assert "lists 6 methods; server.toml lacks 0" in shown
