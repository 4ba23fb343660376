"""Keys that an issuer withdraws from its file, as a running gate on default settings sees it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.recording_luigid import RecordingLuigid
from tests.support.stack import Gate
from tests.support.stage import until

SEEN_SECONDS = 5.0  # in which a change of the file must have its effect


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
    assert gate.stop() == 0
    upstream.end()


def status(gate: Gate) -> int:
    """Call with a token that is cached as verified; return the status."""
    return gate.call("task_list", gate.token("viewer"), status="", upstream_status="").status


@pytest.mark.parametrize("how", ["emptied", "another key"])
def test_a_withdrawn_key_ends_cached_tokens_without_a_reload(gate: Gate, how: str) -> None:
    """Within seconds of the change of the file a token that passed before is refused, and passes
    again when its key is back.
    """
    path = gate.directory / "issuer" / "jwks.json"
    before = path.read_bytes()
    assert status(gate) == 200
    other = json.loads(before)["keys"][0] | {"kid": "another"}
    path.write_text(json.dumps({"keys": [] if how == "emptied" else [other]}))
    begun = time.monotonic()
    until(lambda: status(gate) == 401, "the token was refused")
    assert time.monotonic() - begun < SEEN_SECONDS
    path.write_bytes(before)
    until(lambda: status(gate) == 200, "the token passes again")


def test_a_removed_file_is_an_alarm_without_a_request(gate: Gate) -> None:
    """The log has an error within seconds, and the last good keys stay in use for the time being."""
    assert status(gate) == 200
    (gate.directory / "issuer" / "jwks.json").unlink()
    until(lambda: "issuer keys not read" in gate.process.text(), "the log says so")
    [line] = [line for line in gate.process.text().splitlines() if "issuer keys not read" in line]
    assert json.loads(line)["level"] == "error"
    assert status(gate) == 200
