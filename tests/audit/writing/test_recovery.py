from pathlib import Path

import pytest

from proxy.audit.format.checkpoint import parse, split
from proxy.audit.writing.recovery import micros, recover
from proxy.errors import ConfigError
from tests.support.audit import ALLOW, HERE, WORKER, call, one, open_journal, raw_lines, records


async def killed(directory: Path, calls: int = 3) -> bytes:
    """Leave a log as kill -9 leaves it, before its next checkpoint: one call open, nothing closed.
    Return the segment's bytes.
    """
    journal = open_journal(directory)
    for n in range(calls):
        await one(journal, n)
    await journal.decide("open", WORKER, HERE, [(call(), ALLOW)], 0)
    left = {path: path.read_bytes() for path in (directory / "gate").iterdir()}
    await journal.close()
    for path, data in left.items():
        path.write_bytes(data)
    return left[directory / "gate" / "00000001.jsonl"]


async def test_open_calls_are_closed_as_unknown(tmp_path: Path) -> None:
    """After a kill the new process says so and closes what was open; sequence and tree go on in the
    same segment.
    """
    left = await killed(tmp_path)
    segment = tmp_path / "gate" / "00000001.jsonl"
    before = len(raw_lines(tmp_path / "gate"))
    await open_journal(tmp_path).close()
    opened, closed, ended = records(tmp_path / "gate")[before:]
    assert (opened["stage"], opened["recovered"]) == ("opened", {"cut": 0, "unknown": 1})
    assert (closed["stage"], closed["id"], closed["outcome"], closed["seq"]) == (
        "completed",
        "open",
        "unknown",
        before + 1,
    )
    assert ended["stage"] == "closed" and segment.read_bytes().startswith(left)


async def test_a_log_cut_at_every_byte_recovers(tmp_path: Path) -> None:
    """Wherever power was lost, whole records stay, the torn one is cut off, kept aside and noted,
    and writing goes on.
    """
    left = await killed(tmp_path, calls=1)
    log = tmp_path / "gate"
    for at in range(0, len(left) + 1, 29):
        for path in log.iterdir():
            path.unlink()
        (log / "00000001.jsonl").write_bytes(left[:at])
        whole = left[:at].rpartition(b"\n")[0]
        state = recover(log)
        assert state.tree.size == (whole.count(b"\n") + 1 if whole else 0)
        assert state.torn_bytes == at - (len(whole) + 1 if whole else 0)
        if state.torn_bytes:
            assert (log / "00000001.cut").read_bytes() == left[at - state.torn_bytes : at]
        await open_journal(tmp_path).close()
        found = records(log)
        assert [r["seq"] for r in found] == list(range(len(found)))
        still = {r["seq"] for r in found if r.get("decision") == "allow"} - {
            r["decided"] for r in found if r["stage"] == "completed"
        }
        assert not still


@pytest.mark.parametrize(
    "tail", [b"\x00" * 300, b'{"v":1}\n', b"\xff\xfe\n", b'[1]\n{"v":1,"seq":3}\n', b"\n\n"]
)
async def test_garbage_after_the_last_record_is_cut(tmp_path: Path, tail: bytes) -> None:
    """Zeros, halves and lines that do not follow, as file systems leave them, were never
    acknowledged, and are cut off.
    """
    left = await killed(tmp_path)
    segment = tmp_path / "gate" / "00000001.jsonl"
    segment.write_bytes(left + tail)
    state = recover(tmp_path / "gate")
    assert state.torn_bytes == len(tail) and segment.read_bytes() == left


async def test_missing_signed_records_are_damage_not_a_torn_tail(tmp_path: Path) -> None:
    """If a checkpoint covers more records than are there, the log is not touched and the gate does
    not start on it.
    """
    left = await killed(tmp_path)
    segment = tmp_path / "gate" / "00000001.jsonl"
    signed = parse(next(split((tmp_path / "gate" / "00000001.checkpoints").read_bytes()))).size
    short = b"\n".join(left.split(b"\n")[: signed - 1]) + b"\n"
    segment.write_bytes(short)
    with pytest.raises(ConfigError, match=f"covers {signed} records"):
        recover(tmp_path / "gate")
    assert segment.read_bytes() == short


def test_a_new_log_starts_empty(tmp_path: Path) -> None:
    """No segments: nothing to recover, and nothing is made."""
    assert recover(tmp_path).number == 0 and not list(tmp_path.iterdir())


def test_micros() -> None:
    """Times read back to the microsecond."""
    assert micros("2025-12-31T23:59:59.999999Z") == 1_767_225_599_999_999
