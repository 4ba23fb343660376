"""The documents against the demo: every command of them is run as it is written, and the log has
what they did.

``tests/cli/demo/test_demo.py`` holds the demo's own promises: files, printed commands, signals.
Here are the two together.
"""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
import xmlrpc.client
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.audit.reading.reader import read_all
from proxy.audit.reading.records import members_of
from tests.cli.demo.test_demo import Demo, descendants, runs
from tests.support.documents import Block, blocks, demo_blocks
from tests.support.paths import ROOT
from tests.support.stage import until

PATIENCE = 120.0
ROLES = {"viewer", "worker", "operator", "admin", "agent", "stranger"}
PROGRAMS = {"callgate": "-m proxy.cli.main", "luigi": "-m luigi", "python": ""}


BLOCKS = demo_blocks()
SHOWN = {
    ("README.md", "The first minute"): [],
    ("deploy/guide/connect.md", "An XML-RPC client"): ["RUNNING", "supervisor.getState", "{}"],
    ("deploy/guide/connect.md", "Tokens"): ["eyJ"],
    ("deploy/guide/audit.md", "Verify"): ["INTACT", "callgate+"],
    ("deploy/guide/audit.md", "Read"): ["no-policy-allows", "Access: "],
    ("policies/README.md", "Policies"): ["no problem found"],
    ("deploy/guide/operate.md", "Operate"): ["no problem found"],
}
"""What running the blocks under a heading has to show."""


def installed(directory: Path) -> Path:
    """Make a directory like a clone after ``make run``: the programs stand under ``.venv/bin``."""
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, how in PROGRAMS.items():
        (programs / name).write_text(
            f'#!/bin/sh\nPYTHONPATH="{ROOT}:$PYTHONPATH" exec "{sys.executable}" {how} "$@"\n'
        )
        (programs / name).chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo in a directory like a clone after ``make run``."""
    running = Demo.start(installed(tmp_path_factory.mktemp("clone")))
    below = descendants(running.process.pid)
    yield running
    assert running.stop(signal.SIGTERM) == 0
    until(lambda: not any(map(runs, below)), "every process of the demo had ended")


def journal(demo: Demo) -> list[dict[str, Any]]:
    """The records of the demo's gate."""
    return [members_of(item.raw) for item in read_all(demo.directory / ".demo" / "audit")]


