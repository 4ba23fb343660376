"""Floods of refused calls against a running gate on default settings: the log stays small, and the
readers count every one of them.
"""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate
from tests.support.stage import FORM, clean_environment

FLOOD = 1000
RECORDED = 60  # of one principal in a minute
SMALL = 250_000  # bytes of the log; a record a refusal took more than a megabyte


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate before an upstream that answers everything."""
    upstream = RecordingLuigid()
    gate = Gate(
        tmp_path / "gate",
        [{"name": "luigi", "protocol": "luigi", "url": f"http://127.0.0.1:{upstream.port}"}],
        tls=False,
    ).start()
    yield gate
    upstream.end()


def flood(gate: Gate, role: str, path: str, body: bytes, status: int) -> set[str]:
    """Send one call `FLOOD` times; return the bodies of the refusals without their references."""
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=30)
    headers = {"Content-Type": FORM, "Authorization": f"Bearer {gate.token(role)}"}
    seen = set()
    for _ in range(FLOOD):
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        found = json.loads(response.read())
        assert response.status == status
        reference = found["error"]["ref"]
        assert reference
        seen.add(json.dumps(found).replace(reference, "REF"))
    connection.close()
    return seen


def test_a_flood_of_made_up_methods_hides_no_method_of_the_catalog(gate: Gate) -> None:
    """The reader that is asked for it finds each attempt, with the principal."""
    for number in range(RECORDED + 30):
        name = "made_up_" + "".join(chr(97 + int(digit)) for digit in str(number))
        assert gate.ask(f"/api/{name}", "viewer", b"data=%7B%7D").status == 403
    for _ in range(3):
        assert gate.ask("/api/pause", "viewer", b"data=%7B%7D").status == 403
    assert gate.stop() == 0
    lines = audit(gate, "query", "--method", "pause", "--json").splitlines()
    assert sum(json.loads(line)["calls"] for line in lines) == 3


def audit(gate: Gate, *arguments: str) -> str:
    """Run an audit verb on the log."""
    command = [sys.executable, "-m", "proxy.cli.main", "audit", *arguments]
    done = subprocess.run(
        [*command, "--dir", str(gate.audit)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("role", "path", "what"),
    [
        ("stranger", "/api/task_list", "no-role"),
        ("viewer", "/api/pause", "no-policy-allows"),
        ("viewer", "/api/no_such_method", "unknown-method"),
        ("viewer", "/api/add_task", "bad-arguments"),
    ],
)
def test_refusals_of_one_principal_do_not_fill_the_disk(
    gate: Gate, role: str, path: str, what: str
) -> None:
    """Without a role, by policy, for a method that there is not, and for arguments that are wrong:
    a bounded number of records, the same reply for a recorded and a counted call, all in the
    totals, and the log intact.
    """
    body = b"data=%7B%22task_id%22%3A%22" + b"x" * 2000 + b"%22%7D"
    if what == "bad-arguments":
        body = b"data=%7B%22worker%22%3A5%7D"
    elif what == "no-policy-allows":
        body = b"data=%7B%7D"
    replies = flood(gate, role, path, body, 400 if what == "bad-arguments" else 403)
    assert len(replies) == 1
    assert gate.stop() == 0
    assert sum(path.stat().st_size for path in (gate.audit / "gate").iterdir()) < SMALL
    refused = [r for r in gate.records() if r["stage"] in ("decided", "rejected")]
    own = [r for r in refused if "summary" not in r and "principal" in r]
    assert len(own) == RECORDED
    summaries = [r for r in refused if "summary" in r]
    assert 1 <= len(summaries) <= 2  # a minute may have ended meanwhile
    assert sum(r["summary"]["count"] for r in summaries) == FLOOD - RECORDED
    assert json.loads(audit(gate, "stats", "--json"))["refusals"][what] == FLOOD
    lines = audit(gate, "query", "--reason", what, "--json").splitlines()
    assert sum(json.loads(line)["calls"] for line in lines) == FLOOD
    assert f"{FLOOD:,}" in audit(gate, "report", "refusals")
    assert "INTACT" in audit(gate, "verify", "--key", str(gate.audit / "signing.pub"))
