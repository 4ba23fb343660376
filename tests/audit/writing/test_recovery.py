from pathlib import Path

import pytest

from proxy.audit.checking.verify import verify_log
from proxy.audit.format.checkpoint import parse, split
from proxy.audit.writing.keys import PUBLIC_KEYS, public_keys
from proxy.audit.writing.recovery import parse_micros, recover
from proxy.errors import ConfigError
from tests.support.audit import (
    ALLOW,
    HERE,
    WORKER,
    call,
    copy_of_v1,
    one,
    open_journal,
    raw_lines,
    records,
)


async def killed(directory: Path, calls: int = 3) -> bytes:
    """Leave a log as kill -9 leaves it, one call open, before a checkpoint; return its segment."""
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
    """After a kill the new process records it and closes the open calls in the same segment."""
    left = await killed(tmp_path)
    segment = tmp_path / "gate" / "00000001.jsonl"
    before = len(raw_lines(tmp_path / "gate"))
    await open_journal(tmp_path).close()
    opened, closed, ended = records(tmp_path / "gate")[before:]
    assert (opened["stage"], opened["recovered"]) == ("opened", {"torn_bytes": 0, "unknown": 1})
    assert (closed["stage"], closed["id"], closed["outcome"], closed["seq"]) == (
        "completed",
        "open",
        "unknown",
        before + 1,
    )
    assert ended["stage"] == "closed" and segment.read_bytes().startswith(left)


@pytest.mark.parametrize("step", [181, pytest.param(13, marks=pytest.mark.exhaustive)])
async def test_a_log_cut_at_any_byte_recovers(tmp_path: Path, step: int) -> None:
    """Wherever power was lost, complete records stay, the torn one moves to ``.cut``, and writing
    continues.
    """
    left = await killed(tmp_path, calls=1)
    log = tmp_path / "gate"
    for at in range(0, len(left) + 1, step):
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
            r["decided_seq"] for r in found if r["stage"] == "completed"
        }
        assert not still


@pytest.mark.parametrize(
    "tail", [b"\x00" * 300, b'{"v":1}\n', b"\xff\xfe\n", b'[1]\n{"v":1,"seq":3}\n', b"\n\n"]
)
async def test_garbage_after_the_last_record_is_cut(tmp_path: Path, tail: bytes) -> None:
    """Zeros, halves and lines that do not follow were never acknowledged, and are cut off."""
    left = await killed(tmp_path)
    segment = tmp_path / "gate" / "00000001.jsonl"
    segment.write_bytes(left + tail)
    state = recover(tmp_path / "gate")
    assert state.torn_bytes == len(tail) and segment.read_bytes() == left


async def test_missing_signed_records_are_damage_not_a_torn_tail(tmp_path: Path) -> None:
    """If a checkpoint covers more records than there are, the log is refused and not changed."""
    left = await killed(tmp_path)
    segment = tmp_path / "gate" / "00000001.jsonl"
    signed = parse(next(split((tmp_path / "gate" / "00000001.checkpoints").read_bytes()))).size
    short = b"\n".join(left.split(b"\n")[: signed - 1]) + b"\n"
    segment.write_bytes(short)
    with pytest.raises(ConfigError, match=f"covers {signed} records"):
        recover(tmp_path / "gate")
    assert segment.read_bytes() == short


def test_a_new_log_starts_empty(tmp_path: Path) -> None:
    """Without segments there is nothing to recover, and nothing is created."""
    assert recover(tmp_path).number == 0 and not list(tmp_path.iterdir())


def test_times_read_back() -> None:
    """Times read back to the microsecond."""
    assert parse_micros("2025-12-31T23:59:59.999999Z") == 1_767_225_599_999_999


@pytest.mark.parametrize("name", ["gate", "gate-2"])
async def test_a_log_of_version_1_is_continued_in_a_new_segment(tmp_path: Path, name: str) -> None:
    """An upgrade in place closes open calls, keeps every old byte, and writes version 2 only."""
    log = copy_of_v1(tmp_path / "audit") / name
    before = {path.name: path.read_bytes() for path in log.glob("*.jsonl*")}
    open_calls = recover(log).open
    old = records(log)
    journal = open_journal(tmp_path / "audit", name)
    await one(journal, 1)
    await journal.close()
    assert {name: (log / name).read_bytes() for name in before} == before
    header, opened, *rest = new = records(log)[len(old) :]
    assert {record["v"] for record in old} == {1} and {record["v"] for record in new} == {2}
    assert (header["stage"], header["segment"]) == ("segment", len(before) + 1)
    assert header["open"] == [[seq, call_id] for seq, call_id in open_calls.items()]
    assert opened["stage"] == "opened"
    assert [r["decided_seq"] for r in rest if r.get("outcome") == "unknown"] == list(open_calls)
    assert [r["seq"] for r in new] == list(range(len(old), len(old) + len(new)))
    found = verify_log(log, public_keys(tmp_path / "audit" / PUBLIC_KEYS))
    assert found.broken is None


async def test_a_segment_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    """An older program neither cuts nor continues the log of a later one."""
    await killed(tmp_path)
    segment = tmp_path / "gate" / "00000001.jsonl"
    later = segment.read_bytes().replace(b'{"v":2,', b'{"v":3,')
    segment.write_bytes(later)
    with pytest.raises(ConfigError, match="format version 3"):
        recover(tmp_path / "gate")
    assert segment.read_bytes() == later