def paste(demo: Demo, language: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run a block as it stands, but for the port."""
    text = text.replace("localhost:8443", f"localhost:{demo.port}")
    command = ["bash", "-c", text] if language == "sh" else [".venv/bin/python", "-c", text]
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "NETRC", "CALLGATE_CONFIG")
    }
    environ["PORT"] = str(demo.port)
    return subprocess.run(
        command,
        cwd=demo.directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_of_the_documents_works_when_pasted(demo: Demo, block: Block) -> None:
    """It ends with 0 and shows what it is there to show; what its comments call refused was refused
    for that reason.
    """
    text = "set -e\n" + block.text if block.language == "sh" else block.text
    done = paste(demo, block.language, text)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for shown in SHOWN.get((block.document, block.heading), []):
        assert shown in done.stdout, done.stdout
    at = 0
    for reason in re.findall(r"# refused: ([a-z-]+)", text):
        at = done.stdout.index(f"[{reason}, ref ", at) + 1


def test_what_the_blocks_have_to_show_is_about_blocks_that_exist() -> None:
    """A heading that was renamed would leave its blocks without an expectation."""
    assert set(SHOWN) <= {(block.document, block.heading) for block in BLOCKS}
    assert len(BLOCKS) > 10


def test_the_readmes_worker_has_done_its_work(demo: Demo) -> None:
    """The block about workers ran five tasks through the gate; the journal names the worker's token
    and its tasks.
    """
    done = next(
        paste(demo, "sh", block.text.replace("--run-number 2", "--run-number 77"))
        for block in BLOCKS
        if "--run-number 2" in block.text
    )
    assert "5 ran successfully" in done.stderr
    mine = [
        r
        for r in journal(demo)
        if r.get("method") == "add_task" and "77" in str(r["args"].get("params"))
    ]
    assert {r["task"].partition("_")[0] for r in mine} == {"Extract", "Report"}
    assert {
        (r["principal"]["issuer_name"], tuple(r["principal"]["roles"]), r["decision"]) for r in mine
    } == {("local", ("worker",), "allow")}


def claims(token: str) -> dict[str, Any]:
    """What a token says, without asking whether it is true."""
    payload = token.split(".")[1]
    said: dict[str, Any] = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return said


def test_each_token_is_somebodys_and_valid_for_a_day(demo: Demo) -> None:
    """Six identities, each its own subject with the group that the file is named after; the
    stranger has none.
    """
    tokens = {
        path.stem: claims(path.read_text().strip())
        for path in (demo.directory / ".demo" / "tokens").iterdir()
    }
    assert set(tokens) == ROLES
    assert len({said["sub"] for said in tokens.values()}) == len(ROLES)
    for role, said in tokens.items():
        assert said["groups"] == ([] if role == "stranger" else [role])
        assert said["exp"] - said["iat"] == 86_400
        assert said["exp"] > time.time() + 80_000


def ask(demo: Demo, role: str, path: str, body: bytes = b"data={}") -> int:
    """The status of a call with a role's token."""
    own = demo.directory / ".demo"
    context = ssl.create_default_context(cafile=str(own / "ca.pem"))
    headers = {"Authorization": f"Bearer {(own / 'tokens' / f'{role}.jwt').read_text().strip()}"}
    request = urllib.request.Request(f"https://localhost:{demo.port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("path", "body", "who"),
    [
        ("/api/task_list", b"data={}", {"viewer", "operator", "admin", "agent"}),
        ("/api/add_worker", b'data={"worker":"w","info":[]}', {"worker"}),
        ("/api/forgive_failures", b'data={"task_id":"none"}', {"operator", "admin"}),
        ("/api/unpause", b"data={}", {"admin"}),
    ],
    ids=["view", "work", "trigger", "admin"],
)
def test_roles_as_shipped(demo: Demo, path: str, body: bytes, who: set[str]) -> None:
    """One call of each class: who may, and that all others may not."""
    assert {role for role in ROLES if ask(demo, role, path, body) == 200} == who
    assert {ask(demo, role, path, body) for role in ROLES - who} == {403}


def test_both_upstreams_through_xml_rpc(demo: Demo) -> None:
    """supervisord under /processes, with two programs that run; luigid under /RPC2, with its state."""
    own = demo.directory / ".demo"
    context = ssl.create_default_context(cafile=str(own / "ca.pem"))
    headers = [("Authorization", f"Bearer {(own / 'tokens' / 'viewer.jwt').read_text().strip()}")]

    def proxy(path: str) -> Any:
        return xmlrpc.client.ServerProxy(
            f"https://localhost:{demo.port}{path}",
            headers=headers,
            context=context,
            allow_none=True,
        )

    programs = until(
        lambda: {
            p["name"]: p["statename"]
            for p in proxy("/processes").supervisor.getAllProcessInfo()
            if p["statename"] == "RUNNING"
        },
        "supervisord's programs ran",
    )
    assert len(programs) == 2
    assert proxy("/RPC2").is_paused() == {"paused": False}
    with pytest.raises(xmlrpc.client.Fault, match="may not supervisor"):
        proxy("/processes").supervisor.shutdown()


def test_the_example_of_a_policy_works_step_by_step(tmp_path: Path) -> None:
    """The billing team: role, policy, check, token, a new start, and calls that are allowed and
    refused as the comments say. Operators re-enable the team's tasks as before.
    """
    steps = [
        block
        for block in blocks(ROOT / "policies" / "README.md")
        if block.heading.startswith("Example: the billing team")
    ]
    roles, policy, check, try_it = steps
    assert [block.language for block in steps] == ["toml", "cedar", "sh", "sh"]
    directory = installed(tmp_path)
    demo = Demo.start(directory)
    try:
        own = directory / ".demo" / "policies"
        with (own / "roles.toml").open("a", encoding="utf-8") as file:
            file.write("\n" + roles.text)
        (own / "billing.cedar").write_text(policy.text, encoding="utf-8")
        done = paste(demo, "sh", "set -e\n" + check.text)
        assert (done.returncode, "no problem found" in done.stdout) == (0, True), done.stderr
    finally:
        assert demo.stop(signal.SIGTERM) == 0
    demo = Demo.start(directory)
    try:
        done = paste(demo, "sh", "set -e\n" + try_it.text)
        assert done.returncode == 0, done.stderr
        answers = [line for line in done.stdout.splitlines() if line]
        said = re.findall(r"# (allowed|refused: [a-z-]+)", try_it.text)
        assert len(answers) == len(said) == 3
        for answer, expected in zip(answers, said, strict=True):
            reason = expected.removeprefix("refused: ")
            shown = '"response"' if expected == "allowed" else f"[{reason}, ref "
            assert shown in answer
        task = b'data={"task_id":"Billing_2026_11_3e0c1f8a7b"}'
        assert ask(demo, "operator", "/api/re_enable_task", task) == 200
    finally:
        assert demo.stop(signal.SIGTERM) == 0


def test_ctrl_c_at_the_terminal_ends_it_in_peace(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole group: exit code 0, not a word on stderr, no process
    left, no call unaccounted.
    """
    running = Demo.start(tmp_path)
    below = descendants(running.process.pid)
    for _ in range(3):
        assert ask(running, "viewer", "/api/task_list") == 200
    os.killpg(running.process.pid, signal.SIGINT)
    _, errors = running.process.communicate(timeout=PATIENCE)
    assert (running.process.returncode, errors) == (0, "")
    until(lambda: not any(map(runs, below)), "every process of the demo had ended")
    records = journal(running)
    assert records[-1]["stage"] == "closed"
    assert {r["seq"] for r in records if r.get("decision") == "allow"} == {
        r["decided_seq"] for r in records if r["stage"] == "completed"
    }
